"""``afnio.autodiff.grad_mode``."""

from __future__ import annotations

from ...autodiff.grad_mode import is_grad_enabled, no_grad, set_grad_enabled

__all__ = ["is_grad_enabled", "no_grad", "set_grad_enabled"]
