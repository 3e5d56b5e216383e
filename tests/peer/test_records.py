"""Handlers of log records are foreign code: whatever they do costs at most the record."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator

import pytest

import tellurio_sync as te
from tellurio_sync.peer.records import QueuedLog

from ..conftest import FAILSAFE, wait_until
from ..faults.scripted import ScriptedServer, ServerConnection

NAME = "tellurio_sync.peer"


class Handler(logging.Handler):
    """Does something with each record; what came is in ``texts``."""

    def __init__(self, do: Callable[[str], object] = lambda text: None) -> None:
        super().__init__(logging.DEBUG)
        self.texts: list[str] = []
        self._do = do

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())
        self._do(self.texts[-1])


@pytest.fixture
def handle() -> Iterator[Callable[[Handler], Handler]]:
    logger = logging.getLogger(NAME)
    level, added = logger.level, []
    logger.setLevel(logging.DEBUG)

    def add(handler: Handler) -> Handler:
        logger.addHandler(handler)
        added.append(handler)
        return handler

    yield add
    for handler in added:
        logger.removeHandler(handler)
    logger.setLevel(level)


def log_a_lot(far: ServerConnection) -> None:
    """Each request is answered behind what the client logs."""
    while far.close_code is None:
        request = far.receive()
        if far.close_code is not None:  # both came together: nothing can be sent any more
            return
        if "method" not in request:  # the client's answer to what is no JSON
            continue
        far.send({"jsonrpc": "2.0", "id": "unknown", "result": 1})
        far.send_text("no JSON")
        far.reply(request, request["params"])


def use(
    handler: Handler, add: Callable[[Handler], Handler], before: Callable[[te.TellurioWebSocketClient], None]
) -> None:
    with ScriptedServer(log_a_lot) as server:
        client = te.TellurioWebSocketClient("ws://127.0.0.1", server.port)
        client.connect("k", retries=1)
        before(client)
        add(handler)
        for number in range(3):
            params = {"run_uuid": "r", "n": number}
            assert client.call("m", params, timeout=FAILSAFE / 2)["result"] == params
        assert client.state == "open"
        wait_until(lambda: handler.texts, "nothing is logged")
        client.close()


def test_a_handler_that_raises_costs_its_record(
    handle: Callable[[Handler], Handler], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging, "raiseExceptions", False)

    def fail(text: str) -> None:
        raise RuntimeError(text)

    use(Handler(fail), handle, lambda client: None)


def test_a_handler_that_calls_the_client_gets_its_reply(handle: Callable[[Handler], Handler]) -> None:
    clients: list[te.TellurioWebSocketClient] = []
    replies: list[object] = []

    def call(text: str) -> None:
        if len(replies) < 3 and clients[0].state == "open":
            replies.append(clients[0].call("log", {"run_uuid": "r", "text": text}, timeout=FAILSAFE / 2)["result"])

    use(Handler(call), handle, clients.append)
    assert replies


def test_a_handler_that_takes_its_time_holds_nobody_up(handle: Callable[[Handler], Handler]) -> None:
    go_on = threading.Event()
    handler = Handler(lambda text: go_on.wait(FAILSAFE))
    try:
        use(handler, handle, lambda client: None)
    finally:
        go_on.set()


def test_what_finds_the_queue_full_is_counted(handle: Callable[[Handler], Handler]) -> None:
    entered, go_on = threading.Event(), threading.Event()

    def hold(text: str) -> None:
        entered.set()
        assert go_on.wait(FAILSAFE)

    handler = handle(Handler(hold))
    log = QueuedLog(NAME, most=2)
    log.info("first")
    assert entered.wait(FAILSAFE)
    for number in range(5):
        log.warning("%d", number)
    go_on.set()
    log.flush(FAILSAFE)
    assert handler.texts[:2] == ["first", "3 log records were dropped: the handlers take longer than new ones come"]
    assert handler.texts[2:] == ["0", "1"]


def test_records_say_when_and_by_whom_they_were_made(handle: Callable[[Handler], Handler]) -> None:
    records: list[logging.LogRecord] = []
    handler = handle(Handler())
    handler.emit = records.append  # type: ignore[method-assign]
    log = QueuedLog(NAME)
    try:
        raise ValueError("x")
    except ValueError:
        log.exception("failed: %s", 1)
    log.flush(FAILSAFE)
    (record,) = records
    assert (record.getMessage(), record.levelno, record.name) == ("failed: 1", logging.ERROR, NAME)
    assert record.threadName == threading.current_thread().name
    assert record.exc_info is not None
    assert record.exc_info[0] is ValueError
    log.debug("again, after the thread was idle")


def test_a_level_that_nobody_wants_makes_no_record() -> None:
    log = QueuedLog("tellurio_sync.nobody")
    log.debug("x")
    assert not log._queue._items
    assert not log._queue._thread
