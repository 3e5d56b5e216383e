"""Envelopes, order, heartbeats and sizes on the wire (protocol §A.2, §B, §C.1)."""

from __future__ import annotations

import base64
import os
import socket
import threading
from collections.abc import Callable
from typing import Any

import pytest
import websocket

from tellurio_sync.backend.connection import EXTENSIONS, MAX_INCOMING_BYTES

from .conftest import KEY, RunningBackend
from .rpc_client import FAILSAFE, RpcClient, RpcError, tag

Connect = Callable[..., RpcClient]


def test_the_greeting_names_the_session(rpc: RpcClient) -> None:
    assert rpc.greeting["jsonrpc"] == "2.0"
    assert rpc.greeting["id"] is None
    assert len(rpc.greeting["result"]["session_id"]) == 36


def test_the_greeting_says_what_else_the_backend_understands(rpc: RpcClient) -> None:
    """Extensions of the wire, which other clients need not look at, and the size beyond which a message ends all."""
    assert rpc.greeting["result"]["extensions"] == list(EXTENSIONS)
    assert rpc.greeting["result"]["max_message_size"] == MAX_INCOMING_BYTES


def test_the_greeting_leaves_with_the_handshake(backend: RunningBackend) -> None:
    """Protocol §A.2: one read gives both, each time."""
    for _ in range(50):
        with socket.create_connection(("127.0.0.1", backend.port), timeout=FAILSAFE) as sock:
            key = base64.b64encode(os.urandom(16)).decode()
            lines = [
                "GET /ws/v0/rpc/ HTTP/1.1",
                "Host: 127.0.0.1",
                "Upgrade: websocket",
                "Connection: Upgrade",
                f"Sec-WebSocket-Key: {key}",
                "Sec-WebSocket-Version: 13",
                f"Authorization: Api-Key {KEY}",
                "",
                "",
            ]
            sock.sendall("\r\n".join(lines).encode())
            first = sock.recv(65536)
            assert first.startswith(b"HTTP/1.1 101")
            assert b"session_id" in first


@pytest.mark.parametrize("key", ["None", "", KEY + "x"])
def test_a_bad_key_is_refused_before_the_upgrade(backend: RunningBackend, connect: Connect, key: str) -> None:
    with pytest.raises(websocket.WebSocketBadStatusException) as caught:
        connect(backend, key=key)
    assert caught.value.status_code == 401


@pytest.mark.parametrize(
    ("text", "request_id", "code", "data"),
    [
        ("{", None, -32700, None),
        ("[1]", None, -32600, None),
        ("3", None, -32600, {}),
        ('{"jsonrpc":"1.0","id":"a","method":"x"}', "a", -32600, {}),
        ('{"jsonrpc":"2.0","id":7,"method":"invalid_method"}', 7, -32601, {"method": "invalid_method"}),
        ('{"jsonrpc":"2.0","id":0,"method":"get_variable"}', 0, -32602, {"missing_key": "variable_id"}),
        ('{"jsonrpc":"2.0","id":"a","method":"get_variable","params":[1]}', "a", -32602, {}),
        ('{"jsonrpc":"2.0","id":"a","method":"clear_grad","params":{"run_uuid":1}}', "a", -32602, None),
        (
            '{"jsonrpc":"2.0","id":"a","method":"get_variable","params":{"variable_id":"x"}}',
            "a",
            -32603,
            {"exception": "Variable with variable_id 'x' not found"},
        ),
        ('{"jsonrpc":"2.0","id":NaN,"method":"nothing"}', None, -32600, None),
    ],
)
def test_errors(rpc: RpcClient, text: str, request_id: Any, code: int, data: Any) -> None:
    rpc.send_json(text)
    reply = rpc.reply(request_id)
    assert reply["error"]["code"] == code
    assert isinstance(reply["error"]["data"], dict)
    if data is not None:
        assert reply["error"]["data"] == data
    assert rpc.variable("still alive")


