from __future__ import annotations

import json
from typing import Any

import pytest

from tellurio_sync.backend.engine.backward import backprop_variables
from tellurio_sync.backend.objects import Variable
from tellurio_sync.backend.prompts import CRITIC, PROPAGATOR, ChatMessage, read_blocks
from tellurio_sync.backend.questions import QuestionFailed
from tellurio_sync.backend.refused import Refused

from .scripted import ScriptedHost, answer_like_a_model, grads

# Protocol §G.2
TEXT_1 = (
    "The evaluation function, designed for 'exact match', compared the <DATA> field of the predicted variable ('green')"
    " with the <DATA> field of the target variable ('red'), resulting in a score: 0."
)
TEXT_2 = (
    "The evaluation function, designed for 'exact match', compared the <DATA> fields of the predicted variable and the "
    "target variable across all samples in the batch, generating individual scores for each pair. These scores were "
    "then aggregated using the reduction function 'summation', resulting in a final aggregated score: 1."
)
TEXT_3 = (
    "The evaluation function, designed using an LM as the judge, compared the <DATA> fields of the predicted variable "
    "and the target variable across all samples in the batch. These scores were then aggregated using the reduction "
    "function 'summation', resulting in a final aggregated score: 3."
)


def deterministic(
    host: ScriptedHost,
    prediction: Variable,
    target: Any,
    *,
    eval_fn: Any = lambda p, t: int(p == t),
    purpose: Any = "exact match",
    success_fn: Any = None,
    reduction_fn: Any = sum,
    reduction_purpose: Any = "summation",
) -> list[Variable]:
    functions = [host.function(f) if f is not None else None for f in (success_fn, reduction_fn)]
    return host.run(
        "DeterministicEvaluator",
        prediction,
        target,
        host.function(eval_fn),
        purpose,
        functions[0],
        functions[1],
        reduction_purpose,
    )


def test_deterministic_scalar() -> None:
    host = ScriptedHost()
    prediction, target = host.variable("green", "color", True), host.variable("red", "target")
    score, explanation = deterministic(host, prediction, target)
    assert (score.data, score.role) == (0, "Evaluation result score of color")
    assert (explanation.data, explanation.role) == (TEXT_1, "Evaluation result explanation of color")
    assert (score.output_nr, explanation.output_nr) == (0, 1)
    assert score.grad_fn is explanation.grad_fn
    assert score.grad_fn is not None
    assert [edge.target for edge in score.grad_fn.edges] == [prediction.accumulator, None]
    assert score.grad_fn.name.startswith("DeterministicEvaluatorBackward")


def test_deterministic_batch_calls_eval_fn_once_per_sample_and_reduces() -> None:
    host = ScriptedHost()
    seen: list[Any] = []

    def eval_fn(prediction: str, target: str) -> int:
        seen.append((prediction, target))
        return int(prediction == target)

    score, explanation = deterministic(
        host, host.variable(["green", "red"], "color", True), ["red", "red"], eval_fn=eval_fn
    )
    assert sorted(seen) == [("green", "red"), ("red", "red")]
    assert (score.data, explanation.data) == (1, TEXT_2)


def test_deterministic_batch_without_reduction_and_one_target_for_all() -> None:
    host = ScriptedHost()
    prediction = host.variable(["green", "red"], "color", True)
    score, explanation = deterministic(host, prediction, "red", reduction_fn=None, reduction_purpose=None)
    assert score.data == [0, 1]
    assert explanation.data[0] == TEXT_1


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"target": ["a"]}, "same length"),
        ({"purpose": " "}, "`eval_fn_purpose` must"),
        ({"reduction_purpose": ""}, "`reduction_fn_purpose` must"),
        ({"eval_fn": lambda p, t: "good"}, "`eval_fn` must return a number, not str"),
        ({"reduction_fn": lambda scores: None}, "`reduction_fn` must return a number"),
    ],
)
def test_deterministic_refuses(arguments: dict[str, Any], text: str) -> None:
    host = ScriptedHost()
    target = arguments.pop("target", ["a", "b"])
    with pytest.raises(Refused) as caught:
        deterministic(host, host.variable(["a", "b"]), target, **arguments)
    assert text in caught.value.text


def test_purposes_may_be_variables() -> None:
    host = ScriptedHost()
    purpose, reduction = host.variable("exact match"), host.variable("summation")
    prediction = host.variable("green", "color", True)
    score, explanation = deterministic(host, prediction, "red", purpose=purpose, reduction_purpose=reduction)
    assert explanation.data == TEXT_1
    assert score.grad_fn is not None
    assert [edge.target for edge in score.grad_fn.edges] == [prediction.accumulator, None, None]


