"""The public name of ``active_run``."""

from __future__ import annotations

from .active_run import HasUuid, get_active_run, set_active_run

__all__ = ["HasUuid", "get_active_run", "set_active_run"]
