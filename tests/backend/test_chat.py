from __future__ import annotations

from typing import Any

import pytest

from tellurio_sync.backend.engine.conversation import fill
from tellurio_sync.backend.prompts import PROPAGATOR, ChatMessage, read_blocks
from tellurio_sync.backend.refused import Refused

from .scripted import ScriptedHost, answer_like_a_model, grads


def system_and_user(host: ScriptedHost, system: Any, user: Any = "{mail}") -> list[dict[str, Any]]:
    return [
        {"role": "system", "content": [host.variable(system, "system prompt", True)]},
        {"role": "user", "content": [host.variable(user, "user prompt")]},
    ]


def test_one_answer() -> None:
    host = ScriptedHost()
    messages = system_and_user(host, "Be kind.")
    (output,) = host.run("ChatCompletion", host.model(), messages, {"mail": "hello"}, temperature=0.0)
    assert output.data == "HELLO"
    assert output.requires_grad
    assert host.asked == [[{"role": "system", "content": "Be kind."}, {"role": "user", "content": "hello"}]]
    assert host.completion_args == [{"temperature": 0.0}]


@pytest.mark.parametrize("as_variable", [True, False])
def test_a_list_makes_a_batch_and_scalars_serve_all(as_variable: bool) -> None:
    host = ScriptedHost()
    mails: Any = ["one", "two", "three"]
    inputs = {"mail": host.variable(mails, "mail") if as_variable else mails, "name": host.variable("Ann")}
    (output,) = host.run("ChatCompletion", host.model(), system_and_user(host, "x", "{name}: {mail}"), inputs)
    assert output.data == ["ANN: ONE", "ANN: TWO", "ANN: THREE"]


def test_a_list_of_variables_is_a_batch_too() -> None:
    host = ScriptedHost()
    mails = [host.variable("one", "mail", True), host.variable("two", "mail", True)]
    (output,) = host.run("ChatCompletion", host.model(), system_and_user(host, "x"), {"mail": mails})
    assert output.data == ["ONE", "TWO"]
    host.backward(output, gradients=[["f1", "f2"]])
    assert [grads(mail) for mail in mails] == [["f1 for mail"], ["f2 for mail"]]


@pytest.mark.parametrize(
    ("messages", "inputs", "text"),
    [
        ([], None, "at least one message"),
        ([{"role": "user"}], None, "`role` and `content`"),
        ([{"role": "user", "content": [1]}], None, "list of Variables"),
        ([{"role": "user", "content": ["x"]}], {"a": ["1"], "b": ["1", "2"]}, "same length"),
        ([{"role": "user", "content": ["x"]}], {"a": []}, "empty"),
        ([{"role": "user", "content": ["x"]}], {"a": {"b": "c"}}, "must be a text"),
        ([{"role": "user", "content": ["x"]}], "inputs", "`inputs` must be an object"),
    ],
)
def test_wrong_forms_are_refused(messages: Any, inputs: Any, text: str) -> None:
    host = ScriptedHost()
    with pytest.raises(Refused) as caught:
        host.run("ChatCompletion", host.model(), messages, inputs)
    assert text in caught.value.text


@pytest.mark.parametrize(
    ("template", "result"),
    [
        ("{a} and {b}", "{b} and 2"),
        ('{"json": {a}}', '{"json": {b}}'),
        ("{{a}} {c} {", "{{a}} {c} {"),
    ],
)
def test_placeholders_are_filled_once_and_other_braces_stay(template: str, result: str) -> None:
    assert fill(template, {"a": "{b}", "b": "2"}) == result


def test_feedback_reaches_each_variable_once() -> None:
    host = ScriptedHost()
    prompt, name = host.variable("Be kind.", "system prompt", True), host.variable("Ann", "name", True)
    messages = [{"role": "system", "content": [prompt]}, {"role": "user", "content": ["{name}", name]}]
    (output,) = host.run("ChatCompletion", host.model(), messages, {"name": name})
    host.asked.clear()
    host.backward(output, gradients=["Shorter."])
    ((_, question),) = host.asked
    parts = read_blocks(question["content"], "VARIABLE")
    assert [read_blocks(part, "ROLE") for part in parts] == [["system prompt"], ["name"]]
    assert grads(prompt) == ["Shorter. for system prompt"]
    assert grads(name) == ["Shorter. for name"]


