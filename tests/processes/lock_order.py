"""A program that trains, batches and loses its connection, and prints which lock was taken while which was held.

Every lock that the package makes is watched: one line of JSON per pair, each lock as its module and its name there.
"""

from __future__ import annotations

import json
import re
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

Site = tuple[str, str]

PACKAGE = Path(__file__).parents[2] / "tellurio_sync"

pairs: set[tuple[Site, Site]] = set()
taken: set[Site] = set()
_held = threading.local()
_make_lock, _make_rlock = threading.Lock, threading.RLock


# Not a lock that is held: a thread waits for it until another one releases it.
SIGNALS = {("transport/websocket.py", "turn"), ("speedups.py", "_lock")}


def site_of_caller() -> Site | None:
    """The module, and the name that the line gives to the lock; None for a lock that is not one of the package's."""
    frame = sys._getframe(2)
    while frame is not None and frame.f_code.co_filename == threading.__file__:
        frame = frame.f_back  # Condition() makes its own lock
    if frame is None or not frame.f_code.co_filename.startswith(str(PACKAGE)):
        return None
    path = Path(frame.f_code.co_filename)
    line = path.read_text(encoding="utf-8").splitlines()[frame.f_lineno - 1]
    name = re.match(r"\s*(?:self\.)?(\w+).*(?:Lock|Condition|make)\(", line)
    if name is None or "testing" in path.parts:
        return None  # a lock inside a Thread or an Event
    site = path.relative_to(PACKAGE).as_posix(), "_condition" if name[1] == "part" else name[1]
    return None if site in SIGNALS else site


class WatchedLock:
    """A lock that notes what the thread holds when it is taken. The methods with ``_`` are for Condition."""

    def __init__(self, lock: Any, site: Site) -> None:
        self._lock = lock
        self._site = site

    def _note(self) -> None:
        stack = _held.__dict__.setdefault("stack", [])
        taken.add(self._site)
        if self not in stack:  # else it is taken again by the same thread
            pairs.update((other._site, self._site) for other in stack)
        stack.append(self)

    def _forget(self) -> None:
        stack = _held.__dict__.get("stack", [])
        if self in stack:
            stack.reverse()
            stack.remove(self)
            stack.reverse()

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        is_taken: bool = self._lock.acquire(blocking, timeout)
        if is_taken:
            self._note()
        return is_taken

    def release(self) -> None:
        self._forget()
        self._lock.release()

    def locked(self) -> bool:
        return bool(self._lock.locked())

    def _is_owned(self) -> bool:
        return self in _held.__dict__.get("stack", [])

    def _release_save(self) -> Any:
        self._forget()
        return self._lock._release_save() if hasattr(self._lock, "_release_save") else self._lock.release()

    def _acquire_restore(self, state: Any) -> None:
        self._lock._acquire_restore(state) if hasattr(self._lock, "_acquire_restore") else self._lock.acquire()
        self._note()

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


def watched(make: Callable[[], Any]) -> Callable[[], Any]:
    def make_watched() -> Any:
        site = site_of_caller()
        return make() if site is None else WatchedLock(make(), site)

    return make_watched


def train() -> None:
    """Everything that takes a lock: login, batches in threads, functions, callables, steps, lost connections."""
    import tempfile

    import tellurio_sync as te
    from tellurio_sync.testing import ScriptedBackend

    with (
        tempfile.TemporaryDirectory() as directory,
        ScriptedBackend(directory) as backend,
        backend.session() as session,
    ):
        session.login(backend.api_key)
        with session.init(project_display_name="Locks") as run:
            nested = te.CallableModel(lambda messages, **_: "<IMPROVED>better</IMPROVED>")
            te.set_backward_model_client(nested)
            prompt = te.Parameter("Be polite.", role="system prompt")
            optimizer = te.TGD([prompt], model_client=nested, momentum=2)

            def batches() -> None:
                with session.use():
                    for _ in range(5):
                        with te.batch():
                            made = te.variables([str(n) for n in range(20)], role="sample")
                            made[0].role = "first"

            threads = [threading.Thread(target=batches) for _ in range(4)]
            for thread in threads:
                thread.start()
            done = 0
            while done < 4:
                try:
                    optimizer.clear_grad()
                    with te.batch():
                        haste = te.Variable(" Now.", role="haste")
                    te.functional.add(prompt, haste).backward(te.Variable("Be kinder.", role="feedback"))
                    optimizer.step()
                    done += 1
                    run.log("done", done)
                    if done == 2:
                        backend.drop_connections()
                except te.ConnectionLost:
                    pass
            for thread in threads:
                thread.join()
            future = session.submit("get_variable", {"variable_id": prompt.variable_id})
            seen = threading.Event()
            future.add_done_callback(lambda _: seen.set())
            assert seen.wait(30)
            assert future.result(30)


if __name__ == "__main__":
    threading.Lock, threading.RLock = watched(_make_lock), watched(_make_rlock)  # type: ignore[misc, assignment]
    train()
    print(json.dumps({"taken": sorted(taken), "pairs": sorted(pairs)}))
