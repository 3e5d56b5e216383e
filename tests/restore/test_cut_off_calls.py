"""Nothing is lost: what a cut-off call leaves behind here."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from tellurio_sync.errors import ConnectionLost, RemoteError
from tellurio_sync.model import CallableModel, Parameter, Variable
from tellurio_sync.optim import TGD

from ..conftest import FAILSAFE
from ..model.fake_link import FakeLink, lose
from .conftest import computed


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
        """Protocol §C.1: the data came before the reply; only the flag's end is missing."""
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


class Watched:
    """Something with parameters, gradients and an optimizer, whose next call is cut off; and what a restore would see.

    As soon as a call has ended, a restore may begin, and be over before the thread goes on that made the call.
    """

    def __init__(self, link: FakeLink, monkeypatch: pytest.MonkeyPatch) -> None:
        self.link = link
        self.parameter, self.other = Parameter("p"), Parameter("q")
        model = CallableModel(lambda messages: "")
        self.optimizer = TGD([self.parameter, self.other], model)
        self.grouped = TGD([{"params": [self.parameter]}, {"params": [self.other]}], model)
        self.grouped.load_state_dict(self.grouped.state_dict(), model)
        self.computed = computed(link, self.parameter)
        self.parameter.append_grad(Variable("g"))
        self.seen: list[Any] = []
        monkeypatch.setattr(link, "leave", lambda: self.seen.append(self.state()))

    def state(self) -> Any:
        held = [(v, v._data, v.role, v.requires_grad, list(v._grad)) for v in (self.parameter, self.other)]
        return held, self.link.registries.unsure


CUT_OFF = {
    "clear_grad": lambda w: w.optimizer.clear_grad(),
    "clear_grad that sends everything": lambda w: w.grouped.clear_grad(),
    "step": lambda w: w.optimizer.step(),
    "backward": lambda w: w.computed.backward(),
    "append_grad": lambda w: w.parameter.append_grad(Variable("g")),
    "an attribute": lambda w: setattr(w.parameter, "role", "r"),
    "several attributes": lambda w: w.parameter.copy_(w.other),
    "a function": lambda w: w.parameter + w.other,
}


@pytest.mark.parametrize("was_sent", [True, False])
@pytest.mark.parametrize("name", CUT_OFF)
def test_when_a_cut_off_call_ends_all_is_as_the_restore_must_find_it(
    link: FakeLink, monkeypatch: pytest.MonkeyPatch, name: str, was_sent: bool
) -> None:
    """Whatever is changed here, or marked, later than that may be missed by it, and no other will come."""
    watched = Watched(link, monkeypatch)

    def cut(params: Any) -> Any:
        raise ConnectionLost("over", was_sent=was_sent)

    for method in ("clear_grad", "update_variable", "run_step", "run_backward", "run_function", "append_grad"):
        link.answers[method] = cut
    watched.seen.clear()
    try:
        CUT_OFF[name](watched)
    except ConnectionLost:
        assert not name.startswith("clear_grad")
    assert watched.seen[-1] == watched.state()
    assert not link.registries.is_restore_due


def test_what_is_put_back_after_its_calls_is_restored_before_the_next_one(link: FakeLink) -> None:
    """A step of two groups: the first call has ended when the second is cut off, so a restore may have come between."""
    first, second = Parameter("first"), Parameter("second")
    optimizer = TGD([{"params": [first]}, {"params": [second]}], CallableModel(lambda messages: ""))
    optimizer.param_groups[0]["momentum"] = 1

    def cut(params: Any) -> Any:
        raise ConnectionLost("over", was_sent=False)

    link.answers["run_optimizer_tgd"] = cut
    with pytest.raises(ConnectionLost):
        optimizer.step()
    assert link.registries.is_restore_due
    assert {first, second} <= set(link.registries.begin_restore().unsure)
    assert not link.registries.is_restore_due
