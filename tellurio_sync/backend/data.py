"""The data of Variables: what is allowed, its normal form (protocol §F.2), its text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Union

from .refused import Refused

# str, int, float, bool, None, or a list of such, nested; recursive types cannot be spelt usefully.
Data = Any
Number = Union[int, float]

# The most characters that one request may make. References can repeat what was given at no cost, so without this
# limit a small request could use up the memory.
MAX_CHARS = 16 * 2**20


def normalised(data: Any) -> Data:
    """``data`` in its normal form; the same object if nothing has to change.

    Raises:
        Refused: it cannot be the data of a Variable: an object, or strings and numbers mixed in a list.
    """
    if not isinstance(data, list):
        if data is None or isinstance(data, (str, int, float)):
            return data
        raise Refused(f"The data of a Variable must be text, a number, null or a list of these, not {_kind(data)}.")
    kinds = {type(leaf) for leaf in _leaves(data)} - {type(None)}
    if str in kinds and len(kinds) > 1:
        raise Refused("The data of a Variable must not mix strings and numbers in a list.")
    if float in kinds and len(kinds) > 1:
        return _as_floats(data)
    return data


def _leaves(data: list[Any]) -> Iterator[Any]:
    for item in data:
        if isinstance(item, list):
            yield from _leaves(item)
        elif item is None or isinstance(item, (str, int, float)):
            yield item
        else:
            raise Refused(f"The data of a Variable must not hold {_kind(item)}.")


def _as_floats(data: Any) -> Any:
    if isinstance(data, list):
        return [_as_floats(item) for item in data]
    return None if data is None else float(data)


def _kind(value: Any) -> str:
    return "an object" if isinstance(value, dict) else type(value).__name__


def text(data: Data) -> str:
    """How data is written into a prompt. A missing sample (null) is empty."""
    if isinstance(data, str):
        return data
    return "" if data is None else str(data)


def chars(data: Data) -> int:
    """About how many characters ``data`` holds."""
    if isinstance(data, list):
        return sum(chars(item) + 1 for item in data)
    return len(data) if isinstance(data, str) else 0


def check_chars(count: int) -> None:
    """Return if a request may make this many characters.

    Raises:
        Refused: they are over :data:`MAX_CHARS`.
    """
    if count > MAX_CHARS:
        raise Refused(f"The result is too long: over {MAX_CHARS} characters.")


# --- batches ------------------------------------------------------------------------------------


def sample(data: Data, index: int) -> Data:
    """The part of ``data`` that belongs to one sample of a batch: an item of a list; a scalar serves all samples."""
    return data[index] if isinstance(data, list) else data


def items(texts: list[str]) -> str:
    """One ``<ITEM>`` per text, also for empty ones, so that they can be counted; nothing if all are empty."""
    return "".join(f"<ITEM>{item}</ITEM>" for item in texts) if any(texts) else ""


def per_sample(feedback: Data, size: int | None) -> list[str]:
    """Feedback on an output, as one text per sample; ``size`` is the length of the batch, None for a scalar.

    Raises:
        Refused: the list does not have the length of the batch.
    """
    if size is None:
        return [items([text(item) for item in feedback]) if isinstance(feedback, list) else text(feedback)]
    if not isinstance(feedback, list):
        return [text(feedback)] * size
    if len(feedback) != size:
        raise Refused(f"The gradient holds {len(feedback)} items for a batch of {size} samples.")
    return [text(item) for item in feedback]
