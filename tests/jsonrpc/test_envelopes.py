"""What each JSON value is, as a JSON-RPC 2.0 message."""

from __future__ import annotations

import json
import math
from itertools import permutations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tellurio_sync.jsonrpc import (
    Batch,
    Invalid,
    Notification,
    Reply,
    Request,
    answered_by,
    classify,
    encode,
    error_reply,
    notification,
    request,
    result_reply,
)

V = "2.0"


def read(text: str) -> Any:
    return classify(json.loads(text))


# --- requests and notifications -----------------------------------------------------------------


@pytest.mark.parametrize("id_", ["x", "", "0", 0, 1, -1, 2**70, 1.5, 0.0])
def test_every_string_and_number_is_an_id(id_: Any) -> None:
    assert classify({"jsonrpc": V, "method": "m", "params": {}, "id": id_}) == Request(id_, "m", {})


@pytest.mark.parametrize("id_", [True, False, [], [1], {}, {"a": 1}, math.nan, math.inf, -math.inf])
def test_what_cannot_be_an_id_is_an_invalid_request_answered_with_id_null(id_: Any) -> None:
    message = classify({"jsonrpc": V, "method": "m", "params": {}, "id": id_})
    assert isinstance(message, Invalid)
    assert (message.id, message.error.code, message.is_answered) == (None, -32600, True)
    assert encode(error_reply(message.id, message.error))


@pytest.mark.parametrize("envelope", [{}, {"id": None}])
def test_without_an_id_it_is_a_notification(envelope: dict[str, Any]) -> None:
    assert classify({"jsonrpc": V, "method": "m", "params": {"a": 1}, **envelope}) == Notification("m", {"a": 1})


def test_params_may_be_absent() -> None:
    assert classify({"jsonrpc": V, "method": "m", "id": 1}) == Request(1, "m", {})
    assert classify({"jsonrpc": V, "method": "m"}) == Notification("m", {})


@pytest.mark.parametrize("params", [[], [1], None, 1, 0, "", "x", True, False, 1.5])
def test_params_that_are_no_object_are_invalid_params(params: Any) -> None:
    asked = classify({"jsonrpc": V, "method": "m", "params": params, "id": 7})
    assert isinstance(asked, Invalid)
    assert (asked.id, asked.error.code, asked.is_answered) == (7, -32602, True)
    told = classify({"jsonrpc": V, "method": "m", "params": params})
    assert isinstance(told, Invalid)
    assert not told.is_answered, "never a reply to a notification"


@pytest.mark.parametrize("method", [None, 1, 1.5, True, [], {}, ["m"]])
@pytest.mark.parametrize("id_", [None, 3])
def test_a_method_that_is_no_string_is_an_invalid_request(method: Any, id_: Any) -> None:
    message = classify({"jsonrpc": V, "method": method, "id": id_})
    assert isinstance(message, Invalid)
    assert (message.id, message.error.code, message.is_answered) == (id_, -32600, True)


@pytest.mark.parametrize("version", [None, "1.0", "2", 2, 2.0, "", "2.00", True, [], "absent"])
def test_another_version_is_an_invalid_request(version: Any) -> None:
    envelope = {"method": "m", "params": {}, "id": 3}
    if version != "absent":
        envelope["jsonrpc"] = version
    message = classify(envelope)
    assert isinstance(message, Invalid)
    assert (message.id, message.error.code) == (3, -32600)
    assert message.error.message == "Invalid JSON-RPC version. Expected '2.0'."


@pytest.mark.parametrize("value", [None, True, False, 0, 1, 1.5, "", "text"])
def test_what_is_no_object_is_an_invalid_request_with_id_null(value: Any) -> None:
    message = classify(value)
    assert isinstance(message, Invalid)
    assert (message.id, message.error.code, message.is_answered) == (None, -32600, True)


@pytest.mark.parametrize("envelope", [{}, {"jsonrpc": V}, {"id": None}, {"foo": "boo"}, {"id": True}, {"id": []}])
def test_an_object_without_method_result_error_and_id_is_an_invalid_request(envelope: dict[str, Any]) -> None:
    message = classify(envelope)
    assert isinstance(message, Invalid)
    assert (message.id, message.error.code, message.error.message) == (None, -32600, "Missing required field: method")


