"""What a handler's exception becomes."""

from __future__ import annotations

from typing import Any

import pytest

from tellurio_sync.jsonrpc import INVALID_PARAMS, MissingParam, RpcError, encode, error_reply
from tellurio_sync.jsonrpc.codes import error_for


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text either")


class UnprintableKey:
    def __str__(self) -> str:
        raise RuntimeError("no text either")


@pytest.mark.parametrize(
    ("exc", "code", "message", "data"),
    [
        (ValueError("boom"), -32603, "Internal error", {"exception": "boom"}),
        (ValueError(), -32603, "Internal error", {"exception": "ValueError"}),
        (SystemExit(3), -32603, "Internal error", {"exception": "3"}),
        (SystemExit(), -32603, "Internal error", {"exception": "SystemExit"}),
        (KeyboardInterrupt(), -32603, "Internal error", {"exception": "KeyboardInterrupt"}),
        (GeneratorExit(), -32603, "Internal error", {"exception": "GeneratorExit"}),
        (Unprintable(), -32603, "Internal error", {"exception": "Unprintable"}),
        (KeyError("variable_id"), -32602, "Missing key: variable_id", {"missing_key": "variable_id"}),
        (KeyError(5), -32602, "Missing key: 5", {"missing_key": "5"}),
        (KeyError(), -32602, "Missing key: ", {"missing_key": ""}),
        (KeyError(UnprintableKey()), -32602, "Missing key: UnprintableKey", {"missing_key": "UnprintableKey"}),
        (MissingParam("x"), -32602, "Missing key: x", {"missing_key": "x"}),
        (RpcError(7, "seven", [1]), 7, "seven", [1]),
        (RpcError(7, "seven"), 7, "seven", None),
    ],
    ids=repr,
)
def test_an_exception_becomes_its_error_reply(exc: BaseException, code: int, message: str, data: Any) -> None:
    error = error_for(exc)
    assert (error.code, error.message, error.data) == (code, message, data)


def test_an_error_reply_holds_data_only_where_there_is_some() -> None:
    assert error_reply(None, RpcError(1, "m")) == {"jsonrpc": "2.0", "id": None, "error": {"code": 1, "message": "m"}}
    assert error_reply("7", RpcError(1, "m", {}))["error"] == {"code": 1, "message": "m", "data": {}}


def test_a_lone_surrogate_in_an_exception_can_be_sent() -> None:
    assert encode(error_reply(1, error_for(ValueError("\ud800")))).isascii()


def test_a_missing_param_says_which() -> None:
    error = MissingParam("variable_id")
    assert (error.key, error.code, str(error)) == ("variable_id", INVALID_PARAMS, "Missing key: variable_id")
