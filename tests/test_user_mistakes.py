"""Mistakes of a new user: each message names the mistake, the place and the remedy, where the mistake is made."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import tellurio_sync as te

from .session.conftest import backend, make_session, session  # noqa: F401 - fixtures


@pytest.fixture
def in_session(session: te.Session) -> Iterator[None]:  # noqa: F811
    with session.use():
        yield


def chat(text: str = "{mail} {style}") -> te.MultiTurnMessages:
    return [{"role": "user", "content": [te.Variable(text, role="question")]}]


def ask(answer: Callable[..., Any] = lambda messages, **options: "x", inputs: Any = None, **options: Any) -> Any:
    lm = te.CallableModel(answer)
    return te.functional.chat_completion(lm, chat("hi" if inputs is None else "{mail} {style}"), inputs, **options)


def no_options(messages: Any) -> str:
    return "x"


def with_a_bug(messages: Any, **options: Any) -> str:
    return str(messages[0]["contents"])


def scores_wrongly(prediction: str, target: str) -> float:
    return prediction.data == target  # type: ignore[attr-defined]


def score(eval_fn: Any) -> Any:
    answer = te.Variable(["x", "y"], role="answer")
    return te.functional.deterministic_evaluator(answer, ["x", "y"], eval_fn, "sameness")


LENGTHS = "The lists of a batch must have the same length: "
MISTAKES: dict[str, tuple[Callable[[], object], type[Exception], str]] = {
    "columns of two lengths": (
        lambda: ask(inputs={"mail": ["a", "b"], "style": ["x"]}),
        te.UsageError,
        LENGTHS + r"inputs\['mail'\] has 2, inputs\['style'\] has 1\.",
    ),
    "a column and a Variable in the messages": (
        lambda: te.functional.chat_completion(
            te.CallableModel(no_options),
            [{"role": "user", "content": [te.Variable("{a}", role="r"), te.Variable(["x", "y", "z"], role="r")]}],
            {"a": ["1", "2"]},
        ),
        te.UsageError,
        LENGTHS + r'messages\[0\]\["content"\]\[1\] has 3, inputs\[\'a\'\] has 2\.',
    ),
    "targets of another length": (
        lambda: te.functional.exact_match_evaluator(te.Variable(["a", "b"], role="answer"), ["a"]),
        te.UsageError,
        LENGTHS + r"prediction has 2, target has 1\.",
    ),
    "a judge's targets": (
        lambda: te.functional.lm_judge_evaluator(
            te.CallableModel(no_options), chat("{prediction}"), te.Variable(["a", "b"], role="answer"), ["a"]
        ),
        te.UsageError,
        LENGTHS + r"prediction has 2, target has 1\.",
    ),
    "a bug in the own model": (
        lambda: ask(with_a_bug),
        te.RemoteError,
        r"KeyError: 'contents'.*\(in with_a_bug, test_user_mistakes\.py line \d+\)$",
    ),
    "a bug in the own evaluator": (
        lambda: score(scores_wrongly),
        te.RemoteError,
        r"'str' object has no attribute 'data'.*\(in scores_wrongly, test_user_mistakes\.py line \d+\)$",
    ),
    "a model that takes no options": (
        lambda: ask(no_options, temperature=0),
        te.RemoteError,
        r"no_options\(\) got an unexpected keyword argument 'temperature'$",
    ),
    "an address without http://": (
        lambda: te.OpenAI(api_key="k", base_url="127.0.0.1:11434/v1"),
        ValueError,
        r"^base_url must begin with http:// or https://, such as http://127\.0\.0\.1:11434/v1\.$",
    ),
    "fit without a module": (
        lambda: te.Trainer(max_epochs=1).fit(3, [1]),  # type: ignore[arg-type]
        TypeError,
        r"Trainer\.fit\(\) takes a te\.Module first, not int\..*te\.fit",
    ),
    "a function at the wrong place": (
        lambda: te.chat_completion,
        AttributeError,
        "has no attribute 'chat_completion': it is te.functional.chat_completion$",
    ),
    "an error at the wrong place": (lambda: te.CallError, AttributeError, "it is te.errors.CallError$"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_named_where_it_is_made(in_session: None, mistake: str) -> None:
    make, kind, text = MISTAKES[mistake]
    with pytest.raises(kind) as caught:
        make()
    assert re.search(text, str(caught.value)), caught.value


def test_an_address_that_is_refused_is_not_shown() -> None:
    """It may hold a key, in the place of the user or in the query."""
    with pytest.raises(ValueError, match="base_url") as caught:
        te.OpenAI(api_key="k", base_url="user:geheim@host/v1?key=geheim")
    assert "geheim" not in str(caught.value)


def test_after_close_the_error_says_what_to_do(session: te.Session) -> None:  # noqa: F811
    client = session.client
    client.close()
    with pytest.raises(te.NotConnected, match=r"it was closed\. Connect, or log in, again\.$"):
        client.call("m", {"run_uuid": "r"})
