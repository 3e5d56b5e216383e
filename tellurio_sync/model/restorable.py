"""What a restore needs of the objects that exist here and on the server: Variables, models and optimizers.

Their classes are the user's, whose names must stay few, so each of them implements this with private methods; the rest
of the package uses the functions of this module.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .session_link import SessionLink


class Restorable:
    """An object that the server has under an id, and that can be made again there."""

    __slots__ = ()

    # Why it cannot be used with the server any more; None: it can.
    _lost: str | None

    def _creation(self) -> dict[str, Any]:
        raise NotImplementedError

    def _renewed(self, link: SessionLink, new_id: str) -> None:
        raise NotImplementedError

    def _mark_lost(self, reason: str) -> None:
        raise NotImplementedError

    def _check_not_lost(self) -> None:
        raise NotImplementedError

    def _check_may_share(self, link: SessionLink) -> None:
        pass

    def _reference(self) -> dict[str, Any]:
        raise NotImplementedError

    def _uses(self) -> set[Restorable]:
        return set()


def creation(item: Restorable) -> dict[str, Any]:
    """The parameters that make on the server what this is here now."""
    return item._creation()


def renewed(item: Restorable, link: SessionLink, new_id: str) -> None:
    """The server has made it again, under this id. No call may be under way."""
    item._renewed(link, new_id)


def mark_lost(item: Restorable, reason: str) -> None:
    """It cannot be used with the server any more, for this reason, which its user is told."""
    item._mark_lost(reason)


def lost_reason(item: Restorable) -> str | None:
    """Why it cannot be used with the server any more; None: it can."""
    return item._lost


def check_not_lost(item: Restorable) -> None:
    """Return if it can be used with the server.

    Raises:
        UsageError: it cannot; ConnectionLost: it can be computed again.
    """
    item._check_not_lost()


def check_may_share(item: Restorable, link: SessionLink) -> None:
    """Return if it may be sent to the server of this session; raises UsageError if not."""
    item._check_may_share(link)


def reference(item: Restorable) -> dict[str, Any]:
    """How the server is told of it (protocol §E.1); raises UsageError if the server does not know it."""
    return item._reference()


def uses(item: Restorable) -> set[Restorable]:
    """The objects that the server's one refers to: it must be made again when one of them is."""
    return item._uses()
