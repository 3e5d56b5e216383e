"""``afnio.autodiff.graph``."""

from __future__ import annotations

from ...model.graph import GradientEdge, Node

__all__ = ["GradientEdge", "Node"]
