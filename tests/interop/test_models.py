"""Language models of afnio's: asked over HTTP, counted, and asked for feedback."""

from __future__ import annotations

from typing import Any

import pytest

from tellurio_sync.testing import ScriptedBackend

from .conftest import Drive
from .script import answer


@pytest.fixture(scope="module")
def seen(drive: Drive, backend: ScriptedBackend) -> Any:
    backend.lm.always(answer)
    return drive("models", namespace=backend.namespace, base_url=backend.lm.base_url)


@pytest.fixture(scope="module")
def questions(seen: Any, backend: ScriptedBackend) -> list[dict[str, Any]]:
    return backend.lm.requests


def usage(prompt: int, completion: int, dollars: float) -> dict[str, Any]:
    details = {"reasoning_tokens": 0, "audio_tokens": 0, "accepted_prediction_tokens": 0}
    return {
        "completion_tokens": completion,
        "prompt_tokens": prompt,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {**details, "rejected_prediction_tokens": 0},
        "cost": {"amount": pytest.approx(dollars) if dollars else 0.0, "currency": "USD"},
    }


# Each chat has 5 words in and 2 out, at 2.50 and 10.00 dollars per million (protocol §H.3).
COST = 5 * 2.5e-6 + 2 * 10e-6
# After one chat; after a batch of two more, under the model's dated name; after one with a model of unknown price;
# after clearing.
USAGES = [usage(5, 2, COST), usage(15, 6, 3 * COST), usage(20, 8, 3 * COST), usage(0, 0, 0)]


def test_usage_is_counted_and_cleared(seen: Any) -> None:
    assert seen["chats"]["zero"] == usage(0, 0, 0)
    assert seen["chats"]["usage"] == USAGES


def test_answers(seen: Any) -> None:
    chats = seen["chats"]
    assert chats["one"] == ["GREET ANN", "response", True, "ChatCompletionBackward0"]
    assert chats["edges"] == [["AccumulateGrad", 0], [None, 0]]
    assert chats["batch"] == ["GREET BEA", "GREET CEM"]
    assert chats["module"] == "GREET DEE"
    assert chats["asynchronous"] == "GREET EVE"
    assert chats["default address"] == "GREET FAY"


def test_what_the_endpoint_is_asked(questions: list[dict[str, Any]]) -> None:
    assert questions[0] == {
        "messages": [{"role": "system", "content": "You are kind."}, {"role": "user", "content": "Greet Ann"}],
        "model": "gpt-4o",
        "temperature": 0.25,
    }


def test_the_backward_model_gets_its_own_arguments(questions: list[dict[str, Any]]) -> None:
    asked = [question for question in questions if "max_tokens" in question]
    assert asked
    assert {(question["model"], question["temperature"], question["max_tokens"]) for question in asked} == {
        ("gpt-4o", 0.5, 7)
    }


ERRORS = {
    "no model name": "No model name",
    "refused": "The endpoint was told to refuse ***.",
    "no client": "ChatCompletion needs a language model",
}


@pytest.mark.parametrize("case", ERRORS)
def test_errors_reach_the_user_without_keys(seen: Any, case: str) -> None:
    error = seen["chats"]["errors"][case]["error"]
    assert error["type"] == "RuntimeError"
    assert ERRORS[case] in error["text"]
    assert "sk-test" not in error["text"]


def test_feedback(seen: Any) -> None:
    found = seen["feedback"]
    assert found["scalar"] == [["Mind: COLOUR OF GRASS? is not green", "feedback to system prompt"]]
    assert found["input"] == 0
    assert found["usage came before the flags fell"]
    assert found["batch"] == [
        "<ITEM>Mind: COLOUR OF SKY? is not blue</ITEM><ITEM>Mind: COLOUR OF SEA? is not blue</ITEM>"
    ]
    assert found["success"] == [""]


def test_a_language_model_as_judge(seen: Any) -> None:
    found = dict(seen["judged"])
    assert found.pop("scalar") == [
        0,
        "green for red",
        "Evaluation result score of colour",
        "Evaluation result explanation of colour",
    ]
    text = (
        "The evaluation function, designed using an LM as the judge, compared the <DATA> fields of the predicted "
        "variable and the target variable across all samples in the batch. These scores were then aggregated using the "
        "reduction function 'summation', resulting in a final aggregated score: 1."
    )
    assert found.pop("batch") == [1, text]
    assert "'target'" in found.pop("reserved name")["error"]["text"]
    # `eval_mode`: feedback for the prediction; else for the judge's own prompt.
    assert found == {"prediction": 1, "prompt": 0, "prediction in training": 0, "prompt in training": 1}


def test_setting_the_backward_model(seen: Any) -> None:
    # Protocol §H.4.
    assert {case: (found["error"]["type"], found["error"]["text"]) for case, found in seen["before"].items()} == {
        "getter": (
            "RuntimeError",
            "No global model client set for backward pass. Call `set_backward_model_client` to define one.",
        ),
        "path": ("ValueError", "`model_path` must be in the format 'provider/model'"),
        "provider": ("ValueError", "Unsupported provider: other."),
    }
    assert seen["backward model"] == ["openai", "gpt-4o", {"temperature": 0.5, "max_tokens": 7}, "OpenAI"]


def test_no_model_without_consent(seen: Any) -> None:
    assert seen["without consent"]["error"]["type"] == "RuntimeError"
