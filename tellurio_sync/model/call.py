"""One call of the object model to the server, or several in one round trip.

    with Call(link, changes=[variable]) as call:
        params = {"variable_id": variable.variable_id, ...}
        result = call.request("update_variable", params)
        ...                                              # apply the result on this side

Inside the block, from reading the first id to applying the result:
  * ids do not change: when a connection was lost and objects have to be made again on the server, they get their new
    ids only while no call is in progress (``session.restore``);
  * objects that the server pushes stay alive until the caller has taken them (``pushed``);
  * a push that changes one of ``changes`` can be taken back until the reply has come.

So a call that ends with ``ConnectionLost`` has not happened, as far as this side can see: no push is half applied.
What the server did with it is unknown, so ``changes`` are noted as *unsure*, and the next restore makes them again on
the server, as they are here.
"""

from __future__ import annotations

import logging
import os
import sysconfig
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from traceback import walk_tb
from typing import TYPE_CHECKING, Any

from ..errors import RemoteError, TellurioError
from ..ownership import Without, is_held
from .batch.block import settle_open_queue
from .batch.changes import UPDATE, Change, error_in
from .reply_checks import check_echo
from .riders import admitted
from .session_link import Admission, SessionLink

if TYPE_CHECKING:
    from typing_extensions import Self

log: logging.Logger = logging.getLogger(__name__)

_NOTHING: frozenset[int] = frozenset()
_PACKAGE = str(Path(__file__).parents[1]) + os.sep
_LIBRARIES = tuple({sysconfig.get_path(name) + os.sep for name in ("stdlib", "purelib", "platlib")})


class Call:
    """Context manager for one request, or several sent together. One thread must not nest two of them.

    Args:
        link: the session.
        changes: the Variables, models and optimizers whose state on the server the request changes.
        take_over: called with the result if that comes after the call was given up (Ctrl-C, a time-out): what else
            follows from it on this side. On the receive thread: it must not block.

    Attributes:
        ids: the addresses of ``changes``.
        is_begun: whether the request was made.
        is_answered: whether the reply has come; after that nothing is taken back.
        is_over: whether nothing more can come of it. A call that was given up goes on until its late reply: what it
            does on the server, it does here, too.
        ticket: its number in the registries.

    Entering sends what an open batch has queued (``batch.block``), and blocks while a lost connection is being
    restored; it raises as ``Queue.settle`` and ``SessionLink.admit``.

    A signal handler or a finaliser may make a call anywhere, also in the middle of a section of this same thread that
    holds the lock of the registries. From the beginning of the call to its end, the thread does not hold it: see
    ``ownership.Without``.
    """

    __slots__ = (
        "_admission",
        "_link",
        "_registries",
        "_take_over",
        "_without",
        "changes",
        "ids",
        "is_answered",
        "is_begun",
        "is_over",
        "ticket",
    )

    def __init__(
        self, link: SessionLink, changes: Iterable[Any] = (), take_over: Callable[[Any], None] | None = None
    ) -> None:
        self._link = link
        self._registries = link.registries
        self._take_over = take_over
        self.changes: tuple[Any, ...] = tuple(changes)
        self.ids: frozenset[int] = frozenset(map(id, self.changes)) if self.changes else _NOTHING
        self.is_begun: bool = False
        self.is_answered: bool = False
        self.is_over: bool = False
        self._without: Without | None = None

    def __enter__(self) -> Self:
        lock = self._registries.lock
        if is_held(lock):
            self._link.check_may_wait()  # before the receive thread gives it up
            self._without = Without(lock)
            self._without.__enter__()
        try:
            settle_open_queue(self._link)
            self._admission: Admission = admitted(self._link)
            self.ticket: int = self._registries.begin_call(self)
        except BaseException:
            self._take_lock_again()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, traceback: object) -> None:
        try:
            self._registries.end_call(self, exc)
        finally:
            try:
                self._admission.leave()
            finally:
                self._take_lock_again()

    def _take_lock_again(self) -> None:
        if self._without is not None:
            self._without.__exit__()

    def request(self, method: str, params: dict[str, Any]) -> Any:
        """Call the server and return the ``result`` of its reply; raises as ``Admission.request``."""
        self.is_begun = True
        try:
            return self._admission.request(method, params, self._on_reply, self._on_late)
        except RemoteError as exc:
            cause = self._cause_of(exc)
            if cause is None:
                raise
            exc.place = _place_of(cause)
            raise exc from cause

    def error(self, outcome: TellurioError) -> TellurioError:
        """The error that came in the place of a result of ``request_many``, to be raised as ``request`` raises it."""
        cause = self._cause_of(outcome)
        if cause is not None:
            outcome.__cause__ = cause
        return outcome

    def _cause_of(self, exc: TellurioError) -> BaseException | None:
        # It ran in this process: its traceback leads to the line of the user's that failed.
        return self._link.registries.failure_named_in(str(exc)) if isinstance(exc, RemoteError) else None

    def request_many(self, requests: Sequence[tuple[str, dict[str, Any]]]) -> list[Any]:
        """Call the server many times in one round trip; the results and errors, as ``Admission.request_many``."""
        self.is_begun = True
        return self._admission.request_many(requests, self._on_reply, self._on_late)

    def tell(self, changes: Sequence[Change]) -> None:
        """Tell the server of these changes, in one round trip, and apply those here that it accepts.

        Raises:
            RemoteError: the server refused one of them; the first such error.
            TellurioError: as ``TellurioWebSocketClient.call``; then none is applied.
        """
        if len(changes) == 1:
            (change,) = changes
            params = change.params()
            check_echo(UPDATE, self.request(UPDATE, params), params)
            change.apply()
            return
        sent = [change.params() for change in changes]
        outcomes = self.request_many([(UPDATE, params) for params in sent])
        errors = [error_in(outcome, params) for outcome, params in zip(outcomes, sent)]
        for error in errors:
            if error is not None and not isinstance(error, RemoteError):
                raise error
        for change, error in zip(changes, errors):
            if error is None:
                change.apply()
        for error in errors:
            if error is not None:
                raise error

    def leave_to_restore(self) -> None:
        """It was cut off, and does not fail by that: the restore sees to the server. See ``Registries``."""
        self._link.registries.leave_to_restore(self)

    def _on_reply(self) -> None:
        self._registries.settle_call(self)

    def _on_late(self, envelope: dict[str, Any]) -> None:
        if "result" not in envelope:
            self._link.registries.end_late(self, has_happened=False)
            return
        try:
            if self._take_over is not None:
                self._take_over(envelope["result"])
            else:
                self._link.registries.release_unseen(envelope["result"])
        except TellurioError as exc:
            log.warning("what a call has done that was given up cannot be taken over: %s", exc)
        finally:
            self._link.registries.end_late(self, has_happened=True)


def tell(link: SessionLink, changes: Sequence[Change]) -> None:
    """A call that tells the server of these changes: see ``Call.tell``. Where it is cut off, none is applied here."""
    for change in changes:
        change.wait_until_made()
    with Call(link, changes=[change.variable for change in changes]) as call:
        call.tell(changes)


def _place_of(cause: BaseException) -> str:
    """The user's function that has raised this, and its line; "" if it did not even begin."""
    place = ""
    for frame, line in walk_tb(cause.__traceback__):
        code = frame.f_code
        if not code.co_filename.startswith((_PACKAGE, *_LIBRARIES)):
            place = f"{code.co_name}, {os.path.basename(code.co_filename)} line {line}"
    return place