def test_batch_feedback_is_asked_per_sample_and_combined() -> None:
    host = ScriptedHost()
    prompt = host.variable("Be kind.", "system prompt", True)
    mails = host.variable(["one", "two"], "mail", True)
    messages = [{"role": "system", "content": [prompt]}, {"role": "user", "content": [host.variable("{mail}")]}]
    (output,) = host.run("ChatCompletion", host.model(), messages, {"mail": mails})
    host.asked.clear()
    host.backward(output, gradients=[["f1", "f2"]])
    assert grads(prompt) == ["<ITEM>f1 for system prompt</ITEM><ITEM>f2 for system prompt</ITEM>"]
    assert grads(mails) == [["f1 for mail", "f2 for mail"]]
    seen = [read_blocks(asked[1]["content"], "INPUT")[0] for asked in host.asked]
    assert sorted(read_blocks(block, "DATA")[0] for block in seen) == ["one", "two"]
    outputs = [read_blocks(read_blocks(asked[1]["content"], "OUTPUT")[0], "DATA")[0] for asked in host.asked]
    assert sorted(outputs) == ["ONE", "TWO"]


def test_samples_without_feedback_are_not_asked_about() -> None:
    host = ScriptedHost()
    prompt = host.variable("x", "system prompt", True)
    messages = [{"role": "system", "content": [prompt]}, {"role": "user", "content": ["{mail}"]}]
    (output,) = host.run("ChatCompletion", host.model(), messages, {"mail": ["one", "two"]})
    host.asked.clear()
    host.backward(output, gradients=[["", "f2"]], retain_graph=True)
    assert grads(prompt) == ["<ITEM></ITEM><ITEM>f2 for system prompt</ITEM>"]
    assert len(host.asked) == 1
    host.backward(output, gradients=[["", ""]])
    assert grads(prompt)[1:] == [""]
    assert len(host.asked) == 1


def test_a_gradient_of_the_wrong_length_is_refused() -> None:
    host = ScriptedHost()
    (output,) = host.run("ChatCompletion", host.model(), system_and_user(host, "x"), {"mail": ["one", "two"]})
    with pytest.raises(Refused) as caught:
        host.backward(output, gradients=[["f1", "f2", "f3"]])
    assert "3 items for a batch of 2" in caught.value.text


def test_an_unusable_answer_is_sent_back_three_times_in_all() -> None:
    answers = iter(["not JSON", '{"variable_2": "x"}', '{"variable_1": "x"'])

    def answer(messages: list[ChatMessage]) -> str:
        return next(answers) if messages[0]["content"].startswith(PROPAGATOR) else answer_like_a_model(messages)

    host = ScriptedHost(answer)
    prompt = host.variable("x", "system prompt", True)
    (output,) = host.run("ChatCompletion", host.model(), [{"role": "user", "content": [prompt]}])
    host.asked.clear()
    with pytest.raises(Refused) as caught:
        host.backward(output, gradients=["F"], retain_graph=True)
    assert "no usable answer in 3 tries" in caught.value.text
    assert "no complete JSON object" in caught.value.text
    assert [len(asked) for asked in host.asked] == [2, 4, 6]
    assert "no complete JSON object" in host.asked[1][3]["content"]
    assert grads(prompt) == []


def test_the_graph_survives_a_failed_backward() -> None:
    answers = iter(["bad"] * 3)
    host = ScriptedHost(
        lambda m: (
            next(answers, None) or answer_like_a_model(m)
            if m[0]["content"].startswith(PROPAGATOR)
            else answer_like_a_model(m)
        )
    )
    prompt = host.variable("x", "system prompt", True)
    (output,) = host.run("ChatCompletion", host.model(), [{"role": "user", "content": [prompt]}])
    with pytest.raises(Refused):
        host.backward(output, gradients=["F"])
    host.backward(output, gradients=["F"])
    assert grads(prompt) == ["F for system prompt"]
