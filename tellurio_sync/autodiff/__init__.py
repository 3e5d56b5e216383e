"""Functions, the backward pass and its language model, and whether anything is recorded."""

from __future__ import annotations

from . import functional
from .backward_model import BackwardModel, get_backward_model_client, set_backward_model_client
from .backward_pass import backward
from .function import Function
from .grad_mode import is_grad_enabled, no_grad, set_grad_enabled

__all__ = [
    "BackwardModel",
    "Function",
    "backward",
    "functional",
    "get_backward_model_client",
    "is_grad_enabled",
    "no_grad",
    "set_backward_model_client",
    "set_grad_enabled",
]
