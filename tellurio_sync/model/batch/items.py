"""The items of a queue: a Variable to be made, and a change that is already applied here (``queue``).

Both have what sending needs: ``method`` and ``params``; ``receive``, which takes the answer; ``fail``, for the case
that no answer comes; and a description, by ``str``.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from ...errors import LocalProtocolError, RemoteError, RemoteProtocolError, TellurioError, UsageError, describe
from ..reply_checks import id_member
from ..restorable import creation
from ..variable_state import is_refused, made, refused, session_of, set_local
from .changes import CREATE, MADE_WITH, UPDATE, Change, error_in

if TYPE_CHECKING:
    from ..variable import Variable

_ABSENT = object()


def is_refusal(error: BaseException) -> bool:
    """Whether the error concerns one item, and not the connection."""
    # The subclasses of UsageError concern the connection.
    return isinstance(error, (RemoteError, RemoteProtocolError, LocalProtocolError)) or type(error) is UsageError


def _leaves_doubt(error: BaseException) -> bool:
    """Whether it is unknown if the server has done it. After Ctrl-C, too, the request may have been sent."""
    is_certain = is_refusal(error) and not isinstance(error, RemoteProtocolError)
    return not is_certain and getattr(error, "was_sent", True)


class Creation:
    """The making of a Variable on the server. It stays queued until that has succeeded or was refused."""

    __slots__ = ("_variable",)
    method = CREATE
    is_told = False

    def __init__(self, variable: Variable) -> None:
        self._variable = variable

    def params(self) -> dict[str, Any]:
        """The parameters of ``create_variable``, for what the Variable is now."""
        return creation(self._variable)

    def receive(self, outcome: Any, sent: dict[str, Any]) -> TellurioError | None:
        """Take the result, or the error in its place; returns the error."""
        try:
            if isinstance(outcome, TellurioError):
                raise outcome
            made(self._variable, session_of(self._variable), id_member(CREATE, outcome, "variable_id"))
        except TellurioError as exc:
            self.fail(exc)
            return exc
        return None

    def fail(self, error: BaseException) -> None:
        """It was not made, because of this error."""
        if is_refusal(error):
            refused(self._variable, f"{self} was refused when its batch was sent, so make a new one: {error}")

    def __str__(self) -> str:
        return describe(self._variable)


class QueuedChange:
    """A plain change that is applied here before the server is asked.

    The changes of one attribute form a chain. So whichever of them the server refuses, the value here becomes the one
    that the server has.

    Args:
        change: the change.
        lock: the lock of the queue, which guards the chain.
    """

    __slots__ = ("_before", "_local", "_lock", "_next", "change")
    method = UPDATE

    def __init__(self, change: Change, lock: threading.RLock) -> None:
        self.change: Change = change
        self._lock = lock
        self._local = change.local_value()
        self._before: Any = _ABSENT
        self._next: QueuedChange | None = None

    def apply(self, former: QueuedChange | None) -> None:
        """Apply it here.

        Args:
            former: the change of the same attribute that is queued before it.
        """
        with self._lock:
            self._before = self._present()
            if former is not None:
                former._next = self
            set_local(self.change.variable, self.change.name, self._local)

    @property
    def is_told(self) -> bool:
        """Whether the user learns of the failure by the failure of the Variable."""
        return is_refused(self.change.variable)

    def is_made_with(self, variables: set[Variable]) -> bool:
        """Whether it needs no separate request, because its Variable is among these, and is made with it."""
        return self.change.field in MADE_WITH and self.change.variable in variables

    def params(self) -> dict[str, Any]:
        """As ``Change.params``."""
        return self.change.params()

    def receive(self, outcome: Any, sent: dict[str, Any]) -> TellurioError | None:
        """Take the result, or the error in its place; returns the error."""
        error = error_in(outcome, sent)
        if error is None:
            self._confirm()
        else:
            self.fail(error)
        return error

    def fail(self, error: BaseException) -> None:
        """Take the change back because of this error; note if it is unknown whether the server has applied it."""
        self.take_back()
        if _leaves_doubt(error):
            session_of(self.change.variable).registries.mark_unsure([self.change.variable])

    def take_back(self) -> None:
        """Undo the change here: the server does not have it."""
        with self._lock:
            if self._next is not None:
                if self._next._before is self._local:
                    self._next._before = self._before
            elif self._present() is self._local:
                self._restore()

    def _confirm(self) -> None:
        # On the server it counts now, even if the attribute was set here in another way meanwhile.
        with self._lock:
            if self._next is not None:
                self._next._before = self._local
            elif self._present() is not self._local:
                set_local(self.change.variable, self.change.name, self._local)

    def _present(self) -> Any:
        return getattr(self.change.variable, self.change.name, _ABSENT)

    def _restore(self) -> None:
        if self._before is _ABSENT:
            object.__delattr__(self.change.variable, self.change.name)
        else:
            set_local(self.change.variable, self.change.name, self._before)

    def __str__(self) -> str:
        return describe(self.change)