@pytest.mark.parametrize(
    "text",
    [
        '{"jsonrpc":"2.0","method":"nothing"}',
        '{"jsonrpc":"2.0","method":"get_variable","params":{}}',
        '{"jsonrpc":"2.0","id":null,"error":{"code":-32600,"message":"Missing required field: method"}}',
        '{"jsonrpc":"2.0","id":"unknown","result":1}',
        '{"jsonrpc":"2.0","id":99999,"result":1}',
    ],
)
def test_what_wants_no_answer_gets_none(rpc: RpcClient, text: str) -> None:
    rpc.send_json(text)
    rpc.variable("x")
    assert rpc.pushes() == ["reply"]


def test_requests_take_effect_in_order_without_waiting(rpc: RpcClient) -> None:
    """Pipelined: a function sees what was sent before it, not what was sent after it."""
    variable = rpc.variable("a", "x", True)
    ids = [
        rpc.send("update_variable", variable_id=variable["variable_id"], field="data", value="b"),
        rpc.send("run_function", function_name="Add", args=[variable, variable], kwargs={}, grad_enabled=True),
        rpc.send("update_variable", variable_id=variable["variable_id"], field="data", value="c"),
    ]
    assert rpc.result(ids[1])["data"]["data"] == "bb"
    assert rpc.result(ids[2])["value"] == "c"


def test_a_long_request_blocks_nobody(backend: RunningBackend, rpc: RpcClient, connect: Connect) -> None:
    """While a function of one request has not answered, others are served, on both connections."""
    other = connect(backend)
    evaluate = {"__callable__": True, "callable_id": "slow"}
    prediction = rpc.variable("a")
    args = [prediction, "a", evaluate, "exact match", None, None, None]
    slow = rpc.send("run_function", function_name="DeterministicEvaluator", args=args, kwargs={}, grad_enabled=True)
    nested: list[Any] = []

    def answer(p: str, t: str) -> int:
        # The function itself uses the backend: nothing may wait for the request that called it.
        inner = rpc.send(
            "run_function", function_name="Add", args=[prediction, prediction], kwargs={}, grad_enabled=False
        )
        nested.append(rpc.result(inner)["data"]["data"])
        nested.append(other.variable("b"))
        return 1

    rpc.functions["slow"] = answer
    assert rpc.result(slow)["data"][0]["data"] == 1
    assert nested[0] == "aa"


def test_the_first_heartbeat_comes_at_once_and_more_follow(
    start_backend: Callable[..., RunningBackend], connect: Connect
) -> None:
    rpc = connect(start_backend(heartbeat_interval=0.01))
    args = [rpc.variable("a"), "a", rpc.function(int, "slow"), "exact match", None, None, None]

    def answer(p: str, t: str) -> int:
        for _ in range(3):
            rpc.until("heartbeat")
        return 1

    rpc.functions["slow"] = answer
    # The second time shows that the heartbeats of the first ended with it.
    for _ in range(2):
        rpc.frames = []
        request_id = rpc.send(
            "run_function", function_name="DeterministicEvaluator", args=args, kwargs={}, grad_enabled=False
        )
        rpc.result(request_id)
        assert rpc.frames[0] == {"jsonrpc": "2.0", "method": "heartbeat", "params": {"id": request_id}}
        assert {params["id"] for params in rpc.pushed("heartbeat")} == {request_id}


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("run_function", {"function_name": "Nothing", "args": [], "kwargs": {}, "grad_enabled": True}),
        ("run_backward", {"variables": {"__variable__": True, "variable_id": "x"}}),
        ("run_step", {"optimizer_id": "x"}),
        ("run_optimizer_tgd", {"params": [], "grads": [], "momentum_buffer_list": [[]]}),
    ],
)
def test_failing_long_requests_beat_and_answer(rpc: RpcClient, method: str, params: dict[str, Any]) -> None:
    with pytest.raises(RpcError):
        rpc.call(method, **params)
    assert rpc.pushes() == ["heartbeat", "reply"]


