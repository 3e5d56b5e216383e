"""Inputs that come from a table: the error names the row, and does not print the table."""

from __future__ import annotations

from typing import Any

import pytest

import tellurio_sync as te
from tellurio_sync.autodiff.messages import check_inputs, check_messages

from ..model.fake_link import FakeLink, link

__all__ = ["link"]


class NAType:
    """As pandas has it."""

    def __repr__(self) -> str:
        return "<NA>"


class NaTType(NAType):
    pass


class Float32:
    """As NumPy has it: no float, but as unequal to itself."""

    def __ne__(self, other: object) -> bool:
        return True

    def __repr__(self) -> str:
        return "nan"


class Array(list):  # type: ignore[type-arg]
    """As NumPy has it: comparing two gives no bool."""

    def __ne__(self, other: object) -> Any:
        return Array()

    def __bool__(self) -> bool:
        raise ValueError("The truth value of an array is ambiguous")


def column(value: Any) -> list[Any]:
    texts: list[Any] = [f"confidential text of customer {n}" for n in range(5000)]
    texts[1234] = value
    return texts


@pytest.mark.parametrize("missing", [None, float("nan"), Float32(), NAType(), NaTType()], ids=repr)
def test_an_empty_cell(missing: Any) -> None:
    with pytest.raises(TypeError) as caught:
        check_inputs({"mail": column(missing)})
    text = str(caught.value)
    assert text.startswith(f"inputs['mail'][1234] is missing ({missing!r}): leave this sample out")
    assert len(text) < 200


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (5, "int 5"),
        (1.5, "float 1.5"),
        (["a confidential list"], "list"),
        (Array(["confidential"]), "Array"),
        ({"a": "confidential dict"}, "dict"),
        (b"bytes", "bytes b'bytes'"),
        (b"x" * 100_000, "bytes b'xxxxx"),
    ],
)
def test_a_cell_of_another_kind(value: Any, told: str) -> None:
    with pytest.raises(TypeError) as caught:
        check_inputs({"mail": column(value)})
    text = str(caught.value)
    assert text.startswith(f"inputs['mail'][1234] must be a str as those before it, not {told}")
    assert len(text) < 200
    assert "confidential" not in text


def test_texts_and_variables_in_one_column(link: FakeLink) -> None:
    variable = te.Variable("confidential", role="r")
    for values, told in (
        ([variable, "x"], "inputs['a'][1] must be a Variable as those before it, not str 'x'"),
        (["x", variable], "inputs['a'][1] must be a str as those before it, not Variable"),
        ([[], "x"], "inputs['a'][0] must be a str or a Variable, not list"),
    ):
        with pytest.raises(TypeError) as caught:
            check_inputs({"a": values})
        assert str(caught.value) == told


def test_what_is_fine(link: FakeLink) -> None:
    class Text(str):
        pass

    parameter, variable = te.Parameter("p", role="r"), te.Variable("v", role="r")
    check_inputs({"a": "x", "b": ["x", Text("y")], "c": ("x",), "d": variable, "e": [variable, parameter], "f": []})


def test_messages_are_not_printed_either(link: FakeLink) -> None:
    long = "confidential " * 10_000
    for message in (long, {"role": "user"}, {"role": "user", "content": [long]}, {"role": "user", "content": long}):
        with pytest.raises(TypeError) as caught:
            check_messages([message])
        assert len(str(caught.value)) < 500
