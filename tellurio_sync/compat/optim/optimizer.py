"""``afnio.optim.optimizer``."""

from __future__ import annotations

from ...optim.optimizer import Optimizer

__all__ = ["Optimizer"]
