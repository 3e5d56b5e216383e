"""Samples that fail: what the user may ask for, is told, and can go on with."""

from __future__ import annotations

import copy
import pickle
import warnings
from typing import Any

import pytest

import tellurio_sync as te
from tellurio_sync.errors import RemoteError, RemoteInternalError, SampleFailure, SamplesFailed, SamplesLeftOut
from tellurio_sync.model.language import CallableModel

from ..model.fake_link import FakeLink, link

__all__ = ["link"]

FAILURES = [{"sample": 1, "kind": "blocked", "error": "no"}, {"sample": 3, "kind": "timeout", "error": "late"}]
REPORT = {"text": "2 of 4 samples failed", "size": 4, "failures": FAILURES}
FOUND = (SampleFailure(1, "blocked", "no"), SampleFailure(3, "timeout", "late"))


def chat(link: FakeLink, **options: Any) -> te.Variable:
    model = CallableModel(lambda messages: "x")
    content = [te.Variable("{mail}", role="mail")]
    return te.functional.chat_completion(
        model, [{"role": "user", "content": content}], {"mail": ["a", "b", "c", "d"]}, **options
    )


def computed(link: FakeLink) -> te.Variable:
    def answer(params: dict[str, Any]) -> Any:
        node_id = link.new_id("node")
        link.push("create_node", node_id=node_id, name="AddBackward0")
        return {"data": link.computed(node_id=node_id)}

    link.answers["run_function"] = answer
    return te.functional.add(te.Parameter("a", role="r"), te.Variable("b"))


def kwargs_sent(link: FakeLink) -> dict[str, Any]:
    sent: dict[str, Any] = link.calls("run_function")[-1]["kwargs"]
    return sent


class TestOnError:
    def test_a_server_that_knows_it_is_asked_to_skip(self, link: FakeLink) -> None:
        link.extensions = frozenset({"on_error"})
        chat(link, on_error="skip", temperature=0)
        assert kwargs_sent(link) == {"on_error": "skip", "temperature": 0}

    def test_the_default_is_not_sent(self, link: FakeLink) -> None:
        link.extensions = frozenset({"on_error"})
        chat(link)
        chat(link, on_error="raise")
        assert kwargs_sent(link) == {}

    def test_another_server_would_take_it_for_an_argument_of_the_model(self, link: FakeLink) -> None:
        link.extensions = frozenset({"cancel"})
        chat(link, on_error="skip")
        assert kwargs_sent(link) == {}

    def test_evaluators_take_it_too(self, link: FakeLink) -> None:
        link.extensions = frozenset({"on_error"})
        link.answers["run_function"] = lambda params: {"data": [link.output(1), link.output("why")]}
        prediction, model = te.Variable(["a", "b"], role="p"), CallableModel(lambda messages: "x")
        te.functional.deterministic_evaluator(prediction, "x", lambda p, t: 1, "p", on_error="skip")
        assert kwargs_sent(link) == {"on_error": "skip"}
        chat = [{"role": "user", "content": [te.Variable("x", role="r")]}]
        te.functional.lm_judge_evaluator(model, chat, prediction, on_error="skip", temperature=1)
        assert kwargs_sent(link) == {"on_error": "skip", "temperature": 1}

    @pytest.mark.parametrize("value", ["ignore", None, True, "skip "])
    def test_another_word(self, link: FakeLink, value: Any) -> None:
        prediction = te.Variable(["a"], role="p")
        calls = [
            lambda: chat(link, on_error=value),
            lambda: te.functional.deterministic_evaluator(prediction, "x", lambda p, t: 1, "p", on_error=value),
            lambda: te.functional.lm_judge_evaluator(None, [], prediction, on_error=value),
        ]
        for call in calls:
            with pytest.raises(ValueError, match="on_error must be 'raise' or 'skip'"):
                call()
        assert link.calls("run_function") == []


