from __future__ import annotations

import copy
import math
import pickle

import pytest

from tellurio_sync.model.data import JAGGED, copy_data, leaves, map_leaves, normalise, shape_of


@pytest.mark.parametrize(
    "data",
    [None, "", "text", 0, -3, 2.5, True, [], [[]], ["a", None], [1, True, None], [1.5, None], [["a"], ["b", ["c"]]]],
)
def test_data_of_one_kind_is_kept_as_the_same_object(data):
    assert normalise(data) is data


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ([True, 1.0], [1.0, 1.0]),
        ([[1, 2.0]], [[1.0, 2.0]]),
        ([1, [None, [2.5]]], [1.0, [None, [2.5]]]),
    ],
)
def test_integers_beside_floats_become_floats_in_a_new_list(data, expected):
    before = copy.deepcopy(data)
    result = normalise(data)
    assert result == expected
    assert all(type(leaf) is float for leaf in leaves(result) if leaf is not None)
    assert data == before


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ((1, 2), r"data must be a list, not a tuple: \(1, 2\)"),
        ([["a"], ("b",)], r"data\[1\] must be a list, not a tuple"),
        ([["a", 1]], r"data\[0\]\[0\] is 'a', data\[0\]\[1\] is 1"),
        ([None, [2.5], "a"], r"data\[2\] is 'a', data\[1\]\[0\] is 2.5"),
        ({"a": 1}, r"data must be .* not dict"),
        ([{1}], r"data\[0\] must be .* not set"),
        ([b"a"], r"data\[0\] must be .* not bytes"),
        (object(), "not object"),
    ],
)
def test_other_data_is_refused_saying_what_and_where(data, text):
    with pytest.raises(TypeError, match=text):
        normalise(data)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: [x], lambda x: [1, [x]]])
def test_numbers_that_json_does_not_have_are_refused(value, wrap):
    with pytest.raises(ValueError, match="cannot be sent"):
        normalise(wrap(value))


def test_a_number_is_found_by_its_place():
    with pytest.raises(ValueError, match=r"data\[1\]\[0\] is nan"):
        normalise([[1.0], [math.nan]])


def test_an_integer_too_large_for_a_float_is_refused_beside_floats_only():
    assert normalise([10**400]) == [10**400]
    with pytest.raises(ValueError, match="too large"):
        normalise([10**400, 1.0])


def test_lists_nested_in_a_circle_are_refused():
    circle: list = []
    circle.append(circle)
    with pytest.raises(ValueError, match="nested too deeply"):
        normalise(circle)


@pytest.mark.parametrize(
    ("data", "shape"),
    [
        (None, ()),
        ("abc", ()),
        ([], (0,)),
        (["a", None], (2,)),
        ([[1, 2], [3, 4], [5, 6]], (3, 2)),
        ([[1, 2], [3]], (2, JAGGED)),
        ([1, [2]], (2, JAGGED)),
        ([[[1], [2]], [[3]]], (2, JAGGED, JAGGED)),
        ([[[1], [1, 2]], [[1], [2, 3]]], (2, 2, JAGGED)),
        ([[], []], (2, 0)),
    ],
)
def test_shape(data, shape):
    assert shape_of(data) == shape


def test_jagged_is_one_object_and_shows_as_j():
    assert repr(JAGGED) == "j"
    assert pickle.loads(pickle.dumps(JAGGED)) is JAGGED
    assert copy.deepcopy(JAGGED) is JAGGED


def test_copies_have_new_lists_at_every_level():
    data = [["a"], ["b"]]
    copied = copy_data(data)
    assert copied == data
    assert copied is not data
    assert copied[0] is not data[0]


def test_leaves_are_mapped_but_none():
    assert map_leaves(["1", None, ["2"]], int) == [1, None, [2]]
