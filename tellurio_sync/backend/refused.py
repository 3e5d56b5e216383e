"""The one error that the backend raises on purpose while it works on a request."""

from __future__ import annotations

from typing import Any

from ..jsonrpc import INTERNAL_ERROR, INVALID_PARAMS, MissingParam, RpcError


class Refused(RpcError):
    """A request that cannot be carried out; its text becomes the text of the user's exception (protocol §B.2).

    Any other exception that ends a request is a defect of the backend, and is logged with its traceback.
    """

    def __init__(self, text: str, code: int = INTERNAL_ERROR, message: str = "Internal error") -> None:
        super().__init__(code, message, {"exception": text})
        self.text = text

    def __str__(self) -> str:
        return self.text


_KINDS: dict[type, str] = {str: "a string", bool: "a bool", int: "an integer", list: "a list", dict: "an object"}


def param(params: dict[str, Any], key: str, *kinds: type) -> Any:
    """The required parameter ``key``.

    Raises:
        MissingParam: it is absent (protocol §B.2).
        Refused: it is of none of ``kinds`` (without ``kinds`` any kind is accepted; a bool is not an integer).
    """
    if key not in params:
        raise MissingParam(key)
    value = params[key]
    if kinds and not (isinstance(value, kinds) and (bool in kinds or not isinstance(value, bool))):
        wanted = " or ".join(_KINDS.get(kind, "null") for kind in kinds)
        raise Refused(f"`{key}` must be {wanted}, not {type(value).__name__}.", INVALID_PARAMS, "Invalid params")
    return value
