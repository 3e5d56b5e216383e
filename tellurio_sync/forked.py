"""What a forked child renews: the one place where this package learns of a fork.

A forked child has one thread.  Locks that other threads held at the fork stay locked in it for ever, and what those
threads were doing never ends.  So every object that has a lock, or for which threads work, is registered here when it
is made, and renewed in the child before any other code runs there.  Each object renews only what belongs to it alone,
so the order does not matter.

| State | Written by | Read by | Guarded by | Enforced by |
|---|---|---|---|---|
| what is registered | any thread | the child, which has one thread | each change is one step of a dict | – |
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Protocol
from weakref import WeakKeyDictionary


class Renewable(Protocol):
    """What a forked child must renew."""

    def renew_after_fork(self) -> None:
        """Called in the child, before any other code. Must neither block nor raise."""


_objects: WeakKeyDictionary[Renewable, None] = WeakKeyDictionary()
_functions: list[Callable[[], None]] = []


def renew(item: Renewable) -> None:
    """Renew ``item`` in forked children, as long as it lives. Thread-safe, does not block."""
    _objects[item] = None


def leave_alone(item: Renewable) -> None:
    """Do not renew ``item`` any more, because it is closed. Thread-safe, does not block."""
    _objects.pop(item, None)


def renew_by(function: Callable[[], None]) -> None:
    """Call ``function`` in forked children: for the state of a module."""
    _functions.append(function)


def _in_child() -> None:
    for function in _functions:
        function()
    for reference in _objects.keyrefs():  # a copy, made by one C call, as `ownership.alive` does it
        item = reference()
        if item is not None:
            item.renew_after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
