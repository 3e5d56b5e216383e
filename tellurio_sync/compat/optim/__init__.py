"""``afnio.optim``."""

from __future__ import annotations

from ...optim import TGD, tgd
from . import optimizer

__all__ = ["TGD", "optimizer", "tgd"]
