"""Signs of life of long calls, and that they never disturb."""

from __future__ import annotations

import contextlib
import io
import itertools
import logging
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import tellurio_sync as te
from tellurio_sync import console, long_calls
from tellurio_sync.long_calls import CallProgress

from .conftest import FAILSAFE, wait_until
from .session.conftest import backend, make_session, session  # noqa: F401 - fixtures


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class BriefClock:
    """In the place of ``time``: goes on a little with each reading, and no further than to what is shown as 0 s."""

    def __init__(self) -> None:
        self._readings = itertools.count()

    def monotonic(self) -> float:
        return min(0.02 * next(self._readings), 0.4)


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Everything is long, and the thread of a test ends with it."""
    monkeypatch.setattr(long_calls, "time", BriefClock())
    for name, seconds in (("_FIRST", 0.0), ("_TICK", 0.01), ("_IDLE", 0.05)):
        monkeypatch.setattr(long_calls, name, seconds)
    monkeypatch.setattr(console, "_is_quiet", True)
    yield
    wait_until(lambda: long_calls._thread is None, "the thread that shows did not end")
    assert not long_calls._watches


@contextlib.contextmanager
def under_way(watch: long_calls.Watch | None, told: dict[str, Any]) -> Iterator[None]:
    """The call lasts as long as this block. The server has told of it before it is shown."""
    assert watch is not None
    with contextlib.ExitStack() as stack:
        with long_calls._changed:  # the thread that shows waits for it
            stack.enter_context(watch)
            long_calls.note({"id": "1", "progress": watch.token, **told})
        yield


def reported(until: Callable[[list[CallProgress]], object], told: dict[str, Any] | None = None) -> list[Any]:
    """What a callback is told of one call that lasts until ``until`` of what it was told."""
    seen: list[CallProgress] = []
    end = te.on_progress(seen.append)
    with under_way(long_calls.watch("run_backward"), told or {}):
        wait_until(lambda: until(seen), "nothing was reported")
    wait_until(lambda: seen[-1].is_over, "its end was not reported")
    end()
    return seen


def test_a_callback_is_told_what_the_server_tells() -> None:
    seen = reported(len, {"done": 7, "total": 40, "tokens": 1234, "cost": 0.5, "note": "waits 20 s:\n rate"})
    assert str(seen[0]) == "backward: 0 s, 7 of 40 answered, 1,234 tokens, $0.5000, waits 20 s: rate"
    assert not seen[0].is_over
    assert seen[-1].is_over


def test_the_end_is_told_of_a_call_that_ends_as_it_is_shown_first(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[CallProgress] = []
    end = te.on_progress(seen.append)
    watch = long_calls.watch("run_backward")
    assert watch is not None
    show = long_calls.Watch.show

    def end_and_show(watch: long_calls.Watch, *args: Any, **options: Any) -> None:
        if not options:
            watch.__exit__()
        show(watch, *args, **options)

    monkeypatch.setattr(long_calls.Watch, "show", end_and_show)
    watch.__enter__()
    wait_until(lambda: len(seen) >= 2, "its end was not reported")
    assert [one.is_over for one in seen] == [False, True]
    end()


@pytest.mark.parametrize(
    "nonsense",
    [
        {"done": "7", "total": None},
        {"done": -1, "total": True, "tokens": 1.5},
        {"cost": "much", "note": ["a"]},
        {"done": 3},
    ],
)
def test_what_a_server_tells_wrongly_is_left_out(nonsense: dict[str, Any]) -> None:
    assert str(reported(len, nonsense)[0]) == "backward: 0 s"


def test_a_token_that_is_none_of_ours_changes_nothing() -> None:
    for token in ("unknown", 1, None, ["a"]):
        long_calls.note({"id": "1", "progress": token, "done": 1})


def test_in_quiet_mode_without_a_callback_there_is_not_even_a_thread() -> None:
    assert long_calls.watch("run_backward") is None
    assert long_calls._thread is None


def test_a_callback_that_fails_is_logged_once_and_called_no_more(caplog: pytest.LogCaptureFixture) -> None:
    calls = []

    def broken(progress: CallProgress) -> None:
        calls.append(progress)
        raise ValueError("no screen")

    te.on_progress(broken)
    reported(lambda seen: len(seen) > 2)
    assert len(calls) == 1
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "no screen" in caplog.text


def test_what_is_no_function_is_refused() -> None:
    with pytest.raises(TypeError, match="on_progress takes a function, not str"):
        te.on_progress("bar")  # type: ignore[arg-type]


# --- at the screen -----------------------------------------------------------------------------------


def drawn(monkeypatch: pytest.MonkeyPatch, screen: Any, until: Callable[[], object], **told: Any) -> None:
    monkeypatch.setattr(console, "_is_quiet", False)
    monkeypatch.setattr(sys, "stderr", screen)
    with under_way(long_calls.watch("run_function"), told):
        wait_until(until, "nothing was drawn")
    wait_until(lambda: long_calls._thread is None, "the thread did not end")


def test_a_terminal_shows_a_bar_that_goes_when_the_call_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tqdm")
    screen = Terminal()
    told = {"done": 7, "total": 40, "tokens": 1234, "note": "waits"}
    drawn(monkeypatch, screen, lambda: "waits" in screen.getvalue(), **told)
    assert "forward: 7 of 40 answered" in screen.getvalue()
    assert "1,234 tokens, waits" in screen.getvalue()
    assert screen.getvalue().rsplit("\r", 2)[-2].strip() == ""  # wiped out
    assert "\n" not in screen.getvalue()


def test_a_server_that_tells_nothing_shows_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tqdm")
    screen = Terminal()
    drawn(monkeypatch, screen, lambda: "forward: 00:00" in screen.getvalue())
    assert "answered" not in screen.getvalue()


def test_where_there_is_no_screen_a_line_comes_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(long_calls, "_FIRST_LINE", 0.02)
    screen = io.StringIO()
    drawn(monkeypatch, screen, lambda: screen.getvalue().count("\n") >= 2, done=1, total=2)
    assert set(screen.getvalue().splitlines()) == {"forward: 0 s, 1 of 2 answered"}


@pytest.mark.parametrize("kind", ["closed", "full"])
def test_no_screen_is_an_error(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = threading.Event()

    class Broken(Terminal):
        def write(self, text: str) -> int:
            tried.set()
            raise OSError(28, "No space left on device") if kind == "full" else ValueError("closed")

    drawn(monkeypatch, Broken(), tried.is_set, done=1, total=2)


def test_a_call_that_was_interrupted_as_it_began_is_not_shown_for_ever() -> None:
    end = te.on_progress(lambda progress: None)
    watch = long_calls.watch("run_step")
    assert watch is not None
    watch.__enter__()
    del watch  # without its end
    end()


# --- loops --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("quiet", [True, False])
def test_a_loop_gets_its_items_and_perhaps_a_bar(quiet: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tqdm")
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setattr(console, "_is_quiet", quiet)
    assert list(te.progress([1, 2, 3], "epoch 1")) == [1, 2, 3]
    assert list(te.progress(iter("ab"))) == ["a", "b"]
    assert ("epoch 1: 100%" in screen.getvalue()) is not quiet


def test_what_the_loader_raises_is_raised() -> None:
    def loader() -> Iterator[int]:
        yield 1
        raise KeyError("sample")

    items = te.progress(loader())
    assert next(items) == 1
    with pytest.raises(KeyError, match="sample"):
        next(items)


# --- with the local backend ---------------------------------------------------------------------------


def test_a_real_call_tells_how_many_questions_are_answered(session: te.Session) -> None:  # noqa: F811
    asked, go_on = threading.Semaphore(0), threading.Event()

    def model(messages: list[dict[str, str]], **options: Any) -> str:
        if messages[-1]["content"] == "b":
            go_on.wait(FAILSAFE)
        asked.release()
        return "answer"

    seen: list[CallProgress] = []
    end = te.on_progress(seen.append)
    lm = te.CallableModel(model)
    chat = [{"role": "user", "content": [te.Variable("{text}", role="text")]}]
    watcher = threading.Thread(
        target=lambda: (
            wait_until(lambda: any((one.done, one.total) == (2, 3) for one in seen), "never 2 of 3"),
            go_on.set(),
        )
    )
    watcher.start()
    try:
        answers = te.functional.chat_completion(lm, chat, inputs={"text": ["a", "b", "c"]})
    finally:
        go_on.set()
        watcher.join(FAILSAFE)
    assert answers.data == ["answer"] * 3
    wait_until(lambda: seen[-1].is_over, "its end was not reported")
    assert {one.name for one in seen} == {"forward"}
    assert any((one.done, one.total) == (2, 3) for one in seen)
    end()


def test_a_server_without_the_extension_gets_no_token(
    make_session: Any,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tellurio_sync.backend.connection.EXTENSIONS", ("session",))
    sent: list[dict[str, Any]] = []
    session = make_session()  # noqa: F811
    session.login("key-of-this-test")
    call_on = type(session.client).call_on
    monkeypatch.setattr(
        type(session.client), "call_on", lambda *args, **more: (sent.append(args[3]), call_on(*args, **more))[1]
    )
    end = te.on_progress(lambda progress: None)
    with session.use(), session.init(None, "Old"):
        te.functional.sum([te.Variable("a"), te.Variable("b")])
    end()
    assert sent
    assert not any("progress" in params for params in sent)


def test_what_waits_for_another_try_is_said() -> None:
    from tellurio_sync.backend.progress import progress_of

    for params in ({}, {"progress": 1}, {"progress": ""}, {"progress": "x" * 101}):
        assert progress_of(params) is None
    progress = progress_of({"progress": "t"})
    assert progress is not None
    first, second = progress.began(), progress.began()
    progress.waits(first, "waits 3 s: rate")
    assert progress.told() == {"progress": "t", "done": 0, "total": 2, "note": "waits 3 s: rate"}
    progress.waits(second, "waits 9 s: server")
    assert progress.told()["note"] == "waits 9 s: server (and 1 more)"
    progress.waits(second, "")
    progress.waits(first, "")
    assert "note" not in progress.told()
