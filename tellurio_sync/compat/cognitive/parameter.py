"""``afnio.cognitive.parameter``."""

from __future__ import annotations

from ...model.variable import Parameter

__all__ = ["Parameter"]