class TestMaxFailed:
    def test_it_is_sent_to_a_server_that_knows_it(self, link: FakeLink) -> None:
        for extensions, sent in ((frozenset({"on_error"}), 0.25), (frozenset({"session"}), "absent")):
            link.extensions = extensions
            start = computed(link)
            answer_backward(link, {})
            te.backward(start, max_failed=0.25)
            assert link.calls("run_backward")[-1].get("max_failed", "absent") == sent
            te.backward(start)
            assert "max_failed" not in link.calls("run_backward")[-1]
            start.backward(max_failed=0)
            assert link.calls("run_backward")[-1].get("max_failed", "absent") == (0 if sent == 0.25 else "absent")

    @pytest.mark.parametrize(
        ("value", "error"), [(1.5, ValueError), (-0.1, ValueError), (float("nan"), ValueError), ("half", TypeError)]
    )
    def test_what_is_no_share(self, link: FakeLink, value: Any, error: type[Exception]) -> None:
        start = computed(link)
        with pytest.raises(error, match="max_failed"):
            te.backward(start, max_failed=value)
        assert link.calls("run_backward") == []


def answer_backward(link: FakeLink, more: dict[str, Any]) -> None:
    link.answers["get_backprop_ids"] = lambda params: {"message": "x", "variable_ids": []}
    link.answers["run_backward"] = lambda params: {"message": "Backward pass executed successfully.", **more}


class TestTheWarning:
    def test_of_a_function(self, link: FakeLink) -> None:
        link.answers["run_function"] = lambda params: {"data": link.output(["a", None]), "left_out": [REPORT]}
        with pytest.warns(SamplesLeftOut, match="2 of 4 samples failed") as caught:
            output = chat(link, on_error="skip")
        assert output.data == ["a", None]
        (warning,) = caught
        assert isinstance(warning.message, SamplesLeftOut)
        assert (warning.message.size, warning.message.failures) == (4, FOUND)
        # At the user's line, which is the one to look at.
        assert warning.filename == __file__

    def test_of_a_backward_pass(self, link: FakeLink) -> None:
        start = computed(link)
        answer_backward(link, {"left_out": [REPORT, {**REPORT, "text": "another"}]})
        with pytest.warns(SamplesLeftOut) as caught:
            start.backward()
        assert [str(warning.message) for warning in caught] == ["2 of 4 samples failed", "another"]
        assert caught[0].filename == __file__

    @pytest.mark.parametrize("left_out", [None, 5, {}, [5], [{}], [{"text": 5, "size": 1}], [{"text": "x"}]])
    def test_what_does_not_look_like_ours_is_not_shown(self, link: FakeLink, left_out: Any) -> None:
        link.answers["run_function"] = lambda params: {"data": link.output("x"), "left_out": left_out}
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            chat(link)

    def test_it_travels(self) -> None:
        warning = SamplesLeftOut("text", 4, FOUND)
        for twin in (pickle.loads(pickle.dumps(warning)), copy.copy(warning)):
            assert (str(twin), twin.size, twin.failures) == ("text", 4, FOUND)


class TestTheError:
    def test_it_holds_what_the_others_gave(self) -> None:
        data = {"exception": "2 failed", "results": ["a", None, "c", None], "failures": FAILURES}
        error = RemoteError.from_reply(
            {"code": -32603, "message": "Internal error", "data": data}, method="run_function"
        )
        assert isinstance(error, SamplesFailed)
        assert isinstance(error, RemoteInternalError)
        assert (str(error), error.results, error.failures) == ("2 failed", ["a", None, "c", None], FOUND)

    @pytest.mark.parametrize(
        "more", [{}, {"results": []}, {"failures": FAILURES}, {"results": [], "failures": []}, {"results": 5}]
    )
    def test_another_error_is_no_such(self, more: dict[str, Any]) -> None:
        error = RemoteError.from_reply(
            {"code": -32603, "message": "Internal error", "data": {"exception": "x", **more}}
        )
        assert type(error) is RemoteInternalError
