"""The training loop, written once: :class:`Trainer` for modules, and below it :func:`fit` for any function."""

from __future__ import annotations

from .callbacks import Callback, EpochResult
from .estimate import Estimate, estimate
from .loop import FitResult, fit
from .trainer import Trainer

__all__ = ["Callback", "EpochResult", "Estimate", "FitResult", "Trainer", "estimate", "fit"]
