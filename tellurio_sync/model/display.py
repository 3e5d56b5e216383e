"""How the data of a Variable is shown (PROTOCOL.md §F.1)."""

from __future__ import annotations

from .data import Data

_MAX_CHARS = 40
_EDGE_CHARS = 20
_MAX_ITEMS = 6
_EDGE_ITEMS = 3


def brief(data: Data) -> str:
    """``data`` for ``str()``: a long text by its first and last 20 characters, a long list by its first and last 3."""
    if isinstance(data, str):
        return data if len(data) <= _MAX_CHARS else f"{data[:_EDGE_CHARS]}...{data[-_EDGE_CHARS:]}"
    if isinstance(data, list):
        if len(data) <= _MAX_ITEMS:
            return f"[{', '.join(map(brief, data))}]"
        first, last = map(brief, data[:_EDGE_ITEMS]), map(brief, data[-_EDGE_ITEMS:])
        return f"[{', '.join(first)}, ..., {', '.join(last)}]"
    return str(data)
