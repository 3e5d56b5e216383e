"""JSON-RPC 2.0 without I/O: texts to messages and back.  Imports no thread, no socket, no WebSocket."""

from __future__ import annotations

from .codec import MalformedText, decode, encode, utf8_size
from .codes import (
    INTERNAL_ERROR,
    INVALID_PARAMS,
    INVALID_REQUEST,
    METHOD_NOT_FOUND,
    PARSE_ERROR,
    MissingParam,
    RpcError,
)
from .envelopes import (
    Batch,
    Invalid,
    Message,
    Notification,
    Reply,
    Request,
    answered_by,
    classify,
    encode_request,
    error_reply,
    notification,
    request,
    result_reply,
)

__all__ = [
    "INTERNAL_ERROR",
    "INVALID_PARAMS",
    "INVALID_REQUEST",
    "METHOD_NOT_FOUND",
    "PARSE_ERROR",
    "Batch",
    "Invalid",
    "MalformedText",
    "Message",
    "MissingParam",
    "Notification",
    "Reply",
    "Request",
    "RpcError",
    "answered_by",
    "classify",
    "decode",
    "encode",
    "encode_request",
    "error_reply",
    "notification",
    "request",
    "result_reply",
    "utf8_size",
]
