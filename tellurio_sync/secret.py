"""A key that does not show itself."""

from __future__ import annotations

from typing import NoReturn, TypeVar

T = TypeVar("T")


class Secret(str):
    """A text, but its ``repr`` hides it, and it is not pickled.

    Debuggers and error reporters show the variables of each frame of a traceback by their ``repr``.  So where a key
    is in a variable of ours, it is one of these.  (As any ``str``, it is itself in an f-string or on the wire.)
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'"

    def __reduce__(self) -> NoReturn:
        raise TypeError("A key is not pickled.")


def hidden(value: T) -> T | Secret:
    """A text as a :class:`Secret`; anything else, which is no key, as it is."""
    return Secret(value) if isinstance(value, str) else value