# --- replies ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "outcome",
    [
        {"result": None},
        {"result": 0},
        {"result": {"a": [1]}},
        {"error": {"code": -32603, "message": ""}},
        {"error": {"code": 0, "message": "m", "data": None}},
        {"error": {"code": 5, "message": "m", "data": [1], "more": 1}},
    ],
)
@pytest.mark.parametrize("id_", ["x", 0, 1.5, None])
def test_a_reply_has_exactly_one_of_result_and_error(outcome: dict[str, Any], id_: Any) -> None:
    envelope = {"jsonrpc": V, "id": id_, **outcome}
    assert classify(envelope) == Reply(id_, envelope, None)


@pytest.mark.parametrize(
    ("envelope", "problem"),
    [
        ({"id": "x", "result": 1, "error": {"code": 1, "message": "m"}}, "both result and error"),
        ({"id": "x", "result": 1, "error": None}, "both result and error"),
        ({"id": "x"}, "Unexpected response format: {"),
        ({"id": 0}, "Unexpected response format: {"),
        ({"id": "x", "error": None}, "not an object"),
        ({"id": "x", "error": "text"}, "not an object"),
        ({"id": "x", "error": []}, "not an object"),
        ({"id": "x", "error": {}}, "no integer code"),
        ({"id": "x", "error": {"code": "1", "message": "m"}}, "no integer code"),
        ({"id": "x", "error": {"code": 1.5, "message": "m"}}, "no integer code"),
        ({"id": "x", "error": {"code": True, "message": "m"}}, "no integer code"),
        ({"id": "x", "error": {"code": 1}}, "no message"),
        ({"id": "x", "error": {"code": 1, "message": None}}, "no message"),
        ({"id": "x", "result": 1, "jsonrpc": "1.0"}, "version"),
        ({"id": "x", "result": 1, "jsonrpc": None}, "version"),
    ],
)
def test_a_malformed_reply_keeps_its_id_and_says_what_is_wrong(envelope: dict[str, Any], problem: str) -> None:
    message = classify({"jsonrpc": V, **envelope})
    assert isinstance(message, Reply)
    assert message.id == envelope["id"]
    assert message.problem is not None
    assert problem in message.problem


@pytest.mark.parametrize("id_", [True, [], {}, math.nan, math.inf])
def test_a_reply_whose_id_cannot_be_one_has_none(id_: Any) -> None:
    message = classify({"jsonrpc": V, "id": id_, "result": 1})
    assert isinstance(message, Reply)
    assert message.id is None


def test_what_has_a_method_is_a_request_even_with_a_result() -> None:
    assert classify({"jsonrpc": V, "id": 1, "method": "m", "result": 1}) == Request(1, "m", {})


# --- batches ------------------------------------------------------------------------------------


def test_an_empty_batch_is_an_invalid_request() -> None:
    message = classify([])
    assert isinstance(message, Invalid)
    assert (message.id, message.error.code) == (None, -32600)


def test_a_batch_holds_each_message_classified_for_itself() -> None:
    batch = classify(
        [
            {"jsonrpc": V, "method": "a", "id": 1},
            {"jsonrpc": V, "method": "b"},
            {"jsonrpc": V, "id": "x", "result": 1},
            1,
            [],
            [{"jsonrpc": V, "method": "nested", "id": 2}],
            {"foo": "boo"},
        ]
    )
    assert isinstance(batch, Batch)
    kinds = [type(message) for message in batch.messages]
    assert kinds == [Request, Notification, Reply, Invalid, Invalid, Invalid, Invalid]


# --- the examples of JSON-RPC 2.0 §7 that reach classify ------------------------------------------

_SUBTRACT = '{"jsonrpc": "2.0", "method": "subtract", "params": {"subtrahend": 23, "minuend": 42}, "id": 3}'


def test_specification_example_named_parameters() -> None:
    assert read(_SUBTRACT) == Request(3, "subtract", {"subtrahend": 23, "minuend": 42})
    assert read('{"jsonrpc": "2.0", "result": 19, "id": 3}').problem is None


def test_specification_example_positional_parameters_are_refused_here() -> None:
    """Every method of this protocol takes its parameters by name (protocol §B)."""
    message = read('{"jsonrpc": "2.0", "method": "subtract", "params": [42, 23], "id": 1}')
    assert (message.id, message.error.code) == (1, -32602)


def test_specification_example_notifications() -> None:
    assert read('{"jsonrpc": "2.0", "method": "foobar"}') == Notification("foobar", {})
    positional = read('{"jsonrpc": "2.0", "method": "update", "params": [1,2,3,4,5]}')
    assert not positional.is_answered


def test_specification_example_non_existent_method() -> None:
    assert read('{"jsonrpc": "2.0", "method": "foobar", "id": "1"}') == Request("1", "foobar", {})
    reply = read('{"jsonrpc": "2.0", "error": {"code": -32601, "message": "Method not found"}, "id": "1"}')
    assert reply.problem is None


