"""A session without a network: records what is asked, answers like the server, pushes like the receive thread."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tellurio_sync.client import server_methods
from tellurio_sync.errors import ConnectionLost, RemoteError, TellurioError, WouldDeadlock
from tellurio_sync.jsonrpc import decode, encode
from tellurio_sync.model.registries import Registries
from tellurio_sync.model.session_link import use_link

FAILSAFE_S = 30.0
CREATE, UPDATE = "create_variable", "update_variable"

Answer = Callable[[dict[str, Any]], Any]


class FakeLink:
    """Answers every method in the form of protocol §C; ``answers[method]`` replaces one of them."""

    def __init__(self) -> None:
        self.registries = Registries(self)
        self.pending_timeout = FAILSAFE_S
        self.is_local = False
        self.asked_for_consent = 0
        self.refusal: Exception | None = None
        self.extensions: frozenset[str] = frozenset()
        self.requests: list[tuple[str, dict[str, Any]]] = []
        self.bursts: list[list[str]] = []
        self.answers: dict[str, Answer] = {}
        self._ids = itertools.count(1)
        self.late: list[Any] = []
        """What wants the reply of each call that was given up."""
        self._receive_thread: int | None = None

    # --- the seam --------------------------------------------------------------------------------

    def admit(self) -> FakeLink:
        self.check_may_wait()
        return self

    def leave(self) -> None:
        pass

    def request(
        self, method: str, params: dict[str, Any], on_reply: Callable[[], None] = lambda: None, on_late: Any = None
    ) -> Any:
        self.check_may_wait()
        # Through real JSON, as the transport would.
        sent = decode(encode(params))
        self.requests.append((method, sent))
        answer = self.answers.get(method) or getattr(self, f"_answer_{method}")
        try:
            result = answer(sent)
        except RemoteError:
            on_reply()
            raise
        except BaseException:
            self.late.append(on_late)
            raise
        on_reply()
        return decode(encode(result))

    def request_many(self, requests: Any, on_reply: Callable[[], None] | None = None, on_late: Any = None) -> list[Any]:
        self.bursts.append([method for method, _ in requests])
        encode([params for _, params in requests])
        outcomes: list[Any] = []
        for method, params in requests:
            try:
                outcomes.append(self.request(method, params, on_late=on_late))
            except TellurioError as exc:
                outcomes.append(exc)
        if on_reply is not None and (isinstance(outcomes[-1], RemoteError) or not isinstance(outcomes[-1], Exception)):
            on_reply()
        return outcomes

    def check_consent(self) -> None:
        self.asked_for_consent += 1
        if self.refusal is not None:
            raise self.refusal

    def check_may_wait(self) -> None:
        if threading.get_ident() == self._receive_thread:
            raise WouldDeadlock("on the receive thread")

    # --- what tests use --------------------------------------------------------------------------

    def push(self, method: str, **params: Any) -> Any:
        """Handle a push on another thread, as the receive thread does, and return its result or raise its error."""
        outcome: list[Any] = []
        params = decode(encode(params))

        def receive() -> None:
            self._receive_thread = threading.get_ident()
            try:
                outcome.append((True, getattr(server_methods, method)(self, params)))
            except BaseException as exc:  # noqa: BLE001  raised again by the test's thread
                outcome.append((False, exc))
            finally:
                self._receive_thread = None

        thread = threading.Thread(target=receive)
        thread.start()
        thread.join(FAILSAFE_S)
        assert outcome, "the push was not handled in time: it blocks"
        succeeded, value = outcome[0]
        if succeeded:
            return value
        raise value

    def reply_late(self, **envelope: Any) -> None:
        """The reply to the call that was given up last, on another thread as the receive thread does it."""
        on_late, envelope = self.late.pop(), decode(encode(envelope))

        def receive() -> None:
            self._receive_thread = threading.get_ident()
            try:
                on_late(envelope)
            finally:
                self._receive_thread = None

        thread = threading.Thread(target=receive)
        thread.start()
        thread.join(FAILSAFE_S)
        assert not thread.is_alive(), "the late reply was not handled in time: it blocks"

    def calls(self, method: str | None = None) -> list[Any]:
        """The params of all requests of one method; without one, (method, params) of all."""
        if method is None:
            return self.requests
        return [params for name, params in self.requests if name == method]

    def new_id(self, kind: str) -> str:
        return f"{kind}-{next(self._ids)}"

    def output(self, data: Any = "out", **fields: Any) -> dict[str, Any]:
        """A variable object of a function's reply (protocol §E.4)."""
        return {
            "variable_id": self.new_id("variable"),
            "data": data,
            "role": "output",
            "requires_grad": False,
            "_retain_grad": False,
            "_grad": [],
            "_output_nr": 0,
            "_grad_fn": None,
            "is_leaf": True,
            **fields,
        }

    def computed(self, data: Any = "out", node_id: str = "node", **fields: Any) -> dict[str, Any]:
        """The same for an output that belongs to a graph."""
        return self.output(data, requires_grad=True, _grad_fn=node_id, is_leaf=False, **fields)

    # --- the server ------------------------------------------------------------------------------

    def _answer_create_variable(self, params: dict[str, Any]) -> Any:
        return {"variable_id": self.new_id("variable"), "message": "Variable created successfully."}

    def _answer_update_variable(self, params: dict[str, Any]) -> Any:
        return {"message": "updated", **params}

    def _answer_append_grad(self, params: dict[str, Any]) -> Any:
        return {"variable_id": params["variable_id"], "gradient_id": params["gradient"]["variable_id"]}

    def _answer_create_model(self, params: dict[str, Any]) -> Any:
        return {"model_id": self.new_id("model")}

    def _answer_clear_model_usage(self, params: dict[str, Any]) -> Any:
        return {"model_id": params["model_id"]}

    def _answer_set_model_singleton(self, params: dict[str, Any]) -> Any:
        return params

    def _answer_run_function(self, params: dict[str, Any]) -> Any:
        return {"data": self.output()}

    def _answer_get_backprop_ids(self, params: dict[str, Any]) -> Any:
        return {"variable_ids": []}

    def _answer_run_backward(self, params: dict[str, Any]) -> Any:
        return {"message": "Backward pass executed successfully."}

    def _answer_create_optimizer(self, params: dict[str, Any]) -> Any:
        defaults, wire = params["defaults"], params["params"]
        groups = wire if all("params" in item for item in wire) else [{"params": wire}]
        return {
            "optimizer_id": self.new_id("optimizer"),
            "defaults": defaults,
            "state": [],
            "param_groups": [{**defaults, **group} for group in groups],
        }

    def _answer_add_param_group(self, params: dict[str, Any]) -> Any:
        return {"param_group": {"messages": params["messages"], **params["param_group"]}}

    def _answer_clear_grad(self, params: dict[str, Any]) -> Any:
        return {"message": "Gradients cleared successfully."}

    def _answer_run_step(self, params: dict[str, Any]) -> Any:
        return {"message": "Optimizer step executed successfully.", "state": []}

    def _answer_run_optimizer_tgd(self, params: dict[str, Any]) -> Any:
        return {
            "message": "Functional TGD optimization step executed successfully.",
            "momentum_buffer_list": [[] for _ in params["params"]],
        }


