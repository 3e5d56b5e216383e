"""Requests that nobody waits for, and that go along with the next call of the same thread: no round trip of their own.

    clearing = Rider(link, optimizer, requests)     # is on board
    ... any call of this thread ...                 # the requests are sent with it, before it
    clearing.settle()                               # a call of its own only if there was none; raises what went wrong

A server handles requests in the order in which they come, so what is sent later by this thread sees what a rider has
done.  A rider may be sent again after a call that was cut off: its requests must be such that this changes nothing.
The call that takes it along does not fail because of it.

| State | Written by | Read by | Guarded by | Enforced by |
|---|---|---|---|---|
| what is on board: ``Registries.riders`` | any thread with a rider | the same | one C call each | – |
| ``_outcomes``, ``_cut_off`` of a rider | the same | the same | one store each | – |
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Sequence
from typing import Any

from ..errors import TellurioError, UsageError
from .batch.items import is_refusal
from .session_link import Admission, OnLate, SessionLink

Requests = list[tuple[str, dict[str, Any]]]
Board = dict[int, "dict[Hashable, Rider]"]
"""For each thread the riders that wait for its next call, in order, by what they belong to."""


class Rider:
    """Requests that wait for the next call of the thread that makes this.

    Args:
        link: the session.
        owner: one of an owner's is on board at most; a new one takes the place of the former.
        requests: gives them when they are sent. No id of an object changes from then until they are answered.
        take: called with the results, or the errors in place of them, when all are answered.
    """

    def __init__(
        self,
        link: SessionLink,
        owner: Hashable,
        requests: Callable[[], Requests],
        take: Callable[[list[Any]], None] = lambda outcomes: None,
    ) -> None:
        self._link = link
        self._owner = owner
        self._requests = requests
        self._take = take
        self._outcomes: list[Any] | None = None
        self._cut_off: TellurioError | None = None  # why they are missing, if they were sent
        self._thread = threading.get_ident()
        waiting = link.registries.riders.setdefault(self._thread, {})
        waiting.pop(owner, None)
        waiting[owner] = self

    def settle(self) -> list[Any]:
        """The results, for which this waits if they have not come with another call. By any thread, one at a time.

        Raises:
            TellurioError: the server refused one of the requests; or as ``TellurioWebSocketClient.call``, where this
                makes the call. After that it is still on board, unless the server has answered.
        """
        if self._outcomes is None:
            self._link.check_may_wait()
            admission = admitted(self._link, self._thread)
            try:
                admission.request_many([])
            finally:
                admission.leave()
        outcomes = self._outcomes
        if outcomes is None:
            if self._cut_off is not None:
                raise self._cut_off
            raise UsageError("This was begun again, or another thread is just making the call that takes it along.")
        for outcome in outcomes:
            if isinstance(outcome, TellurioError):
                raise outcome
        return outcomes

    def requests(self) -> Requests:
        """What is sent now."""
        return self._requests()

    def receive(self, outcomes: list[Any]) -> bool:
        """Take these; False: the connection was lost before all were answered."""
        errors = [outcome for outcome in outcomes if isinstance(outcome, TellurioError)]
        self._cut_off = next((error for error in errors if not is_refusal(error)), None)
        if self._cut_off is not None:
            return False
        self._outcomes = outcomes
        self._take(outcomes)
        return True

    def wait_again(self) -> None:
        """Be on board again, unless a later one of the same owner is."""
        self._link.registries.riders.setdefault(self._thread, {}).setdefault(self._owner, self)


def admitted(link: SessionLink, thread: int | None = None) -> Admission:
    """As ``link.admit()``; the next requests take along what is on board for this thread, or for another one."""
    admission = link.admit()
    waiting = link.registries.riders.pop(threading.get_ident() if thread is None else thread, None)
    return admission if not waiting else _Laden(admission, list(waiting.values()))


class _Laden:
    """An admission whose first requests take riders along (``session_link.Admission``)."""

    def __init__(self, admission: Admission, riders: list[Rider]) -> None:
        self._admission = admission
        self._riders = riders

    def request(self, method: str, params: dict[str, Any], on_reply: Callable[[], None], on_late: OnLate) -> Any:
        if not self._riders:
            return self._admission.request(method, params, on_reply, on_late)
        (outcome,) = self.request_many([(method, params)], on_reply, on_late)
        if isinstance(outcome, TellurioError):
            raise outcome
        return outcome

    def request_many(
        self,
        requests: Sequence[tuple[str, dict[str, Any]]],
        on_reply: Callable[[], None] | None = None,
        on_late: OnLate | None = None,
    ) -> list[Any]:
        riding = self._riding()
        sent = [*(request for _, each in riding for request in each), *requests]
        outcomes = iter(self._admission.request_many(sent, on_reply, on_late) if sent else [])
        # What fails before is tried again: by the next call, or by this one.
        self._riders = [rider for rider, each in riding if not rider.receive([next(outcomes) for _ in each])]
        return list(outcomes)

    def _riding(self) -> list[tuple[Rider, Requests]]:
        riding = []
        for rider in self._riders:
            try:
                riding.append((rider, rider.requests()))
            except TellurioError as exc:
                rider.receive([exc])
        return riding

    def leave(self) -> None:
        for rider in self._riders:  # no request was made, or it was cut off
            rider.wait_again()
        self._admission.leave()
