"""HTML that cannot be made wrong: what is not :class:`Html` already is escaped."""

from __future__ import annotations

from html import escape
from typing import Union

# Elements of HTML that have no end tag.
_VOID = frozenset({"input", "link", "meta"})


class Html(str):
    """A text that is HTML already; only constants are turned into it outside of this module."""

    __slots__ = ()


Content = Union[str, int, Html, None]


def text(content: Content) -> Html:
    """``content`` as HTML; None is nothing."""
    if isinstance(content, Html):
        return content
    return Html("" if content is None else escape(str(content)))


def join(*content: Content) -> Html:
    """Contents one after another."""
    return Html("".join(map(text, content)))


def tag(name: str, /, *content: Content, **attributes: str | float | bool | None) -> Html:
    """An element.

    Args:
        name: what it is; also of SVG.
        content: what it holds; escaped unless it is :class:`Html`.
        attributes: ``class_`` is ``class``, ``aria_label`` is ``aria-label``; True is an attribute without a
            value, None and False are no attribute.
    """
    parts = [name]
    for key, value in attributes.items():
        label = key.rstrip("_").replace("_", "-")
        if value is True:
            parts.append(label)
        elif value is not None and value is not False:
            parts.append(f'{label}="{escape(str(value))}"')
    opening = " ".join(parts)
    if name in _VOID:
        return Html(f"<{opening}>")
    return Html(f"<{opening}>{join(*content)}</{name}>")
