from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tellurio_sync.backend import data
from tellurio_sync.backend.engine import text_ops
from tellurio_sync.backend.refused import Refused

from .scripted import ScriptedHost, grads


@pytest.mark.parametrize(
    ("x", "y", "result"),
    [
        ("abc", "def", "abcdef"),
        (1, 2, 3),
        (1, 2.5, 3.5),
        ("n=", 3, "n=3"),
        (3, "n", "3n"),
        (["a", "b"], ["c", "d"], ["ac", "bd"]),
        ([1, 2], [3, 4], [4, 6]),
        ([["a"], ["b"]], [["c"], ["d"]], [["ac"], ["bd"]]),
    ],
)
def test_add(x: Any, y: Any, result: Any) -> None:
    host = ScriptedHost()
    (output,) = host.run("Add", host.variable(x, "first"), host.variable(y, "second"))
    assert (output.data, output.role) == (result, "first and second")
    assert output.is_leaf
    assert output.grad_fn is None


@pytest.mark.parametrize(
    ("x", "y", "text"),
    [
        (["a"], ["b", "c"], "different lengths"),
        (["a"], "b", "A list and a scalar"),
        ("a", None, "missing value"),
    ],
)
def test_add_refuses(x: Any, y: Any, text: str) -> None:
    host = ScriptedHost()
    with pytest.raises(Refused) as caught:
        host.run("Add", host.variable(x), host.variable(y))
    assert text in caught.value.text


@pytest.mark.parametrize(
    ("values", "result"),
    [
        (["abc", "def"], "<ITEM>abc</ITEM><ITEM>def</ITEM>"),
        ([1, 2, 3.5], 6.5),
        ([["a", "b"], ["c", "d"]], ["<ITEM>a</ITEM><ITEM>c</ITEM>", "<ITEM>b</ITEM><ITEM>d</ITEM>"]),
        ([[1, 2], [3, 4]], [4, 6]),
    ],
)
def test_sum(values: list[Any], result: Any) -> None:
    host = ScriptedHost()
    variables = [host.variable(value, f"input {i}") for i, value in enumerate(values)]
    (output,) = host.run("Sum", variables)
    assert output.data == result
    assert output.role == " and ".join(f"input {i}" for i in range(len(values)))


@pytest.mark.parametrize(
    ("data", "args", "result"),
    [
        ("a b  c", [], ["a", "b", "c"]),
        ("a,b,c", [","], ["a", "b", "c"]),
        ("a,b,c", [",", 1], ["a", "b,c"]),
        (["a b", "c"], [" ", -1], [["a", "c"], ["b", ""]]),
    ],
)
def test_split(data: Any, args: list[Any], result: list[Any]) -> None:
    host = ScriptedHost()
    outputs = host.run("Split", host.variable(data, "text", True), *args)
    assert [output.data for output in outputs] == result
    assert [output.role for output in outputs] == [f"split part {i} of text" for i in range(len(result))]
    assert [output.output_nr for output in outputs] == list(range(len(result)))
    assert len({output.grad_fn for output in outputs}) == 1


def test_split_takes_its_settings_as_variables_and_keywords() -> None:
    host = ScriptedHost()
    sep, maxsplit = host.variable(","), host.variable(1)
    outputs = host.run("Split", host.variable("a,b,c"), sep=sep, maxsplit=maxsplit)
    assert [output.data for output in outputs] == ["a", "b,c"]


@pytest.mark.parametrize("data", ["", 3, [1], None])
def test_split_refuses(data: Any) -> None:
    host = ScriptedHost()
    with pytest.raises(Refused):
        host.run("Split", host.variable(data))


def test_add_goes_back() -> None:
    host = ScriptedHost()
    x, y = host.variable("abc", "first input", True), host.variable("def", "second input")
    (output,) = host.run("Add", x, y)
    host.backward(output, gradients=["MY_FEEDBACK"])
    text = "Here is the combined feedback we got for this specific first input and other variables: MY_FEEDBACK"
    assert grads(x) == [text]
    assert grads(y) == []


def test_split_goes_back_with_one_item_per_output() -> None:
    host = ScriptedHost()
    x = host.variable("a b", "text", True)
    first, _ = host.run("Split", x)
    host.backward(first, gradients=["MY_FIRST_FEEDBACK"])
    (gradient,) = grads(x)
    assert gradient.endswith("and other variables: <ITEM>MY_FIRST_FEEDBACK</ITEM><ITEM></ITEM>")


def test_lists_go_back_item_by_item() -> None:
    host = ScriptedHost()
    x = host.variable(["a b", "c d"], "text", True)
    first, second = host.run("Split", x)
    (joined,) = host.run("Add", first, second)
    host.backward(joined, gradients=[["f0", "f1"]])
    (gradient,) = grads(x)
    assert len(gradient) == 2
    assert gradient[1].count("<ITEM>") == 2
    assert "f1" in gradient[1]
    assert "f0" not in gradient[1]


@pytest.mark.parametrize(
    ("name", "args", "text"),
    [
        ("Nonsense", [], "No function named 'Nonsense'"),
        ("Add", ["x"], "missing a required argument: 'y'"),
        ("Add", ["x", "y", "z"], "too many positional"),
        ("Add", ["x", "y"], "Only Variables can be added to each other."),
        ("Sum", [[]], "at least one Variable"),
    ],
)
def test_wrong_arguments_are_named(name: str, args: list[Any], text: str) -> None:
    with pytest.raises(Refused) as caught:
        ScriptedHost().run(name, *args)
    assert text in caught.value.text


# --- ends before the memory's ---------------------------------------------------------------------------


def big_sum(host: ScriptedHost) -> None:
    host.run("Sum", [host.variable("x" * 50)] * 3)


def big_addition(host: ScriptedHost) -> None:
    host.run("Add", host.variable(["x" * 60]), host.variable(["x" * 60]))


def big_roles(host: ScriptedHost) -> None:
    host.run("Add", host.variable("", "x" * 60), host.variable("", "x" * 60))


def quoting_a_target_for_each_sample(host: ScriptedHost) -> None:
    host.run("ExactMatchEvaluator", host.variable(["a"] * 10), "x" * 20)


def filling_a_placeholder_often(host: ScriptedHost) -> None:
    messages = [{"role": "user", "content": [host.variable("{a}" * 20)]}]
    host.run("ChatCompletion", host.model(), messages, {"a": "x" * 20})


def long_feedback(host: ScriptedHost) -> None:
    x = host.variable("", requires_grad=True)
    host.backward(host.run("Add", x, x)[0])


BOMBS = [
    big_sum,
    big_addition,
    big_roles,
    quoting_a_target_for_each_sample,
    filling_a_placeholder_often,
    long_feedback,
]


@pytest.mark.parametrize("bomb", BOMBS)
def test_texts_have_an_end(bomb: Callable[[ScriptedHost], None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "MAX_CHARS", 100)
    with pytest.raises(Refused, match="too long: over 100 characters"):
        bomb(ScriptedHost())


@pytest.mark.parametrize("texts", ["a " * 11, ["a", "a " * 11]])
def test_the_parts_of_a_split_have_an_end(texts: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_ops, "MAX_PARTS", 10)
    host = ScriptedHost()
    with pytest.raises(Refused, match="too many parts: 11 of"):
        host.run("Split", host.variable(texts))
    assert len(host.run("Split", host.variable("a " * 10))) == 10
