"""A key that does not show itself."""

from __future__ import annotations

from typing import NoReturn, TypeVar

T = TypeVar("T")


class Secret(str):
    """A text, but its ``repr`` hides it, and it is not pickled.

    Debuggers and error reporters show the variables of each frame of a traceback by their ``repr``.  So every variable
    of this package that holds a key holds a ``Secret``.  (In an f-string, and on the wire, it is the plain text.)
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'"

    def __reduce__(self) -> NoReturn:
        raise TypeError("A key is not pickled.")


def hidden(value: T) -> T | Secret:
    """A text as a :class:`Secret`; any other value, which cannot be a key, unchanged."""
    return Secret(value) if isinstance(value, str) else value