@pytest.mark.parametrize(
    ("prediction", "target", "score", "text"),
    [
        ("green", "red", 0, TEXT_1),
        (["green", "red"], ["red", "red"], 1, TEXT_2),
        ("red", "red", 1, TEXT_1.replace("green", "red").replace("score: 0", "score: 1")),
    ],
)
def test_exact_match(prediction: Any, target: Any, score: int, text: str) -> None:
    host = ScriptedHost()
    outputs = host.run("ExactMatchEvaluator", host.variable(prediction, "color"), host.variable(target))
    assert [output.data for output in outputs] == [score, text]


def test_only_the_prediction_gets_feedback() -> None:
    host = ScriptedHost()
    prediction, target = host.variable("green", "color", True), host.variable("red", "target", True)
    _, explanation = host.run("ExactMatchEvaluator", prediction, target)
    assert backprop_variables([explanation]) == [prediction]
    host.backward(explanation)
    assert grads(prediction) == ["criticism of green"]
    assert grads(target) == []
    ((system, user),) = host.asked
    assert system["content"].splitlines()[0] == CRITIC
    blocks = {
        name: read_blocks(user["content"], name) for name in ("TARGET", "PURPOSE", "SCORE", "EXPLANATION", "FEEDBACK")
    }
    assert blocks == {
        "TARGET": ["red"],
        "PURPOSE": ["exact match"],
        "SCORE": ["0"],
        "EXPLANATION": [TEXT_1],
        "FEEDBACK": [],
    }


@pytest.mark.parametrize("output_nr", [0, 1])
def test_score_and_explanation_go_back_without_a_gradient(output_nr: int) -> None:
    host = ScriptedHost()
    prediction = host.variable(["green", "red"], "color", True)
    output = host.run("ExactMatchEvaluator", prediction, ["blue", "blue"], None)[output_nr]
    assert isinstance(output.data, list)
    host.backward(output)
    assert grads(prediction) == [["criticism of green", "criticism of red"]]


@pytest.mark.parametrize(
    ("prediction", "target", "feedback"), [("red", "red", ""), ("red", "blue", "criticism of red")]
)
def test_what_is_right_is_left_alone(prediction: str, target: str, feedback: str) -> None:
    for is_batch in (False, True):
        host = ScriptedHost()
        color = host.variable([prediction] if is_batch else prediction, "color", True)
        host.backward(host.run("ExactMatchEvaluator", color, target)[1])
        assert grads(color) == [[feedback] if is_batch else feedback]
        assert len(host.asked) == bool(feedback)


def test_what_is_right_is_criticised_where_feedback_came_from_behind() -> None:
    host = ScriptedHost()
    color = host.variable(["red", "blue"], "color", True)
    _, explanation = host.run("ExactMatchEvaluator", color, "red", None)
    host.backward(explanation, gradients=[["Mind the season.", ""]])
    assert grads(color) == [["criticism of red", "criticism of blue"]]


def test_beside_what_is_wrong_the_critic_says_what_must_be_kept() -> None:
    host = ScriptedHost()
    color = host.variable(["red", "blue"], "color", True)
    host.backward(host.run("ExactMatchEvaluator", color, "red", None)[1])
    assert grads(color) == [["criticism of red", "criticism of blue"]]


def test_the_same_criticism_is_asked_for_once() -> None:
    """The critic sees prediction, target and score, and these are often the same in many samples."""
    host = ScriptedHost()
    color = host.variable(["red", "green", "red", "red", None], "color", True)
    host.backward(host.run("ExactMatchEvaluator", color, ["blue", "blue", "blue", "black", "blue"], None)[1])
    assert grads(color) == [["criticism of red", "criticism of green", "criticism of red", "criticism of red", ""]]
    assert len(host.asked) == 3


def test_the_same_criticism_that_fails_is_missing_for_all_of_them() -> None:
    def answer(messages: list[ChatMessage]) -> str:
        if "\nred\n" in messages[1]["content"]:
            raise QuestionFailed("refused", "not this one")
        return answer_like_a_model(messages)

    host = ScriptedHost(answer)
    color = host.variable(["red", "green", "red", "gray"], "color", True)
    host.backward(host.run("ExactMatchEvaluator", color, "blue", None)[1])
    assert grads(color) == [["", "criticism of green", "", "criticism of gray"]]
    (left,) = host.left_out
    assert [failure.sample for failure in left.failures] == [0, 2]


def test_feedback_from_behind_is_shown_to_the_critic() -> None:
    host = ScriptedHost()
    _, explanation = host.run("ExactMatchEvaluator", host.variable("green", "color", True), "red")
    host.backward(explanation, gradients=["Mind the season."])
    assert read_blocks(host.asked[0][1]["content"], "FEEDBACK") == ["Mind the season."]


@pytest.mark.parametrize(("is_success", "feedback", "asked"), [(True, ["", ""], 0), (False, ["criticism of a"], 2)])
def test_success_leaves_empty_feedback(is_success: bool, feedback: list[str], asked: int) -> None:
    host = ScriptedHost()
    seen: list[Any] = []
    prediction = host.variable(["a", "b"], "letter", True)

    def success_fn(scores: list[int]) -> bool:
        seen.append(scores)
        return is_success

    _, explanation = deterministic(host, prediction, ["a", "c"], success_fn=success_fn)
    host.backward(explanation)
    assert seen == [[1, 0]]
    assert grads(prediction)[0][: len(feedback)] == feedback
    assert len(host.asked) == asked


