"""Nothing is lost: what a cut-off call leaves behind here, and what the server is told after a reconnect."""

from __future__ import annotations

import hashlib
import itertools
import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import tellurio_sync as te
from tellurio_sync.autodiff.backward_model import set_backward_model_client
from tellurio_sync.errors import ConnectionLost, RemoteError, UsageError
from tellurio_sync.model import CallableModel, OpenAI, Parameter, Variable
from tellurio_sync.model.link import use_link
from tellurio_sync.optim import TGD
from tellurio_sync.restore import Restored, restore

from .backend_process import KEY, BackendProcess, Cable, now_and_then
from .conftest import FAILSAFE
from .model.fake_link import FakeLink, tag


@pytest.fixture
def link() -> Iterator[FakeLink]:
    """The current session of the test."""
    with use_link(FakeLink()) as fake:
        yield fake  # type: ignore[misc]


def lose(*, was_sent: bool = True) -> ConnectionLost:
    return ConnectionLost("cable cut", was_sent=was_sent)


class Server:
    """What the far end knows, behind a FakeLink: answers the questions of a restore; ``forget`` empties it."""

    def __init__(self, link: FakeLink) -> None:
        self.link = link
        self.variables: dict[str, dict[str, Any]] = {}
        self.asked: list[tuple[str, dict[str, Any]]] = []
        link.answers["create_variable"] = self._create_variable
        link.answers["update_variable"] = self._update_variable

    def forget(self) -> None:
        self.variables.clear()

    def restore(self) -> Restored:
        self.asked = []
        return restore(self.link, self._call_many, "session-2")

    def methods(self) -> list[str]:
        return [method for method, _ in self.asked]

    def _call_many(self, requests: Any) -> list[Any]:
        replies = []
        for method, params in requests:
            self.asked.append((method, params))
            try:
                answer = self._get_variable(params) if method == "get_variable" else self.link.request(method, params)
                replies.append({"result": answer})
            except RemoteError as exc:
                replies.append({"error": {"code": exc.code, "message": exc.message, "data": exc.data}})
        return replies

    def _create_variable(self, params: dict[str, Any]) -> Any:
        variable_id = self.link.new_id("variable")
        self.variables[variable_id] = {**params, "is_leaf": True, "grad": []}
        return {"variable_id": variable_id, "message": "Variable created successfully."}

    def _update_variable(self, params: dict[str, Any]) -> Any:
        field = {"_grad": "grad"}.get(params["field"], params["field"])
        self.variables[params["variable_id"]][field] = params["value"]
        return {"message": "updated", **params}

    def _get_variable(self, params: dict[str, Any]) -> Any:
        if params["variable_id"] not in self.variables:
            raise RemoteError(-32603, "Internal error", {"exception": "not found"})
        return self.variables[params["variable_id"]]


@pytest.fixture
def server(link: FakeLink) -> Server:
    return Server(link)


def computed(link: FakeLink, *arguments: Variable) -> Variable:
    """A Variable that a function computed from these."""
    node_id = link.new_id("node")
    link.answers["run_function"] = lambda params: {"data": link.computed(node_id=node_id)}
    link.push("create_node", node_id=node_id, name="AddBackward0")
    output = te.functional.sum(list(arguments))
    return output


# --- what a cut-off call leaves behind here ---------------------------------------------------------


