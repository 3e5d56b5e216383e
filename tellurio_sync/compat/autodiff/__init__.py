"""``afnio.autodiff``."""

from __future__ import annotations

from ...autodiff import backward, is_grad_enabled, no_grad, set_grad_enabled
from ...autodiff.backward_model import get_backward_model_client, set_backward_model_client
from . import basic_ops, evaluator, function, graph, lm_ops

__all__ = [
    "backward",
    "basic_ops",
    "evaluator",
    "function",
    "get_backward_model_client",
    "graph",
    "is_grad_enabled",
    "lm_ops",
    "no_grad",
    "set_backward_model_client",
    "set_grad_enabled",
]