def test_a_batch_goes_back_through_chat_and_evaluator() -> None:
    host = ScriptedHost()
    prompt = host.variable("Classify.", "system prompt", True)
    messages = [{"role": "system", "content": [prompt]}, {"role": "user", "content": ["{mail}"]}]
    (answer,) = host.run("ChatCompletion", host.model(), messages, {"mail": ["one", "two"]})
    _, explanation = host.run("ExactMatchEvaluator", answer, ["ONE", "TWO!"])
    host.backward(explanation)
    items = "<ITEM>criticism of ONE for system prompt</ITEM><ITEM>criticism of TWO for system prompt</ITEM>"
    assert grads(prompt) == [items]
    # The prompt stands in the question once.
    asked = host.asked[-1][1]["content"]
    assert asked.count("Classify.") == 1
    assert read_blocks(read_blocks(asked, "MESSAGE")[0], "DATA") == ["[variable_1]"]


# --- a language model as judge ------------------------------------------------------------------


def judge_host(score: Any = 1.5) -> ScriptedHost:
    def answer(messages: list[ChatMessage]) -> str:
        if messages[0]["content"].startswith("Judge"):
            return json.dumps({"score": score, "explanation": f"about {messages[1]['content']}"})
        return answer_like_a_model(messages)

    return ScriptedHost(answer)


def judge_messages(host: ScriptedHost) -> list[dict[str, Any]]:
    return [
        {"role": "system", "content": [host.variable("Judge {style}.", "judge prompt", True)]},
        {"role": "user", "content": [host.variable("{prediction} / {target}", "user prompt")]},
    ]


def test_judge_scalar() -> None:
    host = judge_host()
    messages = judge_messages(host)
    prediction = host.variable("green", "color", True)
    score, explanation = host.run(
        "LMJudgeEvaluator", host.model(), messages, prediction, "red", {"style": "fairly"}, temperature=0
    )
    assert (score.data, explanation.data) == (1.5, "about green / red")
    assert explanation.role == "Evaluation result explanation of color"
    assert host.asked[0][0]["content"] == "Judge fairly."
    assert host.completion_args == [{"temperature": 0}]
    assert backprop_variables([score]) == [prediction]
    host.backward(explanation)
    assert grads(prediction) == ["criticism of green"]


def test_judge_batch() -> None:
    host = judge_host()
    prediction = host.variable(["green", "blue"], "color", True)
    score, explanation = host.run("LMJudgeEvaluator", host.model(), judge_messages(host), prediction, ["red", "red"])
    assert (score.data, explanation.data) == (3.0, TEXT_3.replace("score: 3.", "score: 3.0."))
    host.backward(score)
    assert grads(prediction) == [["criticism of green", "criticism of blue"]]


def test_judge_under_training_gets_the_feedback_itself() -> None:
    host = judge_host()
    messages = judge_messages(host)
    prompt = messages[0]["content"][0]
    style, prediction = host.variable("fairly", "style", True), host.variable("green", "color", True)
    score, explanation = host.run(
        "LMJudgeEvaluator", host.model(), messages, prediction, "red", {"style": style}, eval_mode=host.variable(False)
    )
    assert set(backprop_variables([score])) == {prompt, style}
    assert score.grad_fn is not None
    assert len(score.grad_fn.edges) == 5
    host.asked.clear()
    host.backward(explanation, gradients=["Too soft."])
    assert grads(prompt) == ["Too soft. for judge prompt"]
    assert grads(style) == ["Too soft. for style"]
    assert grads(prediction) == []
    ((system, user),) = host.asked
    assert system["content"].startswith(PROPAGATOR)
    assert '"score": 1.5' in read_blocks(user["content"], "OUTPUT")[0]
    inputs = [read_blocks(block, "NAME")[0] for block in read_blocks(user["content"], "INPUT")]
    assert inputs == ["style", "prediction", "target"]


@pytest.mark.parametrize("name", ["prediction", "target"])
def test_judge_refuses_reserved_names(name: str) -> None:
    host = judge_host()
    with pytest.raises(Refused) as caught:
        host.run("LMJudgeEvaluator", host.model(), judge_messages(host), host.variable("x"), None, {name: "y"})
    assert f"must not use the name '{name}'" in caught.value.text


def test_judge_needs_a_number() -> None:
    host = judge_host(score="high")
    with pytest.raises(Refused) as caught:
        host.run("LMJudgeEvaluator", host.model(), judge_messages(host), host.variable("x"))
    assert "the score is not a number" in caught.value.text
    assert len(host.asked) == 3