class TestACutOffCallHasNotHappened:
    def test_gradients_of_a_cut_off_backward_are_taken_back(self, link: FakeLink) -> None:
        leaf, before = Parameter("p"), Variable("before")
        leaf.append_grad(before)
        result = computed(link, leaf)

        def cut(params: Any) -> Any:
            link.push("append_grad", variable_id=leaf.variable_id, gradient_id="g1", gradient={"data": "half"})
            raise lose()

        live = leaf.grad
        link.answers["get_backprop_ids"] = lambda params: {"variable_ids": [leaf.variable_id]}
        link.answers["run_backward"] = cut
        with pytest.raises(ConnectionLost):
            result.backward()
        assert leaf.grad is live
        assert live == [before]
        assert {leaf, result} <= set(link.registries.unsure)

    def test_new_data_of_a_cut_off_step_is_taken_back(self, link: FakeLink) -> None:
        parameter = Parameter("old")
        optimizer = TGD([parameter], CallableModel(lambda messages: ""))

        def cut(params: Any) -> Any:
            link.push("update_variable", variable_id=parameter.variable_id, field="data", value="new")
            raise lose()

        link.answers["run_step"] = cut
        with pytest.raises(ConnectionLost):
            optimizer.step()
        assert parameter.data == "old"
        assert optimizer.state == {}
        assert {parameter, optimizer} <= set(link.registries.unsure)

    def test_a_step_of_several_groups_is_taken_back_as_a_whole(self, link: FakeLink) -> None:
        """A step that sends everything along is a call per group; the first ones were answered."""
        first, second = Parameter("first"), Parameter("second")
        optimizer = TGD([{"params": [first]}, {"params": [second]}], CallableModel(lambda messages: ""))
        optimizer.param_groups[0]["momentum"] = 1  # changed here: not known there

        def answer(params: Any) -> Any:
            (reference,) = params["params"]
            variable_id = reference["variable_id"]
            link.push("update_variable", variable_id=variable_id, field="data", value="new")
            if variable_id == second.variable_id:
                raise lose()
            return {
                "message": "Functional TGD optimization step executed successfully.",
                "momentum_buffer_list": [[]],
            }

        link.answers["run_optimizer_tgd"] = answer
        with pytest.raises(ConnectionLost):
            optimizer.step()
        link.registries.fail_pending(lose)
        assert (first.data, second.data) == ("first", "second")
        assert optimizer.state == {}
        assert {first, second} <= set(link.registries.unsure)

    def test_what_another_call_was_answered_for_stays(self, link: FakeLink) -> None:
        """Of two passes over one leaf, the one that was answered has happened, the other has not."""
        leaf = Parameter("p")
        one, other = computed(link, leaf), computed(link, leaf)
        answered = threading.Event()

        def answer(params: Any) -> Any:
            reference = params["variables"]
            if reference["variable_id"] == one.variable_id:
                link.push("append_grad", variable_id=leaf.variable_id, gradient_id="g1", gradient={"data": "whole"})
                return {"message": "Backward pass executed successfully."}
            assert answered.wait(FAILSAFE)
            link.push("append_grad", variable_id=leaf.variable_id, gradient_id="g2", gradient={"data": "half"})
            raise lose()

        link.answers["get_backprop_ids"] = lambda params: {"variable_ids": [leaf.variable_id]}
        link.answers["run_backward"] = answer
        errors: list[BaseException] = []

        def go_back() -> None:
            try:
                other.backward()
            except ConnectionLost as exc:
                errors.append(exc)

        thread = threading.Thread(target=go_back)
        thread.start()
        one.backward()
        answered.set()
        thread.join(FAILSAFE)
        link.registries.clear_pending([leaf], "_pending_grad")
        assert len(errors) == 1
        assert [gradient.data for gradient in leaf.grad] == ["whole"]

    def test_a_users_own_change_meanwhile_stays(self, link: FakeLink) -> None:
        parameter = Parameter("old")
        optimizer = TGD([parameter], CallableModel(lambda messages: ""))

        def cut(params: Any) -> Any:
            link.push("update_variable", variable_id=parameter.variable_id, field="data", value="new")
            parameter.data = "mine"
            raise lose()

        link.answers["run_step"] = cut
        with pytest.raises(ConnectionLost):
            optimizer.step()
        assert parameter.data == "mine"

    @pytest.mark.parametrize("where", ["there", "here"])
    def test_clear_grad_happens_all_the_same(self, link: FakeLink, where: str) -> None:
        parameters = [Parameter("a"), Parameter("b")]
        optimizer = TGD(parameters, CallableModel(lambda messages: ""))
        if where == "here":
            optimizer.load_state_dict(optimizer.state_dict(), CallableModel(lambda messages: ""))
        lists = [parameter.grad for parameter in parameters]
        for parameter in parameters:
            parameter.append_grad(Variable("g"))

        def cut(params: Any) -> Any:
            raise lose()

        link.answers["clear_grad"] = link.answers["update_variable"] = cut
        optimizer.clear_grad()
        assert lists == [[], []]
        assert set(parameters) <= set(link.registries.unsure)

    @pytest.mark.parametrize("exc", [lose(was_sent=False), RemoteError(-32603, "Internal error", {})])
    def test_what_the_server_certainly_did_not_do_leaves_no_doubt(self, link: FakeLink, exc: Exception) -> None:
        variable = Variable("a")

        def fail(params: Any) -> Any:
            raise exc

        link.answers["update_variable"] = fail
        with pytest.raises(type(exc)):
            variable.data = "b"
        assert variable.data == "a"
        assert not link.registries.unsure

    def test_ctrl_c_leaves_a_doubt_and_takes_nothing_back(self, link: FakeLink) -> None:
        """The connection lives: what the server has pushed is so there, too."""
        parameter = Parameter("old")
        optimizer = TGD([parameter], CallableModel(lambda messages: ""))

        def interrupt(params: Any) -> Any:
            link.push("update_variable", variable_id=parameter.variable_id, field="data", value="new")
            raise KeyboardInterrupt

        link.answers["run_step"] = interrupt
        with pytest.raises(KeyboardInterrupt):
            optimizer.step()
        assert parameter.data == "new"
        assert parameter in link.registries.unsure

    def test_who_waits_for_the_end_of_an_answered_step_gets_the_data(self, link: FakeLink) -> None:
        """PROTOCOL.md §C.1: the data came before the reply; only the flag's end is missing."""
        parameter = Parameter("old")
        optimizer = TGD([parameter], CallableModel(lambda messages: ""))

        def answer(params: Any) -> Any:
            link.push("update_variable", variable_id=parameter.variable_id, field="data", value="new")
            return {"message": "Optimizer step executed successfully.", "state": []}

        link.answers["run_step"] = answer
        optimizer.step()
        assert parameter._pending_data
        read: list[Any] = []
        thread = threading.Thread(target=lambda: read.append(parameter.data))
        thread.start()
        while not link.registries._waiters and thread.is_alive():
            thread.join(0.001)
        link.registries.fail_pending(lose)
        thread.join(FAILSAFE)
        assert read == ["new"]


