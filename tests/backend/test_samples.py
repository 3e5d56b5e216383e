"""One bad sample is one bad sample: forward, in evaluators, and backward."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from tellurio_sync.backend.engine.concurrency import AT_ONCE
from tellurio_sync.backend.engine.samples import Failure, SamplesFailed, gather, told
from tellurio_sync.backend.objects import Variable
from tellurio_sync.backend.prompts import CRITIC, PROPAGATOR, ChatMessage
from tellurio_sync.backend.questions import QuestionFailed
from tellurio_sync.backend.refused import Refused

from .scripted import ScriptedHost, answer_like_a_model, grads, run

MAILS = [f"mail {i}" for i in range(20)]
BLOCKED = QuestionFailed("blocked", "The content filter of the endpoint did not let it through.", "It said: no.")


def answering(bad: Callable[[str, list[ChatMessage]], Exception | None]) -> Callable[[list[ChatMessage]], str]:
    """Answers, unless ``bad(first line, messages)`` gives an error."""

    def answer(messages: list[ChatMessage]) -> str:
        error = bad(messages[0]["content"].splitlines()[0], messages)
        if error is not None:
            raise error
        return answer_like_a_model(messages)

    return answer


def forward_fails_for(*words: str, error: Exception = BLOCKED) -> Callable[[list[ChatMessage]], str]:
    return answering(
        lambda first, messages: (
            error if first not in (CRITIC, PROPAGATOR) and messages[-1]["content"] in words else None
        )
    )


def chat(host: ScriptedHost, mails: Any, **options: Any) -> Variable:
    messages = [
        {"role": "system", "content": [host.variable("Be kind.", "system prompt", True)]},
        {"role": "user", "content": [host.variable("{mail}", "user prompt")]},
    ]
    (output,) = host.run("ChatCompletion", host.model(), messages, {"mail": mails}, **options)
    return output


class TestForward:
    def test_the_error_names_the_sample_and_keeps_the_others_answers(self) -> None:
        host = ScriptedHost(forward_fails_for("mail 3", "mail 17"))
        with pytest.raises(SamplesFailed) as caught:
            chat(host, MAILS)
        assert len(host.asked) == 20
        assert str(caught.value).startswith(
            "2 of 20 samples failed (counted from 0): samples 3, 17: The content filter of the endpoint did not let it "
            "through. It said: no. The error's `results` hold those of the other samples"
        )
        data = caught.value.data
        assert data["exception"] == str(caught.value)
        assert data["kind"] == "blocked"
        assert data["results"] == [None if i in (3, 17) else f"MAIL {i}" for i in range(20)]
        assert data["failures"] == [{"sample": i, "kind": "blocked", "error": str(BLOCKED)} for i in (3, 17)]

    def test_left_out_they_are_gaps(self) -> None:
        host = ScriptedHost(forward_fails_for("mail 3"))
        output = chat(host, MAILS, on_error="skip")
        assert output.data == [None if i == 3 else f"MAIL {i}" for i in range(20)]
        (left_out,) = host.left_out
        assert left_out.as_json() == {
            "text": f"1 of 20 samples failed (counted from 0): sample 3: {BLOCKED} "
            "What was asked goes on without them.",
            "size": 20,
            "failures": [{"sample": 3, "kind": "blocked", "error": str(BLOCKED)}],
        }

    @pytest.mark.parametrize("on_error", ["raise", "skip"])
    def test_without_any_answer_there_is_nothing_to_go_on_with(self, on_error: str) -> None:
        host = ScriptedHost(forward_fails_for(*MAILS))
        with pytest.raises(SamplesFailed) as caught:
            chat(host, MAILS, on_error=on_error)
        assert len(host.asked) == 20
        assert str(caught.value) == f"All 20 samples failed, for one reason: {BLOCKED}"

    def test_on_a_single_sample_it_is_the_failure_itself(self) -> None:
        for on_error in ("raise", "skip"):
            with pytest.raises(QuestionFailed) as caught:
                chat(ScriptedHost(forward_fails_for("mail 3")), "mail 3", on_error=on_error)
            assert caught.value is BLOCKED

    @pytest.mark.parametrize("value", ["ignore", None, True, "x" * 10_000])
    def test_a_wrong_word(self, value: Any) -> None:
        with pytest.raises(Refused, match="`on_error` must be 'raise' or 'skip'") as caught:
            chat(ScriptedHost(), MAILS, on_error=value)
        assert len(str(caught.value)) < 200

    @pytest.mark.parametrize("on_error", ["raise", "skip"])
    @pytest.mark.parametrize("kind", ["settings", "key", "budget"])
    def test_what_stops_all_stops_all(self, kind: Any, on_error: str) -> None:
        """Nobody waits for a thousand refusals of one wrong key."""
        error = QuestionFailed(kind, "None of them can be answered.")
        host = ScriptedHost(forward_fails_for(*MAILS, error=error))
        with pytest.raises(QuestionFailed) as caught:
            chat(host, MAILS, on_error=on_error)
        assert caught.value is error
        assert len(host.asked) == 1

    @pytest.mark.parametrize("on_error", ["raise", "skip"])
    def test_a_budget_that_ends_in_the_middle_ends_the_call_with_what_was_paid(self, on_error: str) -> None:
        error = QuestionFailed("budget", "The budget is used up.")
        host = ScriptedHost(forward_fails_for("mail 12", error=error))
        with pytest.raises(SamplesFailed) as caught:
            chat(host, MAILS, on_error=on_error)
        assert caught.value.data["kind"] == "budget"
        assert caught.value.data["results"] == [f"MAIL {i}" if i < 12 else None for i in range(20)]
        assert [one["kind"] for one in caught.value.data["failures"]] == ["budget"] + 7 * ["not_asked"]
        assert len(host.asked) == 13

    def test_where_nobody_listens_the_rest_is_not_asked(self) -> None:
        error = QuestionFailed("unreachable", "Nobody listens there.")
        host = ScriptedHost(forward_fails_for(*MAILS, error=error))
        with pytest.raises(SamplesFailed) as caught:
            chat(host, MAILS)
        assert len(host.asked) == 8
        assert caught.value.data["kind"] == "unreachable"

    def test_where_somebody_did_all_are_asked(self) -> None:
        error = QuestionFailed("unreachable", "Nobody listens there.")
        host = ScriptedHost(forward_fails_for(*MAILS[1:], error=error))
        with pytest.raises(SamplesFailed):
            chat(host, MAILS)
        assert len(host.asked) == 20

    def test_a_defect_is_no_bad_sample(self) -> None:
        with pytest.raises(ZeroDivisionError):
            chat(ScriptedHost(forward_fails_for("mail 3", error=ZeroDivisionError())), MAILS, on_error="skip")


class TestGaps:
    """What is missing in a batch is missing in what is made of it, and nobody pays for it."""

    def test_no_question_is_asked_about_one(self) -> None:
        host = ScriptedHost()
        output = chat(host, host.variable(["one", None, "three"], "mail"))
        assert output.data == ["ONE", None, "THREE"]
        assert len(host.asked) == 2
        assert host.left_out == []

    def test_nor_about_a_variable_of_a_list(self) -> None:
        host = ScriptedHost()
        assert chat(host, [host.variable("one"), host.variable(None)]).data == ["ONE", None]

    def test_a_batch_of_gaps(self) -> None:
        host = ScriptedHost()
        assert chat(host, host.variable([None, None], "mail"), on_error="skip").data == [None, None]
        assert host.asked == []

    def test_other_functions(self) -> None:
        host = ScriptedHost()
        texts, numbers = host.variable(["a b", None], "texts"), host.variable([None, 2], "numbers")
        assert host.run("Add", texts, host.variable(["!", "!"]))[0].data == ["a b!", None]
        assert host.run("Sum", [texts, texts])[0].data == ["<ITEM>a b</ITEM><ITEM>a b</ITEM>", None]
        assert host.run("Sum", [numbers, numbers])[0].data == [None, 4]
        assert [part.data for part in host.run("Split", texts)] == [["a", None], ["b", None]]
        for name, arguments in (("Add", (host.variable(None), host.variable("x"))), ("Split", (host.variable(None),))):
            with pytest.raises(Refused):
                host.run(name, *arguments)

    def test_evaluators_score_them_as_wrong_without_asking(self) -> None:
        host = ScriptedHost()
        prediction = host.variable(["red", None, "blue"], "color", True)
        seen = []

        def score(one: Any, target: Any) -> int:
            seen.append(one)
            return 1

        function = host.function(score)
        scores, explanations = host.run("DeterministicEvaluator", prediction, "x", function, "p", None, None, "")
        assert scores.data == [1, 0, 1]
        assert seen == ["red", "blue"]
        assert "no prediction for this sample" in explanations.data[1]
        total, _ = host.run("ExactMatchEvaluator", prediction, ["red", None, "blue"])
        assert total.data == 2
        judge = [{"role": "user", "content": [host.variable("{prediction}", "judge")]}]
        host._answer = lambda messages: '{"score": 5, "explanation": "fine"}'
        assert host.run("LMJudgeEvaluator", host.model(), judge, prediction)[0].data == 10
        assert len(host.asked) == 2

    def test_backward_leaves_them_out(self) -> None:
        host = ScriptedHost(forward_fails_for("mail 1"))
        output = chat(host, MAILS[:3], on_error="skip")
        prompt = output.grad_fn.edges[0].target.outputs[0]  # type: ignore[union-attr]
        _, explanation = host.run("ExactMatchEvaluator", output, ["a", "b", "c"])
        host.asked.clear()
        host.backward(explanation)
        assert [messages[0]["content"].splitlines()[0] for messages in host.asked] == 2 * [CRITIC] + 2 * [PROPAGATOR]
        (gradient,) = grads(prompt)
        assert gradient.count("<ITEM></ITEM>") == 1


class TestEvaluators:
    def evaluate(self, host: ScriptedHost, eval_fn: Any, **options: Any) -> list[Variable]:
        prediction = host.variable(["a", "b", "c", "d"], "letter", True)
        return host.run(
            "DeterministicEvaluator", prediction, "x", host.function(eval_fn), "p", None, None, "", **options
        )

    def failing_on(self, *letters: str) -> Any:
        def eval_fn(prediction: Any, target: Any) -> int:
            if prediction in letters:
                raise Refused("KeyError: 'b'")
            return 1

        return eval_fn

    def test_the_error_names_the_sample(self) -> None:
        with pytest.raises(SamplesFailed) as caught:
            self.evaluate(ScriptedHost(), self.failing_on("b"))
        assert str(caught.value).startswith("1 of 4 samples failed (counted from 0): sample 1: KeyError: 'b'")
        assert caught.value.data["results"] == [1, None, 1, 1]

    def test_left_out_it_counts_as_wrong_and_gets_no_feedback(self) -> None:
        host = ScriptedHost()
        scores, explanations = self.evaluate(host, self.failing_on("b"), on_error="skip")
        assert scores.data == [1, 0, 1, 1]
        assert "could not be evaluated" in explanations.data[1]
        assert [failure.sample for failure in host.left_out[0].failures] == [1]
        host.backward(explanations, gradients=[["", "", "", ""]])
        assert sum(messages[0]["content"].startswith(CRITIC) for messages in host.asked) == 3

    def test_a_judge(self) -> None:
        host = ScriptedHost()
        judge = [{"role": "user", "content": [host.variable("{prediction}", "judge", True)]}]
        prediction = host.variable(["a", "b", "c"], "letter", True)

        def answer(messages: list[ChatMessage]) -> str:
            if messages[0]["content"] == "b":
                raise BLOCKED
            return '{"score": 1, "explanation": "fine"}'

        host._answer = answer
        options = {"reduction_fn": None, "eval_mode": False}
        with pytest.raises(SamplesFailed) as caught:
            host.run("LMJudgeEvaluator", host.model(), judge, prediction, **options)
        assert caught.value.data["results"] == [1, None, 1]
        score, _ = host.run("LMJudgeEvaluator", host.model(), judge, prediction, on_error="skip", **options)
        assert score.data == [1, 0, 1]
        host.asked.clear()
        host._answer = lambda messages: '{"variable_1": "better"}'
        host.backward(score)
        assert len(host.asked) == 2


class TestBackward:
    def trained(self, host: ScriptedHost, count: int = 4) -> tuple[Variable, Variable]:
        """The prompt, and the explanation to go backward from."""
        output = chat(host, MAILS[:count])
        _, explanation = host.run("ExactMatchEvaluator", output, ["x"] * count)
        return output.grad_fn.edges[0].target.outputs[0], explanation  # type: ignore[union-attr]

    @pytest.mark.parametrize("question", [CRITIC, PROPAGATOR])
    def test_a_sample_without_feedback_is_left_out(self, question: str) -> None:
        host = ScriptedHost(
            answering(lambda first, messages: BLOCKED if first == question and "MAIL 2" in str(messages) else None)
        )
        prompt, explanation = self.trained(host)
        host.backward(explanation)
        (gradient,) = grads(prompt)
        assert gradient.count("<ITEM>") == 4
        assert gradient.count("<ITEM></ITEM>") == 1
        assert [failure.sample for one in host.left_out for failure in one.failures] == [2]
        assert host.left_out[0].size == 4

    @pytest.mark.parametrize(
        ("max_failed", "is_raised"), [(0.0, True), (0.49, True), (0.5, False), (1.0, False), (0.74, False)]
    )
    @pytest.mark.parametrize("question", [CRITIC, PROPAGATOR])
    def test_too_many_of_them_fail_the_pass_and_leave_the_graph_whole(
        self, question: str, max_failed: float, is_raised: bool
    ) -> None:
        is_down = True

        def bad(first: str, messages: list[ChatMessage]) -> Exception | None:
            hit = first == question and ("MAIL 1" in str(messages) or "MAIL 2" in str(messages))
            return BLOCKED if hit and is_down else None

        host = ScriptedHost(answering(bad))
        host.max_failed = max_failed
        prompt, explanation = self.trained(host)
        if not is_raised:
            host.backward(explanation)
            assert grads(prompt)[0].count("<ITEM></ITEM>") == 2
            return
        with pytest.raises(SamplesFailed) as caught:
            host.backward(explanation)
        assert str(caught.value).startswith("2 of 4 samples failed (counted from 0): samples 1, 2: ")
        assert "can be tried again" in str(caught.value)
        assert grads(prompt) == []
        is_down = False
        host.backward(explanation)
        assert len(grads(prompt)) == 1

    def test_all_may_fail_if_the_user_says_so(self) -> None:
        host = ScriptedHost(answering(lambda first, messages: BLOCKED if first == CRITIC else None))
        host.max_failed = 1.0
        prompt, explanation = self.trained(host)
        host.backward(explanation)
        assert grads(prompt) == [""]

    def test_of_a_single_sample_it_is_the_failure_itself(self) -> None:
        host = ScriptedHost(answering(lambda first, messages: BLOCKED if first == PROPAGATOR else None))
        output = chat(host, "mail")
        with pytest.raises(QuestionFailed) as caught:
            host.backward(output, gradients=["bad"])
        assert caught.value is BLOCKED


class TestGather:
    def test_at_most_so_many_at_once_and_all_others_ended_on_a_defect(self) -> None:
        running, most = set(), 0

        async def work(index: int) -> int:
            nonlocal most
            running.add(index)
            most = max(most, len(running))
            try:
                await asyncio.sleep(0 if index < 30 else 3600)
                if index == 30:
                    raise AssertionError("unreachable")
                if index == 29:
                    raise ZeroDivisionError
            finally:
                running.discard(index)
            return index

        with pytest.raises(ZeroDivisionError):
            run(gather(work, range(100)))
        assert most == AT_ONCE
        assert not running

    def test_the_text_stays_short_whatever_went_wrong(self) -> None:
        failures = [Failure(i, "other", f"{i} " + "x" * 100_000) for i in range(1000)]
        text = told(failures, 5000)
        assert text.startswith("1000 of 5000 samples failed (counted from 0): sample 0: 0 xxx")
        assert text.endswith("and 997 more samples for other reasons.")
        assert len(text) < 1500

    def test_of_what_failed_it_keeps_a_piece(self) -> None:
        async def work(index: int) -> None:
            raise Refused("y" * 100_000)

        found = run(gather(work, range(3)))
        assert max(len(failure.error) for failure in found.failures) < 700


def failing(kinds: str) -> list[Failure]:
    """One letter a sample: b is blocked, t took too long, n was not asked."""
    said = {"b": ("blocked", "No."), "t": ("timeout", "It took too long."), "n": ("not_asked", "It was not asked.")}
    return [Failure(index, *said[kind]) for index, kind in enumerate(kinds)]


@pytest.mark.parametrize(
    ("kinds", "size", "text"),
    [
        ("bbb", 3, "All 3 samples failed, for one reason: No."),
        ("bbnnn", 5, "All 5 samples failed, for one reason (2 of them were asked, and then no more): No."),
        ("bbb", 4, "3 of 4 samples failed (counted from 0): samples 0, 1, 2: No."),
        ("btb", 3, "3 of 3 samples failed (counted from 0): samples 0, 2: No. sample 1: It took too long."),
        ("b", 1, "1 of 1 samples failed (counted from 0): sample 0: No."),
    ],
)
def test_one_reason_of_all_is_said_once(kinds: str, size: int, text: str) -> None:
    """As when no endpoint listens: a reader needs the reason, and no list of samples."""
    assert told(failing(kinds), size) == text
