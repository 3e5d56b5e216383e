"""Asking a model outside of any graph."""

from __future__ import annotations

import asyncio
import threading

import pytest

import tellurio_sync as te


@pytest.fixture
def model(tellurio_run):
    asked = []

    def answer(messages, **options):
        asked.append((messages, options))
        return f"You said: {messages[-1]['content']}"

    model = te.CallableModel(answer, embed=lambda texts, **arguments: [[len(text)] for text in texts])
    model.asked = asked
    return model


def test_a_chat_is_plain_text_in_and_out(model):
    messages = [{"role": "system", "content": "Be {kind}."}, {"role": "user", "content": "Hello"}]
    assert model.chat(messages, temperature=0) == "You said: Hello"
    assert model.asked == [(messages, {"temperature": 0})]


def test_a_single_prompt(model):
    assert model.complete("Hi") == "You said: Hi"
    assert model.asked[0][0] == [{"role": "user", "content": "Hi"}]


def test_a_program_with_an_event_loop_awaits_the_same_calls(model):
    async def program():
        chat = model.achat([{"role": "user", "content": "Hello"}], temperature=0)
        return await asyncio.gather(chat, model.acomplete("Hi"), model.aembed("four"), model.aembed(["a", "bc"]))

    assert asyncio.run(program()) == ["You said: Hello", "You said: Hi", [4.0], [[1.0], [2.0]]]
    assert ([{"role": "user", "content": "Hello"}], {"temperature": 0}) in model.asked


def test_what_is_awaited_does_not_hold_up_the_loop(tellurio_run):
    """Each answer waits for the other question: in one thread this would never end."""
    both = threading.Barrier(2, timeout=60)

    def answer(messages, **options):
        both.wait()
        return "answered"

    model = te.CallableModel(answer)

    async def program():
        return await asyncio.gather(model.acomplete("a"), model.acomplete("b"))

    assert asyncio.run(program()) == ["answered", "answered"]


def test_errors_of_awaited_calls_are_those_of_the_plain_ones(model):
    with pytest.raises(TypeError, match="not a str"):
        asyncio.run(model.achat("Hello"))
    with pytest.raises(TypeError, match=r"texts\[0\]"):
        asyncio.run(model.aembed([3]))


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