# --- what the server is told --------------------------------------------------------------------------


class TestRestore:
    def test_where_all_is_known_nothing_is_sent_but_the_question(self, server: Server) -> None:
        parameter, other = Parameter("p", "role"), Variable(["a", None])
        optimizer = TGD([parameter], CallableModel(lambda messages: ""))
        set_backward_model_client(CallableModel(lambda messages: ""))
        ids = [parameter.variable_id, other.variable_id, optimizer.optimizer_id]
        report = server.restore()
        assert set(server.methods()) == {"get_variable"}
        assert (report.known, report.renewed, report.lost) == (4, (), ())
        assert ids == [parameter.variable_id, other.variable_id, optimizer.optimizer_id]

    def test_all_that_was_forgotten_is_made_anew(self, server: Server) -> None:
        model = CallableModel(lambda messages: "")
        set_backward_model_client(model, completion_args={"temperature": 0})
        parameter = Parameter("p", "prompt")
        gradient, sample = Variable("better"), Variable([1, 2.5], "sample")
        parameter.append_grad(gradient)
        optimizer = TGD([parameter], model, momentum=2)
        former = {parameter.variable_id, gradient.variable_id, sample.variable_id, model.model_id}
        server.forget()
        server.link.requests.clear()
        report = server.restore()
        assert former.isdisjoint({parameter.variable_id, gradient.variable_id, sample.variable_id, model.model_id})
        assert {parameter, gradient, sample, model, optimizer} <= set(report.renewed)
        assert report.lost == ()
        (created,) = server.link.calls("create_model")
        assert created["class_type"] == "CallableModel"
        (singleton,) = server.link.calls("set_model_singleton")
        assert (singleton["model_id"], singleton["completion_args"]) == (model.model_id, {"temperature": 0})
        (made,) = server.link.calls("create_optimizer")
        (group,) = made["params"]
        assert (group["params"], group["momentum"]) == ([tag(parameter)], 2)
        assert group["model_client"] == {"__model_client__": True, "model_id": model.model_id}
        there = server.variables[parameter.variable_id]
        assert (there["data"], there["role"], there["grad"]) == ("p", "prompt", [tag(gradient)])
        assert server.variables[sample.variable_id]["data"] == [1.0, 2.5]
        registries = server.link.registries
        assert registries.variables.lookup(parameter.variable_id) is parameter
        assert not any(id_ in registries.variables for id_ in former)
        assert not registries.unsure
        server.restore()
        assert set(server.methods()) == {"get_variable"}

    def test_what_else_a_variable_had_is_told_too(self, server: Server) -> None:
        variable = Variable("a")
        variable.note = "mine"
        variable.output_nr = 2
        variable.is_leaf = False
        server.forget()
        server.restore()
        there = server.variables[variable.variable_id]
        assert (there["note"], there["_output_nr"], there["is_leaf"]) == ("mine", 2, False)

    def test_what_a_cut_off_call_may_have_changed_is_made_anew_with_what_refers_to_it(self, server: Server) -> None:
        parameter, other = Parameter("p"), Variable("other")
        optimizer = TGD([parameter], CallableModel(lambda messages: ""))
        elsewhere = TGD([Parameter("q")], optimizer.param_groups[0]["model_client"])
        former = parameter.variable_id
        server.variables[former]["data"] = "what the cut-off step did"
        server.link.registries.unsure.add(parameter)
        report = server.restore()
        assert set(report.renewed) == {parameter, optimizer}
        assert server.variables[parameter.variable_id]["data"] == "p"
        assert parameter.variable_id != former
        assert elsewhere not in report.renewed
        assert other not in report.renewed

    def test_what_differs_is_made_anew(self, server: Server) -> None:
        variable = Variable("mine")
        server.variables[variable.variable_id]["data"] = "somebody else's"
        assert server.restore().renewed == (variable,)
        assert server.variables[variable.variable_id]["data"] == "mine"

    def test_momentum_is_sent_along_from_then_on(self, server: Server) -> None:
        """No method takes it to the new optimizer."""
        parameter = Parameter("p")
        optimizer = TGD([parameter], CallableModel(lambda messages: ""), momentum=1)
        former, gradient = Parameter("former"), Variable("g")
        optimizer.state = {parameter: {"momentum_buffer": [(former, [gradient])]}}
        server.forget()
        server.restore()
        optimizer.step()
        (sent,) = server.link.calls("run_optimizer_tgd")
        assert sent["momentum_buffer_list"] == [[[tag(former), [tag(gradient)]]]]
        assert not server.link.calls("run_step")

    def test_without_momentum_the_new_optimizer_steps_there(self, server: Server) -> None:
        optimizer = TGD([Parameter("p")], CallableModel(lambda messages: ""))
        server.forget()
        server.restore()
        optimizer.step()
        assert server.link.calls("run_step") == [{"optimizer_id": optimizer.optimizer_id}]

    @pytest.mark.parametrize(
        "doubt",
        [
            pytest.param(lambda server, leaf, result: server.forget(), id="forgotten"),
            pytest.param(lambda server, leaf, result: server.link.registries.unsure.add(leaf), id="leaf in doubt"),
            pytest.param(lambda server, leaf, result: server.link.registries.unsure.add(result), id="itself in doubt"),
        ],
    )
    def test_a_computed_variable_whose_graph_is_gone_says_so(self, server: Server, doubt: Callable[..., None]) -> None:
        leaf = Parameter("p")
        result = computed(server.link, leaf)
        behind = computed(server.link, result)
        doubt(server, leaf, result)
        report = server.restore()
        assert set(report.lost) == {result, behind}
        server.link.requests.clear()
        for use in (behind.backward, behind.retain_grad, lambda: te.functional.add(leaf, behind)):
            with pytest.raises(ConnectionLost, match="compute it again") as caught:
                use()
            assert not caught.value.was_sent
        assert server.link.calls() == []
        assert behind.data == "out"
        assert behind.detach().data == "out"

    def test_a_computed_variable_with_another_leaf_stays(self, server: Server) -> None:
        doubtful, sound = Parameter("p"), Parameter("q")
        result = computed(server.link, sound)
        server.link.registries.unsure.add(doubtful)
        assert server.restore().lost == ()
        result.backward()

    def test_what_the_server_refuses_is_lost_and_the_rest_is_not(self, server: Server) -> None:
        good, bad = Variable("good"), Variable("bad")
        server.forget()
        create = server.link.answers["create_variable"]

        def refuse(params: Any) -> Any:
            if params["data"] == "bad":
                raise RemoteError(-32603, "Internal error", {"exception": "no room"})
            return create(params)

        server.link.answers["create_variable"] = refuse
        report = server.restore()
        assert (report.renewed, report.lost) == ((good,), (bad,))
        with pytest.raises(UsageError, match="no room"):
            bad.role = "x"
        server.link.answers["create_variable"] = create
        assert server.restore().renewed == (bad,)
        bad.role = "x"

    def test_data_that_was_spoilt_in_place_does_not_stop_the_rest(self, server: Server) -> None:
        spoilt, good = Variable([1.0]), Variable("good")
        spoilt.data.append(float("nan"))
        server.forget()
        plain = server._call_many

        def call_many(requests: Any) -> list[Any]:
            from tellurio_sync.jsonrpc import encode

            encode([params for _, params in requests])
            return plain(requests)

        report = restore(server.link, call_many, "session-2")
        assert (report.renewed, report.lost) == ((good,), (spoilt,))

    def test_a_loss_on_the_way_begins_anew_and_leaves_nothing_half_done(self, server: Server) -> None:
        """Cut at each request in turn: in the end all is there, whatever the server has already."""
        parameter = Parameter("p")
        gradient = Variable("g")
        parameter.append_grad(gradient)
        optimizer = TGD([parameter], CallableModel(lambda messages: ""))
        for cut_at in itertools.count():
            server.forget()
            seen = itertools.count()

            def call_many(requests: Any, seen: Iterator[int] = seen, cut_at: int = cut_at) -> list[Any]:
                replies = []
                for request in requests:
                    if next(seen) == cut_at:
                        raise lose()
                    replies += server._call_many([request])
                return replies

            try:
                restore(server.link, call_many, "session-2")
            except ConnectionLost:
                server.restore()
            else:
                break
            there = server.variables[parameter.variable_id]
            assert (there["data"], there["grad"]) == ("p", [tag(gradient)])
            assert server.link.calls("create_optimizer")[-1]["params"][0]["params"] == [tag(parameter)]
            assert not server.link.registries.unsure
            server.restore()
            assert set(server.methods()) == {"get_variable"}
        assert cut_at > 8
        assert optimizer.param_groups[0]["params"] == [parameter]

    def test_what_is_queued_in_a_batch_is_not_waited_for(self, server: Server) -> None:
        """The batch waits for the restore. A gradient that is queued is made by it, and not once more by the batch."""
        leaf, other = Parameter("p"), Parameter("q")
        with te.batch():
            gradient, later = Variable("g"), Variable("later")
            leaf.grad = [gradient]
            report = server.restore()
            assert server.link.bursts == []
            assert report.known == 1
            assert set(report.renewed) == {leaf, gradient}
            made_by_restore = gradient._known_id
            assert later._known_id is None
        assert gradient.variable_id == made_by_restore
        assert later.variable_id is not None
        assert [params["data"] for params in server.link.calls("create_variable")].count("g") == 1
        assert server.variables[leaf.variable_id]["grad"] == [tag(gradient)]
        assert other.variable_id in server.variables

    def test_a_model_made_for_a_local_server_is_not_sent_elsewhere_without_consent(self, server: Server) -> None:
        """The key of a language model stays on this machine until the user has agreed."""
        server.link.is_local = True
        model = OpenAI(api_key="sk-secret")
        server.link.is_local = False
        server.forget()
        assert server.restore().lost == (model,)
        assert len(server.link.calls("create_model")) == 1
        with pytest.raises(UsageError, match="onsent"):
            model.clear_usage()

    def test_the_report_is_one_line_of_text(self) -> None:
        report = Restored("s", 3, (1, 2, "a"), ())
        assert str(report) == "restored: 3 Variables known, 3 (2 int, 1 str) made anew, 0 lost"


