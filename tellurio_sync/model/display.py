"""How the data of a Variable is shown (protocol §F.1)."""

from __future__ import annotations

from .data import Data

_MAX_CHARS = 40
_EDGE_CHARS = 20
_MAX_ITEMS = 6
_EDGE_ITEMS = 3


def brief(data: Data, within: tuple[int, ...] = ()) -> str:
    """``data`` for ``str()``: a long text by its first and last 20 characters, a long list by its first and last 3.

    Args:
        within: the addresses of the lists that this is shown in: one that contains itself is shown as ``[...]``.
    """
    if isinstance(data, str):
        return data if len(data) <= _MAX_CHARS else f"{data[:_EDGE_CHARS]}...{data[-_EDGE_CHARS:]}"
    if not isinstance(data, list):
        return str(data)
    if id(data) in within:
        return "[...]"
    within = (*within, id(data))
    if len(data) <= _MAX_ITEMS:
        return f"[{', '.join(brief(item, within) for item in data)}]"
    first = [brief(item, within) for item in data[:_EDGE_ITEMS]]
    last = [brief(item, within) for item in data[-_EDGE_ITEMS:]]
    return f"[{', '.join(first)}, ..., {', '.join(last)}]"
