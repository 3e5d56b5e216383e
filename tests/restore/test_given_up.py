"""Ctrl-C and time-outs: what a call still does on the server, it does here, too, or nowhere."""

from __future__ import annotations

import gc
from typing import Any

import pytest

from tellurio_sync.errors import CallTimeout, RemoteError
from tellurio_sync.model import CallableModel, Parameter, Variable, registries
from tellurio_sync.optim import TGD

from ..model.fake_link import FakeLink, lose, tag
from .conftest import computed

CANCELLED = {"code": -32800, "message": "Request cancelled", "data": {"exception": "x"}}
GIVEN_UP = [KeyboardInterrupt(), CallTimeout(method="run_step"), SystemExit(1)]


def interrupt(exc: BaseException) -> Any:
    def answer(params: Any) -> Any:
        raise exc

    return answer


class Stepped:
    """An optimizer with momentum whose step was given up, and what the server then does."""

    def __init__(self, link: FakeLink, exc: BaseException) -> None:
        self.link = link
        self.parameter = Parameter("old", "prompt")
        self.parameter.append_grad(Variable("feedback"))
        self.optimizer = TGD([self.parameter], CallableModel(lambda messages: ""), momentum=2)
        link.answers["run_step"] = interrupt(exc)
        with pytest.raises(type(exc)):
            self.optimizer.step()

    def push(self) -> None:
        copy = {"variable_id": "copy", "obj_type": "__parameter__", "data": "old", "role": "prompt"}
        rest = {"requires_grad": True, "_retain_grad": False, "_grad": [], "_output_nr": 0, "_grad_fn": None}
        self.link.push("create_variable", **copy, **rest, is_leaf=True)
        self.link.push("update_variable", variable_id=self.parameter.variable_id, field="data", value="new")

    @property
    def result(self) -> dict[str, Any]:
        buffer = [[{"__parameter__": True, "variable_id": "copy"}, [tag(self.parameter.grad[0])]]]
        state = [{"key": tag(self.parameter), "value": {"momentum_buffer": buffer}}]
        return {"message": "Optimizer step executed successfully.", "state": state}


@pytest.mark.parametrize("exc", GIVEN_UP, ids=repr)
class TestAStep:
    def test_that_was_cancelled_in_time_has_not_happened(self, link: FakeLink, exc: BaseException) -> None:
        stepped = Stepped(link, exc)
        assert {stepped.parameter, stepped.optimizer} <= set(link.registries.unsure)
        link.reply_late(error=CANCELLED)
        assert set(link.registries.unsure) == set()
        assert (stepped.parameter.data, stepped.optimizer.state) == ("old", {})

    def test_that_was_made_all_the_same_has_happened(self, link: FakeLink, exc: BaseException) -> None:
        stepped = Stepped(link, exc)
        stepped.push()
        link.reply_late(result=stepped.result)
        assert stepped.parameter.data == "new"
        ((copy, gradients),) = stepped.optimizer.state[stepped.parameter]["momentum_buffer"]
        assert (copy.data, gradients) == ("old", stepped.parameter.grad)
        assert set(link.registries.unsure) == set()

    def test_what_it_pushed_is_kept_for_the_later_reply(self, link: FakeLink, exc: BaseException) -> None:
        """Other calls begin and end meanwhile; the next state names the copy again."""
        stepped = Stepped(link, exc)
        stepped.push()
        Variable("another call")
        gc.collect()
        link.answers["run_step"] = lambda params: stepped.result
        stepped.optimizer.step()
        link.reply_late(result=stepped.result)
        assert stepped.optimizer.state[stepped.parameter]["momentum_buffer"][0][0].data == "old"

    def test_a_lost_connection_before_the_late_reply_takes_half_of_it_back(
        self, link: FakeLink, exc: BaseException
    ) -> None:
        stepped = Stepped(link, exc)
        stepped.push()
        assert stepped.parameter.data == "new"
        link.registries.fail_pending(lose)
        assert stepped.parameter.data == "old"
        assert {stepped.parameter, stepped.optimizer} <= set(link.registries.unsure)
        # It is over: nothing is kept alive for it.
        Variable("another call")
        gc.collect()
        assert "copy" not in link.registries.variables


def test_a_late_state_that_cannot_be_read_is_told_and_ends_the_call(
    link: FakeLink, caplog: pytest.LogCaptureFixture
) -> None:
    stepped = Stepped(link, KeyboardInterrupt())
    link.reply_late(result=stepped.result)  # without its pushes
    assert "cannot be taken over" in caplog.text
    assert stepped.optimizer.state == {}
    assert set(link.registries.unsure) == set()


def test_a_backward_pass_that_was_cancelled_leaves_the_graph_usable(link: FakeLink) -> None:
    leaf = Parameter("p")
    result = computed(link, leaf)
    link.answers["get_backprop_ids"] = lambda params: {"variable_ids": [leaf.variable_id]}
    link.answers["run_backward"] = interrupt(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        result.backward()
    link.reply_late(error=CANCELLED)
    assert set(link.registries.unsure) == set()
    link.answers["run_backward"] = lambda params: {"message": "Backward pass executed successfully."}
    result.backward()


def test_two_calls_given_up_on_one_object_are_both_waited_for(link: FakeLink) -> None:
    stepped = Stepped(link, KeyboardInterrupt())
    first = link.late.pop()
    with pytest.raises(KeyboardInterrupt):
        stepped.optimizer.step()
    link.reply_late(error=CANCELLED)
    assert stepped.parameter in link.registries.unsure
    first({"error": CANCELLED})
    assert stepped.parameter not in link.registries.unsure


def test_a_refusal_is_no_given_up_call(link: FakeLink) -> None:
    parameter = Parameter("old")
    optimizer = TGD([parameter], CallableModel(lambda messages: ""))
    link.answers["run_step"] = interrupt(RemoteError(-32603, "no"))
    with pytest.raises(RemoteError):
        optimizer.step()
    assert set(link.registries.unsure) == set()
    assert link.registries._late == {}


def test_what_was_certainly_not_sent_is_not_waited_for(link: FakeLink) -> None:
    parameter = Parameter("old")
    optimizer = TGD([parameter], CallableModel(lambda messages: ""))
    link.answers["run_step"] = interrupt(CallTimeout(method="run_step", was_sent=False))
    with pytest.raises(CallTimeout):
        optimizer.step()
    assert set(link.registries.unsure) == set()
    assert link.registries._late == {}


def test_a_reply_that_never_comes_is_not_waited_for_for_ever(link: FakeLink, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else everything that is pushed from then on would be kept alive."""
    monkeypatch.setattr(registries, "_MOST_CALLS_WAITED_FOR_LATE", 5)
    stepped = Stepped(link, KeyboardInterrupt())
    stepped.push()
    for _ in range(5):
        Variable("x")
        assert "copy" in link.registries.variables
    for _ in range(3):
        Variable("x")
    gc.collect()
    assert "copy" not in link.registries.variables
    assert stepped.parameter in link.registries.unsure
    link.reply_late(error=CANCELLED)