# --- the proof ------------------------------------------------------------------------------------------


def language_model(messages: list[dict[str, str]]) -> str:
    """Deterministic, and sensitive to everything: each new prompt is a digest of all that was shown."""
    from tellurio_sync.backend.prompts import OPTIMIZER

    from .backend.scripted import answer_like_a_model

    if messages[0]["content"].splitlines()[0] == OPTIMIZER:
        return f"<IMPROVED>prompt {hashlib.sha256(messages[-1]['content'].encode()).hexdigest()}</IMPROVED>"
    return answer_like_a_model(messages)  # type: ignore[arg-type]


class Training:
    """A training whose every batch is tried again until no connection was lost in it."""

    def __init__(self, http_port: int, ws_port: int, momentum: int) -> None:
        self.reports: list[Restored] = []
        self.retries = 0
        self._momentum = momentum
        self._session = te.Session(
            http_base_url="http://127.0.0.1",
            http_port=http_port,
            ws_base_url="ws://127.0.0.1",
            ws_port=ws_port,
            on_restored=self.reports.append,
        )

    def run(self, batches: int, disturbance: Any) -> list[Any]:
        """What the prompt, its gradients and the optimizer's memory were after each batch."""
        with self._session:
            te.login(KEY)
            run = te.init(None, "Training")
            lm = te.CallableModel(language_model)
            te.set_backward_model_client(lm)
            prompt = te.Parameter("prompt", "system prompt")
            optimizer = te.TGD([prompt], lm, momentum=self._momentum)
            user = te.Variable("{message}", "message")
            chat = [{"role": "system", "content": [prompt]}, {"role": "user", "content": [user]}]
            trace = []
            with disturbance:
                for number in range(batches):
                    while not self._batch(lm, optimizer, chat, number):
                        self.retries += 1
                    memory = optimizer.state[prompt]["momentum_buffer"]
                    trace.append((prompt.data, _data(prompt.grad), [(former.data, _data(g)) for former, g in memory]))
            run.finish()
            return trace

    def _batch(self, lm: Any, optimizer: te.TGD, chat: Any, number: int) -> bool:
        try:
            optimizer.clear_grad()
            answer = te.functional.chat_completion(lm, chat, inputs={"message": [f"{number}a", f"{number}b"]})
            _, explanation = te.functional.exact_match_evaluator(answer, ["right", "right"])
            explanation.backward()
            optimizer.step()
        except ConnectionLost:
            return False
        return True


