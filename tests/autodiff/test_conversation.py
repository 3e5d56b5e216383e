"""Asking a model outside of any graph."""

from __future__ import annotations

import pytest

import tellurio_sync as te


@pytest.fixture
def model(tellurio_run):
    asked = []

    def answer(messages, **options):
        asked.append((messages, options))
        return f"You said: {messages[-1]['content']}"

    model = te.CallableModel(answer)
    model.asked = asked
    return model


def test_a_chat_is_plain_text_in_and_out(model):
    messages = [{"role": "system", "content": "Be {kind}."}, {"role": "user", "content": "Hello"}]
    assert model.chat(messages, temperature=0) == "You said: Hello"
    assert model.asked == [(messages, {"temperature": 0})]


def test_a_single_prompt(model):
    assert model.complete("Hi") == "You said: Hi"
    assert model.asked[0][0] == [{"role": "user", "content": "Hi"}]


def test_the_usage_is_booked(tellurio_run, tellurio_backend):
    tellurio_backend.lm.always(lambda messages, **options: "four words are here")
    model = te.OpenAI()
    assert model.chat([{"role": "user", "content": "Hello"}], model="m") == "four words are here"
    assert model.get_usage()["total_tokens"] == 5


@pytest.mark.parametrize(
    ("messages", "text"),
    [
        ("Hello", "not a str"),
        ({"role": "user", "content": "x"}, "not a dict"),
        ([{"role": "user"}], r"messages\[0\]"),
        ([{"role": "user", "content": "x"}, "y"], r"messages\[1\]"),
        ([{"role": "user", "content": 3}], r"messages\[0\]"),
        ([{"role": "user", "content": "x", "name": "z"}], r"messages\[0\]"),
    ],
)
def test_messages_of_another_form_are_refused_before_anything_is_asked(model, messages, text):
    with pytest.raises(TypeError, match=text):
        model.chat(messages)
    assert model.asked == []