def test_a_failing_function_of_the_client_says_why(rpc: RpcClient) -> None:
    def fails(prediction: str, target: str) -> int:
        raise ValueError("no such colour")

    function = rpc.function(fails, "fails")
    prediction = rpc.variable("green")
    with pytest.raises(RpcError) as caught:
        rpc.run("DeterministicEvaluator", prediction, "red", function, "exact match", None, None, None)
    assert caught.value.error["code"] == -32603
    assert caught.value.text == "callable: no such colour"


def test_a_client_that_leaves_ends_its_requests(backend: RunningBackend, connect: Connect) -> None:
    leaving, staying = connect(backend), connect(backend)
    evaluate = {"__callable__": True, "callable_id": "slow"}
    args = [leaving.variable("a"), "a", evaluate, "exact match", None, None, None]
    leaving.send("run_function", function_name="DeterministicEvaluator", args=args, kwargs={}, grad_enabled=True)
    leaving.functions["slow"] = lambda p, t: leaving.close()
    with pytest.raises((OSError, websocket.WebSocketException)):
        leaving.until("run_callable")
    assert staying.variable("x")


def test_a_client_that_leaves_before_its_request_began(backend: RunningBackend, connect: Connect) -> None:
    """Nothing is left unawaited, which would be a warning, and so an error here."""
    for _ in range(20):
        leaving = connect(backend)
        x = leaving.variable("a")
        for _ in range(20):
            leaving.send("run_function", function_name="Add", args=[x, x], kwargs={}, grad_enabled=False)
        leaving.close()
    assert connect(backend).variable("x")


def test_a_client_that_does_not_read_holds_up_nobody(backend: RunningBackend, connect: Connect) -> None:
    """Neither the other clients nor the end of the backend."""
    deaf, other = connect(backend), connect(backend)
    large = deaf.variable("x" * 1_000_000)
    for _ in range(64):
        deaf.send("get_variable", variable_id=large["variable_id"])
    assert other.variable("y")
    backend.stop()


def test_a_reply_over_the_limit_becomes_a_clear_error(rpc: RpcClient) -> None:
    half = rpc.variable("x" * 600_000)
    assert len(rpc.get(half)["data"]) == 600_000
    with pytest.raises(RpcError) as caught:
        rpc.run("Add", half, half)
    assert "1048576 bytes" in caught.value.text
    assert "X-Tellurio-Max-Message-Size" in caught.value.text


def test_a_client_may_announce_that_it_takes_more(backend: RunningBackend, connect: Connect) -> None:
    rpc = connect(backend, X_Tellurio_Max_Message_Size=str(8 * 2**20))
    large = rpc.variable("ä" * 2_000_000)
    assert len(rpc.run("Add", large, large)["data"]) == 4_000_000


def test_the_limit_counts_bytes(rpc: RpcClient) -> None:
    variable = rpc.variable("")

    def update(value: str) -> Any:
        return rpc.call("update_variable", variable_id=variable["variable_id"], field="data", value=value)["value"]

    fits = "ä" * (2**19 - 500)
    assert update(fits) == fits
    with pytest.raises(RpcError):
        update("ä" * 2**19)


def test_ids_outlive_the_connection(backend: RunningBackend, connect: Connect) -> None:
    first = connect(backend)
    variable = first.variable("kept", "x", True)
    output = tag(first.run("Add", variable, variable))
    first.close()
    second = connect(backend)
    second.backward(output)
    assert len(second.gradients(variable)) == 2


def test_many_clients_at_once(backend: RunningBackend, connect: Connect) -> None:
    """Nothing is lost or crossed between connections."""
    clients = [connect(backend) for _ in range(8)]
    failures: list[BaseException] = []

    def work(number: int, rpc: RpcClient) -> None:
        try:
            tags = [rpc.variable(f"{number}-{i}") for i in range(50)]
            assert [rpc.get(tag)["data"] for tag in tags] == [f"{number}-{i}" for i in range(50)]
        except BaseException as exc:  # noqa: BLE001 - shown by the test
            failures.append(exc)

    threads = [threading.Thread(target=work, args=item) for item in enumerate(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(FAILSAFE)
    assert failures == []