def _data(variables: list[te.Variable]) -> list[Any]:
    return [variable.data for variable in variables]


def pauses(seed: int, mean: float) -> Iterator[float]:
    """Seconds: 50 ms at worst."""
    rng = random.Random(seed)
    while True:
        yield 0.05 + rng.expovariate(1 / mean)


@pytest.fixture
def backend(tmp_path: Path) -> Iterator[BackendProcess]:
    with BackendProcess(tmp_path) as process:
        yield process


@pytest.mark.slow
@pytest.mark.parametrize("momentum", [0, 2])
def test_a_training_whose_connection_is_cut_at_random_ends_as_the_undisturbed_one(
    backend: BackendProcess, momentum: int
) -> None:
    with Cable(backend.port) as cable:
        undisturbed = Training(backend.port, cable.port, momentum).run(12, now_and_then(cable.cut, []))
        training = Training(backend.port, cable.port, momentum)
        disturbed = training.run(12, now_and_then(cable.cut, pauses(momentum, 0.05)))
        assert disturbed == undisturbed
        assert len({undisturbed[n][0] for n in range(12)}) == 12
        assert cable.cuts > 0  # how many depends on the machine; none would show nothing
        assert training.reports


@pytest.mark.slow
@pytest.mark.parametrize("momentum", [0, 2])
def test_a_training_whose_backend_is_killed_and_started_again_ends_as_the_undisturbed_one(
    backend: BackendProcess, momentum: int
) -> None:
    """All ids are lost each time."""
    undisturbed = Training(backend.port, backend.port, momentum).run(12, now_and_then(backend.kill, []))
    training = Training(backend.port, backend.port, momentum)
    disturbed = training.run(12, now_and_then(backend.restart, [0.1, 0.3]))
    assert disturbed == undisturbed
    assert any(report.known == 0 for report in training.reports)
