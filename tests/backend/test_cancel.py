"""Nobody waits any more: what a call still asks is not asked, and nothing of it is seen (protocol §K.2)."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from tellurio_sync.backend.connection import REQUEST_CANCELLED
from tellurio_sync.backend.engine.concurrency import AT_ONCE
from tellurio_sync.backend.lm.lingering import Lingering

from .conftest import RunningBackend
from .lm_endpoint import LmEndpoint
from .rpc_client import FAILSAFE, RpcClient, tag
from .scripted import model_answer, run

Connect = Callable[..., RpcClient]

MAILS = [f"mail {i}" for i in range(40)]


class Held:
    """A model whose answers are held back; which of its questions have come is seen on the wire."""

    def __init__(self, rpc: RpcClient) -> None:
        self.rpc = rpc
        rpc.functions["held"] = model_answer
        result = rpc.call(
            "create_model", class_type="CallableModel", provider="callable", config={"callable_id": "held"}, usage={}
        )
        self.tag = {"__model_client__": True, "model_id": result["model_id"]}

    def begin(self, method: str, **params: Any) -> str:
        """Send a request, and wait for its first question, which stays unanswered."""
        self.rpc.frames = []
        answer, self.rpc._answer = self.rpc._answer, lambda frame: {}  # type: ignore[method-assign]
        sent = self.rpc.send_json
        self.rpc.send_json = lambda message: None if message.keys() == {"jsonrpc", "id"} else sent(message)  # type: ignore[method-assign]
        try:
            request_id = self.rpc.send(method, **params)
            self.rpc.until("run_callable")
        finally:
            self.rpc._answer = answer  # type: ignore[method-assign]
            self.rpc.send_json = sent  # type: ignore[method-assign]
        return request_id

    def asked(self) -> int:
        return len(self.rpc.pushed("run_callable"))


def cancel(rpc: RpcClient, request_id: Any) -> None:
    rpc.send_json({"jsonrpc": "2.0", "method": "cancel", "params": {"id": request_id}})


def chat(rpc: RpcClient, held: Held) -> dict[str, Any]:
    question = rpc.variable("{mail}", "mail")
    return {
        "function_name": "ChatCompletion",
        "args": [held.tag, [{"role": "user", "content": [question]}], {"mail": MAILS}],
        "kwargs": {},
        "grad_enabled": True,
    }


class TestAForwardCall:
    def test_no_more_is_asked_and_the_reply_says_so(self, rpc: RpcClient) -> None:
        held = Held(rpc)
        request_id = held.begin("run_function", **chat(rpc, held))
        cancel(rpc, request_id)
        error = rpc.reply(request_id)["error"]
        assert (error["code"], error["message"]) == (REQUEST_CANCELLED, "Request cancelled")
        assert "it changed nothing" in error["data"]["exception"]
        asked = held.asked()
        assert asked < len(MAILS)
        rpc.variable("and the connection goes on")
        assert "run_callable" not in rpc.pushes()

    def test_no_heartbeat_follows(self, start_backend: Callable[..., RunningBackend], connect: Connect) -> None:
        rpc = connect(start_backend(heartbeat_interval=0.01))
        held = Held(rpc)
        request_id = held.begin("run_function", **chat(rpc, held))
        cancel(rpc, request_id)
        rpc.reply(request_id)
        rpc.frames = []
        for _ in range(20):
            rpc.result(rpc.send("create_variable", data="x", role="", requires_grad=False))
        assert "heartbeat" not in rpc.pushes()


class TestAStep:
    @pytest.fixture
    def held(self, rpc: RpcClient) -> Held:
        return Held(rpc)

    @pytest.fixture
    def parameter(self, rpc: RpcClient) -> dict[str, Any]:
        parameter = rpc.variable("at first", "prompt", requires_grad=True, parameter=True)
        gradient = rpc.variable("better, please", "feedback")
        rpc.call("append_grad", variable_id=parameter["variable_id"], gradient=gradient)
        return parameter

    def test_it_is_wholly_dropped(self, rpc: RpcClient, held: Held, parameter: dict[str, Any]) -> None:
        optimizer = rpc.call(
            "create_optimizer",
            optimizer_name="TGD",
            params=[parameter],
            defaults={"model_client": held.tag, "momentum": 2},
        )["optimizer_id"]
        request_id = held.begin("run_step", optimizer_id=optimizer)
        cancel(rpc, request_id)
        assert rpc.reply(request_id)["error"]["code"] == REQUEST_CANCELLED
        assert set(rpc.pushes("reply", "heartbeat", "run_callable", "update_model")) == set()
        assert rpc.get(parameter)["data"] == "at first"
        # It can be made once more, and remembers nothing of the one before.
        state = rpc.call("run_step", optimizer_id=optimizer)["state"]
        assert len(state[0]["value"]["momentum_buffer"]) == 1
        assert rpc.get(parameter)["data"] == "at first, better"

    def test_once_it_was_made_it_is_too_late(self, rpc: RpcClient, held: Held, parameter: dict[str, Any]) -> None:
        optimizer = rpc.call(
            "create_optimizer", optimizer_name="TGD", params=[parameter], defaults={"model_client": held.tag}
        )["optimizer_id"]
        rpc.frames = []
        request_id = rpc.send("run_step", optimizer_id=optimizer)
        assert "state" in rpc.result(request_id)
        cancel(rpc, request_id)
        assert rpc.get(parameter)["data"] == "at first, better"
        assert [frame for frame in rpc.frames if "error" in frame] == []


def test_a_backward_pass_can_be_tried_again(rpc: RpcClient) -> None:
    held = Held(rpc)
    rpc.set_backward_model(held.tag)
    parameter = rpc.variable("p", "prompt", requires_grad=True, parameter=True)
    output = tag(rpc.run("ChatCompletion", held.tag, [{"role": "user", "content": [parameter]}]))
    gradient = rpc.variable("bad", "feedback")
    request_id = held.begin("run_backward", variables=output, grad_variables=gradient, retain_graph=None)
    cancel(rpc, request_id)
    assert rpc.reply(request_id)["error"]["code"] == REQUEST_CANCELLED
    assert rpc.get(parameter)["grad"] == []
    rpc.backward(output, gradient)
    assert len(rpc.get(parameter)["grad"]) == 1


@pytest.mark.parametrize("request_id", ["nothing", None, 5, 1.5, True, [], {}, "request-1"])
def test_what_does_not_run_is_not_cancelled(rpc: RpcClient, request_id: Any) -> None:
    """Also request-1, which has ended: no reply comes to a notification."""
    rpc.variable("x")
    rpc.frames = []
    cancel(rpc, request_id)
    rpc.send_json({"jsonrpc": "2.0", "method": "cancel", "params": {}})
    rpc.variable("y")
    assert rpc.pushes() == ["reply"]


def test_another_clients_requests_are_not_cancelled(backend: RunningBackend, connect: Connect) -> None:
    one, two = connect(backend), connect(backend)
    held = Held(one)
    request_id = held.begin("run_function", **chat(one, held))
    cancel(two, request_id)
    two.variable("x")
    one.variable("y")
    assert all("error" not in frame for frame in one.frames)


class TestAClientThatIsGone:
    def test_its_calls_end_with_the_connection(self, backend: RunningBackend, connect: Connect) -> None:
        one = connect(backend, X_Tellurio_Session="new")
        held = Held(one)
        held.begin("run_function", **chat(one, held))
        assert running(backend) == 2
        one.close()
        until(lambda: running(backend) == 0)

    def test_and_at_the_latest_when_it_comes_back(self, backend: RunningBackend, connect: Connect) -> None:
        """As after a network that died without a word: the former connection is open as far as this end can tell."""
        one = connect(backend, X_Tellurio_Session="new")
        held = Held(one)
        held.begin("run_function", **chat(one, held))
        other = connect(backend, X_Tellurio_Session="new")
        assert running(backend) == 2
        again = connect(backend, X_Tellurio_Session=one.greeting["result"]["session_id"])
        again.variable("x")
        until_nothing_runs(backend)
        other.close()

    def test_who_shares_a_session_does_not_end_the_others_calls(
        self, backend: RunningBackend, connect: Connect
    ) -> None:
        one = connect(backend)
        held = Held(one)
        held.begin("run_function", **chat(one, held))
        connect(backend).variable("x")
        assert running(backend) == 2


def until_nothing_runs(backend: RunningBackend) -> None:
    """Return when all tasks have ended; fail if that takes too long."""
    deadline = time.monotonic() + FAILSAFE
    while running(backend):
        assert time.monotonic() < deadline, "a call still runs"


def running(backend: RunningBackend) -> int:
    """Tasks of all connections: two for each long call."""
    counts: list[int] = []
    done = threading.Event()

    def count() -> None:
        counts.append(sum(len(connection._tasks) for connection in backend._backend._connections))
        done.set()

    backend._loop.call_soon_threadsafe(count)
    assert done.wait(FAILSAFE)
    return counts[0]


def until(is_reached: Callable[[], bool]) -> None:
    waited = threading.Event()
    for _ in range(int(FAILSAFE * 100)):
        if is_reached():
            return
        waited.wait(0.01)
    pytest.fail("it did not come to that")


class TestTheBill:
    def test_what_was_asked_is_booked_when_its_answer_comes(self, rpc: RpcClient) -> None:
        """To the token; and nothing is asked for the rest of the batch."""
        may_answer = threading.Event()

        def answer(request: dict[str, Any]) -> str:
            assert may_answer.wait(FAILSAFE)
            return "late"

        with LmEndpoint(answer) as endpoint:
            result = rpc.call(
                "create_model", class_type="OpenAI", provider="openai", config={"base_url": endpoint.url}, usage={}
            )
            model = {"__model_client__": True, "model_id": result["model_id"]}
            question = rpc.variable("{mail}", "mail")
            args = [model, [{"role": "user", "content": [question]}], {"mail": MAILS}]
            request_id = rpc.send(
                "run_function", function_name="ChatCompletion", args=args, kwargs={"model": "m"}, grad_enabled=True
            )
            until(lambda: len(endpoint.requests) == AT_ONCE)
            cancel(rpc, request_id)
            assert rpc.reply(request_id)["error"]["code"] == REQUEST_CANCELLED
            rpc.frames = []
            may_answer.set()
            while True:
                usage = rpc.until("update_model")["params"]["value"]
                if usage["total_tokens"] == 15 * AT_ONCE:
                    break
            rpc.variable("the connection goes on")
            assert len(endpoint.requests) == AT_ONCE

    def test_what_waits_for_its_turn_is_not_asked(self, rpc: RpcClient) -> None:
        may_answer = threading.Event()

        def answer(request: dict[str, Any]) -> str:
            assert may_answer.wait(FAILSAFE)
            return "late"

        with LmEndpoint(answer) as endpoint:
            config = {"base_url": endpoint.url, "max_concurrency": 1}
            result = rpc.call("create_model", class_type="OpenAI", provider="openai", config=config, usage={})
            model = {"__model_client__": True, "model_id": result["model_id"]}
            args = [model, [{"role": "user", "content": [rpc.variable("{mail}", "mail")]}], {"mail": MAILS}]
            request_id = rpc.send(
                "run_function", function_name="ChatCompletion", args=args, kwargs={"model": "m"}, grad_enabled=True
            )
            until(lambda: len(endpoint.requests) == 1)
            cancel(rpc, request_id)
            rpc.reply(request_id)
            may_answer.set()
            assert rpc.until("update_model")["params"]["value"]["total_tokens"] == 15
            rpc.variable("the connection goes on")
            assert len(endpoint.requests) == 1


class Bill:
    """What is told of a request that is left."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def left(self) -> Callable[[], None]:
        self.told.append("left")
        return lambda: self.told.append("ended")


