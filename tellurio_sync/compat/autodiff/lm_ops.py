"""``afnio.autodiff.lm_ops``."""

from __future__ import annotations

from ...autodiff.function import ChatCompletion

__all__ = ["ChatCompletion"]
