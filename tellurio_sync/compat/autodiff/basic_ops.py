"""``afnio.autodiff.basic_ops``."""

from __future__ import annotations

from ...autodiff.function import Add, Split, Sum

__all__ = ["Add", "Split", "Sum"]
