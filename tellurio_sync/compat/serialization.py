"""``afnio.serialization``."""

from __future__ import annotations

from ..model.serialization import load, save

__all__ = ["load", "save"]