def test_specification_example_invalid_request_object() -> None:
    message = read('{"jsonrpc": "2.0", "method": 1, "params": "bar"}')
    assert (message.id, message.error.code, message.is_answered) == (None, -32600, True)


def test_specification_example_invalid_batches() -> None:
    assert read("[]").error.code == -32600
    assert [(m.id, m.error.code) for m in read("[1]").messages] == [(None, -32600)]
    assert [(m.id, m.error.code) for m in read("[1,2,3]").messages] == [(None, -32600)] * 3


def test_specification_example_batch() -> None:
    batch = read(
        """[
        {"jsonrpc": "2.0", "method": "sum", "params": {"a": 1}, "id": "1"},
        {"jsonrpc": "2.0", "method": "notify_hello", "params": {"a": 7}},
        {"jsonrpc": "2.0", "method": "subtract", "params": {"a": 42}, "id": "2"},
        {"foo": "boo"},
        {"jsonrpc": "2.0", "method": "foo.get", "params": {"name": "myself"}, "id": "5"},
        {"jsonrpc": "2.0", "method": "get_data", "id": "9"}
        ]"""
    )
    assert [getattr(message, "id", "none") for message in batch.messages] == ["1", "none", "2", None, "5", "9"]


def test_specification_example_batch_of_notifications() -> None:
    batch = read('[{"jsonrpc": "2.0", "method": "a"}, {"jsonrpc": "2.0", "method": "b"}]')
    assert [type(message) for message in batch.messages] == [Notification, Notification]


# --- all values ---------------------------------------------------------------------------------

_VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just("2.0"),
    lambda children: (
        st.lists(children, max_size=3)
        | st.dictionaries(
            st.sampled_from(["jsonrpc", "method", "params", "id", "result", "error", "code", "message", "data", "x"]),
            children,
            max_size=6,
        )
    ),
    max_leaves=12,
)


@given(_VALUE)
def test_every_json_value_is_exactly_one_kind_of_message(value: Any) -> None:
    message = classify(value)
    assert isinstance(message, (Request, Notification, Reply, Invalid, Batch))
    members = message.messages if isinstance(message, Batch) else [message]
    for member in members:
        if isinstance(member, Invalid) and member.is_answered:
            assert encode(error_reply(member.id, member.error))
        if isinstance(member, Request):
            assert encode(result_reply(member.id, None))


def by_the_book(value: Any) -> tuple[Any, ...]:
    """What ``classify`` says, in the plainest words: kind, id, and what else tells two messages of a kind apart."""

    def is_id(id_: Any) -> bool:
        if isinstance(id_, float):
            return math.isfinite(id_)
        return id_ is None or (isinstance(id_, (str, int)) and not isinstance(id_, bool))

    if isinstance(value, list):
        return ("batch", *(by_the_book(None if isinstance(member, list) else member) for member in value))
    if not isinstance(value, dict):
        return ("invalid", None, -32600, True)
    id_, is_version = value.get("id"), value.get("jsonrpc") == V
    known_id = id_ if is_id(id_) else None
    if "method" in value:
        params = value.get("params", {})
        if not is_version or not isinstance(value["method"], str) or not is_id(id_):
            return ("invalid", known_id, -32600, True)
        if not isinstance(params, dict):
            return ("invalid", id_, -32602, id_ is not None)
        return ("notification" if id_ is None else "request", id_, value["method"], params)
    if "result" not in value and "error" not in value and known_id is None:
        return ("invalid", None, -32600, True)
    error = value.get("error")
    is_error = (
        isinstance(error, dict)
        and isinstance(error.get("code"), int)
        and not isinstance(error["code"], bool)
        and isinstance(error.get("message"), str)
    )
    is_one = ("result" in value) != ("error" in value)
    return ("reply", known_id, is_version and is_one and ("result" in value or is_error))


def told(message: Any) -> tuple[Any, ...]:
    """The same of a classified message."""
    if isinstance(message, Batch):
        return ("batch", *map(told, message.messages))
    if isinstance(message, Invalid):
        return ("invalid", message.id, message.error.code, message.is_answered)
    if isinstance(message, Reply):
        return ("reply", message.id, message.problem is None)
    return (type(message).__name__.lower(), getattr(message, "id", None), message.method, message.params)


