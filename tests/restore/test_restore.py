"""Nothing is lost: what the server is told after a reconnect."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import tellurio_sync as te
from tellurio_sync.autodiff.backward_model import set_backward_model_client
from tellurio_sync.errors import ConnectionLost, RemoteError, UsageError
from tellurio_sync.model import CallableModel, OpenAI, Parameter, Variable
from tellurio_sync.model.variable_state import known_id
from tellurio_sync.optim import TGD
from tellurio_sync.session.restore import Restored, restore

from ..model.fake_link import FakeLink, lose, tag
from .conftest import computed


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
        server.link.registries.mark_unsure([parameter])
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
            pytest.param(lambda server, leaf, result: server.link.registries.mark_unsure([leaf]), id="leaf in doubt"),
            pytest.param(
                lambda server, leaf, result: server.link.registries.mark_unsure([result]), id="itself in doubt"
            ),
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
        server.link.registries.mark_unsure([doubtful])
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
            made_by_restore = known_id(gradient)
            assert known_id(later) is None
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
        server.link.refusal = UsageError("no consent")
        server.forget()
        assert server.restore().lost == (model,)
        assert len(server.link.calls("create_model")) == 1
        with pytest.raises(UsageError, match="onsent"):
            model.clear_usage()

    def test_the_report_is_one_line_of_text(self) -> None:
        report = Restored("s", 3, (1, 2, "a"), ())
        assert str(report) == "restored: 3 Variables known, 3 (2 int, 1 str) made again, 0 lost"


@pytest.mark.parametrize(
    ("field", "value"),
    [("data", "other"), ("role", "other"), ("requires_grad", False), ("is_leaf", False), ("grad", "other")],
)
def test_what_the_server_holds_otherwise_is_made_anew(server: Server, field: str, value: Any) -> None:
    """Every member that both sides have is compared: the server may be an older state of itself."""
    parameter = Parameter("p", "role", requires_grad=True)
    former = parameter.variable_id
    assert server.variables[former][field] != value
    server.variables[former][field] = [tag(Variable("x"))] if field == "grad" else value
    report = server.restore()
    assert report.renewed == (parameter,)
    assert parameter.variable_id != former
    assert server.variables[parameter.variable_id]["requires_grad"] is True
