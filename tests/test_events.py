"""Callbacks for events are foreign code: whatever they do costs at most the event."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator

import pytest

import tellurio_sync as te
from tellurio_sync import events
from tellurio_sync.events import Event

from .conftest import FAILSAFE


@pytest.fixture(autouse=True)
def nobody_listens() -> Iterator[None]:
    assert events.LISTENERS == []
    yield
    events.flush(FAILSAFE)
    events.LISTENERS.clear()


def tell(count: int = 1) -> None:
    for number in range(count):
        events.tell(Event("heartbeat", "ws://server", text=str(number)))


def test_an_event_is_told_on_a_thread_of_its_own_in_order() -> None:
    heard: list[tuple[str, str]] = []
    te.on_event(lambda event: heard.append((event.text, threading.current_thread().name)))
    tell(3)
    events.flush(FAILSAFE)
    assert heard == [(str(n), "tellurio-sync events") for n in range(3)]


@pytest.mark.parametrize("error", [ValueError("mine"), SystemExit(3), KeyboardInterrupt()])
def test_a_callback_that_raises_is_logged_and_called_no_more(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    calls: list[Event] = []
    heard: list[Event] = []

    def fails(event: Event) -> None:
        calls.append(event)
        raise error

    te.on_event(fails)
    te.on_event(heard.append)
    with caplog.at_level(logging.WARNING, "tellurio_sync"):
        tell(2)
        events.flush(FAILSAFE)
    assert (len(calls), len(heard)) == (1, 2)
    assert [record.message for record in caplog.records] == ["A callback of on_event failed, and is not called again."]


def test_a_slow_callback_holds_nobody_up_and_misses_what_finds_the_queue_full(
    caplog: pytest.LogCaptureFixture,
) -> None:
    heard: list[str] = []
    go_on = threading.Event()

    def slow(event: Event) -> None:
        heard.append(event.text)
        assert go_on.wait(FAILSAFE)

    te.on_event(slow)
    with caplog.at_level(logging.WARNING, "tellurio_sync"):
        tell(events.MOST_EVENTS + 100)
        go_on.set()
        events.flush(FAILSAFE)
    assert events.MOST_EVENTS <= len(heard) <= events.MOST_EVENTS + 1
    assert sum(record.args[0] for record in caplog.records) == events.MOST_EVENTS + 100 - len(heard)  # type: ignore[index, misc]


def test_the_returned_function_ends_it_and_may_be_called_twice() -> None:
    heard: list[Event] = []
    stop = te.on_event(heard.append)
    stop()
    stop()
    tell()
    events.flush(FAILSAFE)
    assert heard == []


@pytest.mark.parametrize("value", [None, 3, "print"])
def test_what_cannot_be_called_is_refused(value: object) -> None:
    with pytest.raises(TypeError, match="on_event takes a function, not"):
        te.on_event(value)  # type: ignore[arg-type]