_IDS = st.sampled_from(["x", "", 0, 1, 1.5, None, True, math.nan, [], {}])
_OUTCOMES = st.sampled_from(
    [None, 0, "x", {}, {"code": 1}, {"code": 1, "message": "m"}, {"code": True, "message": "m"}]
)
_ENVELOPES = st.fixed_dictionaries(
    {},
    optional={
        "jsonrpc": st.sampled_from([V, V, V, "1.0", 2.0, None, []]),
        "id": _IDS,
        "method": st.sampled_from(["m", "", 1, None]),
        "params": st.sampled_from([{}, {"a": 1}, [], None]),
        "result": _OUTCOMES,
        "error": _OUTCOMES,
        "x": st.none(),
    },
)


@given(_ENVELOPES | _VALUE | st.lists(_ENVELOPES, min_size=1, max_size=3))
def test_a_message_is_what_the_plain_rules_say(value: Any) -> None:
    message = classify(value)
    if value == []:
        assert told(message) == ("invalid", None, -32600, True)
    else:
        assert told(message) == by_the_book(value)
    if isinstance(message, Reply):
        assert message.envelope is value


@pytest.mark.parametrize("id_", ["x", "", 7])
@pytest.mark.parametrize("result", [None, False, 0, {}, {"error": 1}])
def test_a_good_reply_is_a_reply_whatever_the_order_of_its_members(id_: Any, result: Any) -> None:
    members = [("jsonrpc", V), ("id", id_), ("result", result)]
    for order in permutations(members):
        message = classify(dict(order))
        assert type(message) is Reply
        assert message == (id_, dict(members), None)


@pytest.mark.parametrize("wrap", [lambda deep: deep, lambda deep: {"id": "x", "deep": deep}])
def test_a_value_of_any_depth_is_classified(wrap: Any) -> None:
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    assert classify(wrap(deep)) is not None


# --- building -----------------------------------------------------------------------------------


def test_what_is_built_is_read_as_what_it_was_meant_to_be() -> None:
    assert classify(request("1", "m", {"a": 1})) == Request("1", "m", {"a": 1})
    assert classify(notification("m", {"a": 1})) == Notification("m", {"a": 1})
    assert classify(result_reply("1", None)) == Reply("1", {"jsonrpc": V, "id": "1", "result": None}, None)


# --- the shortcut for replies with a result -------------------------------------------------------

GOOD = {"jsonrpc": V, "id": "1", "result": None}


def taken_by(value: Any) -> list[str]:
    """The ids, of all that there are, of the calls that a value takes out of the table."""
    calls = {id_: f"call {id_}" for id_ in ("1", "2", "ü\ud800", "", V)}
    before = dict(calls)
    call = answered_by(value, calls.pop)
    taken = [id_ for id_ in before if id_ not in calls]
    assert [before[id_] for id_ in taken] == ([] if call is None else [call])
    return taken


@pytest.mark.parametrize("result", [None, 0, {}, [], "x"])
@pytest.mark.parametrize("members", list(permutations(GOOD)))
def test_a_reply_with_a_result_is_seen_at_once(members: tuple[str, ...], result: Any) -> None:
    reply = {**GOOD, "result": result}
    assert taken_by({member: reply[member] for member in members}) == ["1"]


@pytest.mark.parametrize(
    "value",
    [
        {**GOOD, "jsonrpc": "1.0"},
        {**GOOD, "jsonrpc": 2.0},
        {**GOOD, "jsonrpc": None},
        {**GOOD, "id": 1},
        {**GOOD, "id": None},
        {**GOOD, "id": ["1"]},
        {**GOOD, "more": 1},
        {"jsonrpc": V, "id": "1"},
        {"jsonrpc": V, "id": "1", "error": {}},
        {"jsonrpc": V, "result": 1, "error": {}},
        {"id": "1", "result": 1, "error": {}},
        {},
        [GOOD],
        "1",
        1,
        None,
    ],
    ids=repr,
)
def test_what_is_no_such_reply_for_certain_is_left_to_classify(value: Any) -> None:
    assert taken_by(value) == []


MEMBERS = st.sampled_from(["jsonrpc", "id", "result", "error", "method", "x"])
VALUES = st.sampled_from([V, "1", "2", "", "ü\ud800", 1, 1.5, True, None, [], {}])


@given(value=st.dictionaries(MEMBERS, VALUES, max_size=5) | VALUES)
def test_the_shortcut_sees_nothing_that_classify_does_not_see(value: Any) -> None:
    for id_ in taken_by(value):
        message = classify(value)
        assert isinstance(message, Reply)
        assert (message.id, message.problem) == (id_, None)
