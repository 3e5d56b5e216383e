"""Optimizers."""

from __future__ import annotations

from .functional import tgd
from .optimizer import Optimizer
from .textual import TGD

__all__ = ["TGD", "Optimizer", "tgd"]
