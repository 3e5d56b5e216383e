"""``afnio.tellurio.run``."""

from __future__ import annotations

from ...active_run import set_active_run
from ...session.default import init
from ...studio.runs import Run, RunStatus

__all__ = ["Run", "RunStatus", "init", "set_active_run"]
