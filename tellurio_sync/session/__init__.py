"""A login to a Tellurio backend and everything that belongs to it: connection, objects and runs.

``session`` holds the parts together. ``login`` gets the connection, ``restore_gate`` is where the calls of the objects
pass, ``restore`` lets the server know again what is held here, and ``default`` has the functions of the package.
"""

from __future__ import annotations

from .default import current_session, default_session
from .restore import Restored
from .session import Session

__all__ = ["Restored", "Session", "current_session", "default_session"]