def tag(variable: Any) -> dict[str, Any]:
    """The reference to a Variable on the wire."""
    kind = "__parameter__" if type(variable).__name__ == "Parameter" else "__variable__"
    return {kind: True, "variable_id": variable.variable_id}


@pytest.fixture
def link() -> Iterator[FakeLink]:
    """The current session of the test."""
    with use_link(FakeLink()) as fake:
        yield fake  # type: ignore[misc]


class Reader:
    """A thread that reads something of a Variable; ``result()`` gives what it got."""

    def __init__(self, link: FakeLink, read: Callable[[], Any]) -> None:
        self._outcome: list[Any] = []
        self._read = read
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        # It waits for a flag as soon as it is among the waiters.
        waiting = threading.Event()
        registries = link.registries
        deadline = threading.Timer(FAILSAFE_S, waiting.set)
        deadline.start()
        while not registries._waiters and self._thread.is_alive() and not waiting.is_set():
            self._thread.join(0.001)
        deadline.cancel()
        deadline.join()

    def _run(self) -> None:
        try:
            self._outcome.append((True, self._read()))
        except BaseException as exc:  # noqa: BLE001  raised again by the test's thread
            self._outcome.append((False, exc))

    @property
    def is_waiting(self) -> bool:
        return self._thread.is_alive()

    def result(self) -> Any:
        self._thread.join(FAILSAFE_S)
        assert self._outcome, "the reader still waits"
        succeeded, value = self._outcome[0]
        if succeeded:
            return value
        raise value


def in_thread(function: Callable[[], Any]) -> Any:
    """Run it in a thread of its own, and return its result or raise its error."""
    outcome: list[Any] = []

    def run() -> None:
        try:
            outcome.append((function(), None))
        except BaseException as exc:  # noqa: BLE001  raised again by the test's thread
            outcome.append((None, exc))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(FAILSAFE_S)
    assert outcome, "the thread has not ended in time"
    value, error = outcome[0]
    if error is not None:
        raise error
    return value


# --- what goes wrong ----------------------------------------------------------------------------


def refusal(text: str = "no room") -> RemoteError:
    return RemoteError(-32603, "Internal error", {"exception": text})


def lose(was_sent: bool = True) -> ConnectionLost:
    return ConnectionLost("cable cut", was_sent=was_sent)


def fail_for(
    link: FakeLink, method: str, is_meant: Callable[[dict[str, Any]], bool], make_error: Callable[[], Exception]
) -> Callable[[], None]:
    """The server answers requests that are meant with an error, and all others as ever; returns how to stop that."""
    plain = link.answers.get(method) or getattr(link, f"_answer_{method}")

    def answer(params: dict[str, Any]) -> Any:
        if is_meant(params):
            raise make_error()
        return plain(params)

    link.answers[method] = answer
    return lambda: link.answers.__setitem__(method, plain)
