"""JSON objects in what a model wrote, as loosely as models write them.

Borne: text around and between objects, fences, thoughts, line breaks and other control characters in strings,
trailing commas, comments, ``True``/``False``/``None``, strings in single quotes, escapes that JSON does not know, and
(only where nothing else was found) quotation marks inside a string.  Not borne: an object that does not end, and what
would need guessing.

Linear: where an object breaks off, the search goes on from there; only a few times from just behind its brace.
"""

from __future__ import annotations

import math
import re
from typing import Any

from .thoughts import end_of_thoughts, next_tag

# Objects and lists inside each other; no answer of a form of ours needs more.
MAX_DEPTH = 60

_MAX_RESTARTS = 4

_BLANKS = re.compile(r"[ \t\r\n\f\v\u00a0\u200b\ufeff]*")
_PLAIN = {'"': re.compile(r'[^"\\]*'), "'": re.compile(r"[^'\\]*")}
# Bounded, and followed by nothing that could make it go back.
_NUMBER = re.compile(r"-?[0-9]{1,400}(?:\.[0-9]{1,400})?(?:[eE][+-]?[0-9]{1,5})?")
_WORD = re.compile(r"[A-Za-z]{1,10}")
_WORDS = {"true": True, "false": False, "null": None, "none": None}
_ESCAPES = {'"': '"', "'": "'", "\\": "\\", "/": "/", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
_HEX = re.compile(r"[0-9a-fA-F]{4}")
_AFTER_STRING = frozenset(",:}]")


class _Broken(Exception):
    """Here is no JSON any more.

    Attributes:
        at: where.
        in_first_key: before the first colon, so that the brace did not begin an object at all.
    """

    def __init__(self, at: int) -> None:
        super().__init__(at)
        self.at = at
        self.in_first_key = False


def objects(text: str, *, inner_quotes: bool = False) -> list[dict[str, Any]]:
    """The complete objects in ``text`` that are in no other one and in no thoughts, in order.

    Where a mark closes thoughts that nothing opened, what came before it does not count either; nor what came before an
    object that broke off.

    Args:
        text: any text.
        inner_quotes: a quotation mark ends a string only where something follows that may follow a string.
    """
    found: list[dict[str, Any]] = []
    at, restarts = 0, 0
    start, tag = text.find("{"), next_tag(text, 0)
    while start >= 0:
        if tag is not None and tag.start < start:
            if tag.closing is None:
                found.clear()
                at = tag.end
            else:
                end = end_of_thoughts(text, tag.closing, tag.end)
                if end is None:
                    break
                at = end
        else:
            try:
                one, at = _Reader(text, inner_quotes).object(start)
            except _Broken as exc:
                if exc.in_first_key and restarts < _MAX_RESTARTS:
                    at = start + 1
                    restarts += 1
                else:
                    at = max(exc.at, start + 1)
                if not exc.in_first_key:
                    # This was meant to be the form: those before it were drafts of it.
                    found.clear()
            else:
                found.append(one)
        if start < at:
            start = text.find("{", at)
        if tag is not None and tag.start < at:
            tag = next_tag(text, at)
    if tag is not None and tag.closing is None:
        found.clear()
    return found


class _Reader:
    """Reads one value after another; each method gives the value and where it ends."""

    def __init__(self, text: str, inner_quotes: bool) -> None:
        self._text = text
        self._inner_quotes = inner_quotes

    def object(self, start: int, depth: int = 0) -> tuple[dict[str, Any], int]:
        found: dict[str, Any] = {}
        at = self._blank(start + 1)
        while self._char(at) != "}":
            try:
                key, at = self._key(at)
            except _Broken as exc:
                exc.in_first_key = depth == 0 and not found
                raise
            found[key], at = self._value(at, depth)
            at = self._after_item(at, "}")
        return found, at + 1

    def _key(self, at: int) -> tuple[str, int]:
        """A key; the end is where its value begins."""
        key, at = self._string(at)
        at = self._blank(at)
        if self._char(at) != ":":
            raise _Broken(at)
        return key, self._blank(at + 1)

    def _list(self, start: int, depth: int) -> tuple[list[Any], int]:
        found: list[Any] = []
        at = self._blank(start + 1)
        while self._char(at) != "]":
            value, at = self._value(at, depth)
            found.append(value)
            at = self._after_item(at, "]")
        return found, at + 1

    def _after_item(self, at: int, end: str) -> int:
        at = self._blank(at)
        if self._char(at) == ",":
            return self._blank(at + 1)
        if self._char(at) != end:
            raise _Broken(at)
        return at

    def _value(self, at: int, depth: int) -> tuple[Any, int]:
        char = self._char(at)
        if char in ("{", "["):
            if depth >= MAX_DEPTH:
                raise _Broken(len(self._text))  # What is inside is a part of it, and no object of its own.
            return self.object(at, depth + 1) if char == "{" else self._list(at, depth + 1)
        if char in _PLAIN:
            return self._string(at)
        if number := _NUMBER.match(self._text, at):
            return self._number(number), number.end()
        if (word := _WORD.match(self._text, at)) and word[0].lower() in _WORDS:
            return _WORDS[word[0].lower()], word.end()
        raise _Broken(at)

    def _number(self, found: re.Match[str]) -> int | float:
        digits = found[0]
        if digits.lstrip("-").isdigit():
            return int(digits)
        value = float(digits)
        if not math.isfinite(value):
            raise _Broken(found.end())
        return value

    def _string(self, at: int) -> tuple[str, int]:
        quote = self._char(at)
        plain = _PLAIN.get(quote)
        if plain is None:
            raise _Broken(at)
        parts: list[str] = []
        at += 1
        while True:
            chunk = plain.match(self._text, at)
            assert chunk is not None
            parts.append(chunk[0])
            at = chunk.end()
            if at >= len(self._text):
                raise _Broken(at)
            if self._text[at] == "\\":
                escaped, at = self._escape(at)
                parts.append(escaped)
            elif self._ends_string(quote, at + 1):
                return "".join(parts), at + 1
            else:
                parts.append(quote)
                at += 1

    def _ends_string(self, quote: str, after: int) -> bool:
        if quote == '"' and not self._inner_quotes:
            return True
        # Blanks are few here, or it is no JSON: looking far ahead at each quotation mark would not be linear.
        for char in self._text[after : after + 40]:
            if not char.isspace():
                return char in _AFTER_STRING
        return False

    def _escape(self, at: int) -> tuple[str, int]:
        char = self._char(at + 1)
        if char == "u" and (code := _HEX.match(self._text, at + 2)):
            return self._character(int(code[0], 16), at + 6)
        if char in _ESCAPES:
            return _ESCAPES[char], at + 2
        # "\d" or "\{": what JSON does not know was meant as it stands.
        return "\\", at + 1

    def _character(self, code: int, at: int) -> tuple[str, int]:
        """What ``\\u....`` means: of two halves one character, of a half alone the one that stands for a broken one."""
        if not 0xD800 <= code < 0xE000:
            return chr(code), at
        if code < 0xDC00 and self._text.startswith("\\u", at) and (low := _HEX.match(self._text, at + 2)):
            second = int(low[0], 16)
            if 0xDC00 <= second < 0xE000:
                return chr(0x10000 + ((code - 0xD800) << 10) + (second - 0xDC00)), at + 6
        return "\ufffd", at

    def _blank(self, at: int) -> int:
        """Where the next sign is, blanks and comments left out."""
        while True:
            found = _BLANKS.match(self._text, at)
            assert found is not None
            at = found.end()
            if self._text.startswith("//", at):
                at = self._past("\n", at)
            elif self._text.startswith("/*", at):
                at = self._past("*/", at)
            else:
                return at

    def _past(self, mark: str, at: int) -> int:
        found = self._text.find(mark, at)
        if found < 0:
            raise _Broken(len(self._text))
        return found + len(mark)

    def _char(self, at: int) -> str:
        return self._text[at : at + 1]
