"""What the server says of itself when a connection opens (protocol §A.2), and the extensions in it."""

from __future__ import annotations

from typing import Any

import pytest

from tellurio_sync.client.greeting import Greeting, read_greeting


def greeting(**result: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": None, "result": {"session_id": "s", **result}}


def test_our_backends() -> None:
    envelope = greeting(extensions=["cancel", "release"], max_message_size=2**26)
    assert read_greeting(envelope) == Greeting("s", frozenset({"cancel", "release"}), 2**26)


def test_another_servers() -> None:
    assert read_greeting(greeting()) == Greeting("s", frozenset(), None)


@pytest.mark.parametrize("extensions", [None, "cancel", {"cancel": True}, 5, [], [5, None, ["cancel"]]])
def test_what_does_not_look_like_our_extensions_means_nothing(extensions: Any) -> None:
    assert read_greeting(greeting(extensions=extensions)).extensions == frozenset()


@pytest.mark.parametrize("size", [None, "1000", 0, -1, 1.5, True, [1]])
def test_what_does_not_look_like_a_size_means_nothing(size: Any) -> None:
    assert read_greeting(greeting(max_message_size=size)).max_message_size is None


@pytest.mark.parametrize("result", [None, [], "s", {}, {"session_id": None}, {"session_id": ""}, {"session_id": 5}])
def test_a_greeting_without_a_session_id(result: Any) -> None:
    with pytest.raises(ValueError, match="no session id"):
        read_greeting({"jsonrpc": "2.0", "id": None, "result": result})
