"""The flight recorder shows the shape of envelopes, within bounds, and nothing of what they hold."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tellurio_sync.peer.recording import Recorder, shape_of

from ..fake_clock import FakeClock
from .rig import Background, Rig

KEY = "sk-language-model-9c1e"

PLACES: list[Any] = [
    KEY,
    [KEY],
    {"api_key": KEY},
    {"headers": {"Authorization": f"Bearer {KEY}"}},
    {KEY: 1},
    {"method": KEY},
    {"jsonrpc": KEY},
    {"id": KEY},
    {"field": KEY, "method": f"call {KEY}"},
    {"error": {"code": 1, "message": f"Incorrect key {KEY}"}},
    {"params": {"default_headers": [[KEY, KEY]], "a": {"b": {"c": {"d": {"e": KEY}}}}}},
    [[[[[[KEY]]]]]],
]


@pytest.mark.parametrize("value", PLACES)
def test_a_key_shows_nowhere(value: Any) -> None:
    assert KEY not in shape_of(json.dumps(value))


@pytest.mark.parametrize("text", [KEY, f'{{"a": "{KEY}', KEY.encode(), "x" * 100_000 + KEY])
def test_what_is_no_json_shows_its_length_only(text: str | bytes) -> None:
    shown = shape_of(text)
    assert KEY not in shown
    assert str(len(text)) in shown


def test_the_shape_of_an_envelope() -> None:
    params = {"data": "My lamp is dark.", "n": 3, "big": 10**30, "f": 0.5, "no": None, "Weird Name": True}
    envelope = {"jsonrpc": "2.0", "method": "create_variable", "params": params, "id": "8f2a41c9-18"}
    assert shape_of(json.dumps(envelope)) == (
        "{method: create_variable, params: {data: <text of 16>, n: 3, big: <number>, f: 0.5, no: None, "
        "<name of 10>: True}, id: 8f2a41c9-18}"
    )


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=5),
    max_leaves=20,
)


@settings(max_examples=100, deadline=None)
@given(json_values, st.text("ABCXYZ0189-", min_size=12, max_size=40))
def test_no_text_of_any_value_shows(value: Any, secret: str) -> None:
    assert secret not in shape_of(json.dumps({"value": value, "key": secret, secret: [secret, {"method": secret}]}))


def test_what_is_kept_is_bounded_in_number_and_in_characters() -> None:
    recorder = Recorder(FakeClock(), most_lines=10, most_characters=500)
    for n in range(100):
        recorder.note(float(n), ">", json.dumps({"method": "m", "params": {"n": n}}))
    lines = recorder.lines()
    assert len(lines) == 10
    assert "n: 99" in lines[-1][1]
    for n in range(100):
        recorder.note(float(n), "<", json.dumps({f"name{chr(97 + n % 26)}" * 3: list(range(10))}))
    assert 0 < sum(len(line) for _, line in recorder.lines()) <= 500


def test_a_recorded_connection_works_and_a_time_out_has_its_envelopes() -> None:
    with Rig(recorder=Recorder(clock := FakeClock()), clock=clock) as rig:
        clock.on_advance.append(rig._wake)
        rig.open()
        call = Background(rig.peer.request, "create_variable", {"data": KEY}, 10.0)
        rig.reply(rig.server_receive(), result={"key": KEY})
        assert call.result()["result"] == {"key": KEY}
        slow = Background(rig.peer.request, "run_function", {"key": KEY}, 10.0, is_extendable=True)
        rig.heartbeat(rig.server_receive()["id"])
        rig.sync()
        clock.advance(11.0)
        lines = "\n".join(slow.error().recent)  # type: ignore[attr-defined]
    assert "> {method: create_variable, params: {data: <text of 22>}" in lines
    assert "< {id: " in lines
    assert "< {method: heartbeat" in lines
    assert KEY not in lines


def test_a_connection_that_is_not_recorded_is_not_wrapped(rig: Rig) -> None:
    assert rig.peer.lifecycle.connection is not None
    assert rig.peer.lifecycle.connection.transport is rig.transport