class TestLingering:
    """What was asked is paid: its answer is waited for, for the bill alone."""

    def test_what_is_not_cancelled_is_not_left(self) -> None:
        async def scenario() -> None:
            bill, lingering = Bill(), Lingering()

            async def request() -> int:
                return 5

            assert await lingering.see_through(request(), bill.left) == 5
            assert (bill.told, len(lingering)) == ([], 0)

        run(scenario())

    @pytest.mark.parametrize("ending", ["an answer", "never", "a failure", "the backend stops"])
    def test_a_cancelled_one_goes_on_to_its_end(self, ending: str) -> None:
        async def scenario() -> None:
            bill, lingering = Bill(), Lingering(patience=0.001 if ending == "never" else 3600.0)
            answer: asyncio.Future[int] = asyncio.get_running_loop().create_future()
            booked: list[int] = []

            async def request() -> None:
                booked.append(await answer)

            task = asyncio.ensure_future(lingering.see_through(request(), bill.left))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert (bill.told, len(lingering)) == (["left"], 1)
            if ending == "an answer":
                answer.set_result(7)
            elif ending == "a failure":
                answer.set_exception(ValueError("the endpoint's"))
            elif ending == "the backend stops":
                await lingering.close()

            async def ended() -> None:
                while len(lingering):
                    await asyncio.sleep(0.001)

            await asyncio.wait_for(ended(), FAILSAFE)
            assert bill.told == ["left", "ended"]
            assert booked == ([7] if ending == "an answer" else [])

        run(scenario())

    def test_its_own_cancellation_is_passed_on(self) -> None:
        async def scenario() -> None:
            bill, lingering = Bill(), Lingering()

            async def request() -> None:
                raise asyncio.CancelledError

            with pytest.raises(asyncio.CancelledError):
                await lingering.see_through(request(), bill.left)
            assert (bill.told, len(lingering)) == ([], 0)

        run(scenario())


@pytest.mark.parametrize("method", ["cancel", "release"])
def test_who_sends_the_notification_as_a_request_gets_a_reply(rpc: RpcClient, method: str) -> None:
    """JSON-RPC 2.0 §4: every request with an id is answered."""
    assert rpc.call(method, id="unknown", variable_ids=["unknown"]) == {"message": "Ok"}
