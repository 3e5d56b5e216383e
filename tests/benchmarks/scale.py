"""What an operation costs beside many pending calls, threads or Variables: ``python scale.py CORE PEER``.

As ``worker``, whose measurements it has too. Times in seconds of the processor, of all threads of this process: so
the load of other processes disturbs less, and what is done in vain by another thread is seen.
"""

from __future__ import annotations

import gc
import itertools
import os
import time
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

from peers import PUSHED
from worker import Worker, serve

CHUNK = 1000
TIMEOUT = 0.5


class Link:
    """Stands for a session: every Variable is accepted at once, so that what is measured is this side."""

    pending_timeout = 1.0
    is_local = True
    extensions: frozenset[str] = frozenset()

    def __init__(self) -> None:
        from tellurio_sync.model.registries import Registries

        self.registries = Registries(self)  # type: ignore[arg-type]

    def admit(self) -> Link:
        return self

    def leave(self) -> None:
        pass

    def request(self, method: str, params: dict[str, Any], on_reply: Callable[[], None], on_late: Any = None) -> Any:
        on_reply()
        return {"variable_id": new_id()}

    def check_may_wait(self) -> None:
        pass


class ScaleWorker(Worker):
    """The measurements of a size; each leaves nothing behind."""

    def pending(self, waiting: int, calls: int) -> dict[str, float]:
        """Each of ``calls`` calls while ``waiting`` others wait for their replies, in every way a call can go."""
        held = self._peer.hold_submitted(waiting)
        gc.collect()
        called = self.round_trip(calls)["cpu"]
        start = time.process_time()
        self._peer.submit_all(calls)
        answered = (time.process_time() - start) / calls
        start = time.process_time()
        more = self._peer.hold_submitted(calls)
        submitted = time.process_time()
        for future in more:
            future.cancel()
        cancelled = time.process_time()
        for future in held:
            future.cancel()
        return {
            "call": called,
            "answered": answered,
            "submit": (submitted - start) / calls,
            "cancel": (cancelled - submitted) / calls,
        }

    def expire(self, count: int) -> dict[str, float]:
        """Each of ``count`` calls that get no reply in time, from its beginning to its end."""
        gc.collect()
        start = time.process_time()
        self._peer.expire_submitted(count, TIMEOUT)
        submitted = time.process_time()
        self._peer.expire_waiting(count, TIMEOUT)
        return {"submitted": (submitted - start) / count, "waiting": (time.process_time() - submitted) / count}

    def variables(self, count: int) -> dict[str, float]:
        """Each of ``count`` Variables that are all alive: made, used and let go, and its bytes."""
        # Small sizes often, for the clock's sake.
        repetitions = max(1, 50_000 // count)
        times: dict[str, float] = {}
        for is_collected in (True, False):
            gc.collect()
            (gc.enable if is_collected else gc.disable)()
            for _ in range(repetitions):
                for step, seconds in self._live_through(count):
                    name = f"{step}, gc" if is_collected else step
                    times[name] = times.get(name, 0.0) + seconds / count / repetitions
        gc.enable()
        return times

    def bytes(self, count: int) -> float:
        """Bytes for each of ``count`` Variables that the server has pushed, with its id, without data and role."""
        link = Link()
        kept: list[Any] = [None] * count
        gc.collect()
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            self._push(link, kept)
            gc.collect()
            return (tracemalloc.get_traced_memory()[0] - before) / count
        finally:
            tracemalloc.stop()

    def _live_through(self, count: int) -> Iterator[tuple[str, float]]:
        from tellurio_sync import Variable
        from tellurio_sync.client import server_methods
        from tellurio_sync.model.session_link import use_link

        link = Link()
        kept: list[Any] = [None] * count
        yield "push", self._push(link, kept)

        ids = [variable.variable_id for variable in kept]
        start = time.process_time()
        for id_ in ids:
            server_methods.update_variable(link, {"variable_id": id_, "field": "data", "value": "Another mail."})
        yield "update", time.process_time() - start

        # What a session keeps while no call runs is not to be freed later.
        link.registries.end_call(*begun_call(link))
        start = time.process_time()
        kept.clear()
        yield "release", time.process_time() - start
        assert len(link.registries.variables) == 0

        with use_link(link):  # type: ignore[arg-type]
            start = time.process_time()
            kept = [Variable("The air conditioning in office 12 has stopped.", "input") for _ in range(count)]
            yield "construct", time.process_time() - start

    @staticmethod
    def _push(link: Link, kept: list[Any]) -> float:
        """Fill ``kept`` with Variables as the server pushes them; the seconds, without those for making the params."""
        from tellurio_sync.client import server_methods

        seconds = 0.0
        create, lookup = server_methods.create_variable, link.registries.variables.lookup
        for first in range(0, len(kept), CHUNK):
            many = [{**PUSHED, "variable_id": new_id()} for _ in range(min(CHUNK, len(kept) - first))]
            start = time.process_time()
            for at, params in enumerate(many, first):
                create(link, params)
                kept[at] = lookup(params["variable_id"])
            seconds += time.process_time() - start
        return seconds


def begun_call(link: Link) -> tuple[Any, None]:
    """A call that has just begun, for ``Registries.end_call``."""
    from tellurio_sync.model.call import Call

    call = Call(link)  # type: ignore[arg-type]
    call.ticket = link.registries.begin_call(call)
    return call, None


_numbers = itertools.count(1)
_prefix = os.urandom(4).hex()


def new_id() -> str:
    """As long as a uuid."""
    return f"{_prefix}-0000-4000-8000-{next(_numbers):012x}"


if __name__ == "__main__":
    serve(ScaleWorker)
