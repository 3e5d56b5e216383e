"""``afnio.tellurio.run_context``."""

from __future__ import annotations

from ...active_run import get_active_run, set_active_run

__all__ = ["get_active_run", "set_active_run"]
