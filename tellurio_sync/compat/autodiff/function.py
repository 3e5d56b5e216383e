"""``afnio.autodiff.function``."""

from __future__ import annotations

from ...autodiff.function import Function

__all__ = ["Function"]
