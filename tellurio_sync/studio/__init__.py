"""The studio side of Tellurio over REST: login, projects, runs and metrics (protocol §J).

Importing it is cheap: the HTTP library and the keyring are imported when they are first needed.
"""

from __future__ import annotations

from .auth import Account, KeySource, find_api_key, remember, verify
from .consent import check_consent
from .projects import Project, create_project, delete_project, get_project
from .rest import StudioRest
from .runs import Run, RunGuard, RunStatus, start_run

__all__ = [
    "Account",
    "KeySource",
    "Project",
    "Run",
    "RunGuard",
    "RunStatus",
    "StudioRest",
    "check_consent",
    "create_project",
    "delete_project",
    "find_api_key",
    "get_project",
    "remember",
    "start_run",
    "verify",
]
