"""``afnio.tellurio.project``: projects of the server that the current session is logged in to."""

from __future__ import annotations

from ...session.default import current_session
from ...studio import projects
from ...studio.projects import Project

__all__ = ["Project", "create_project", "delete_project", "get_project"]


def get_project(namespace_slug: str, project_slug: str) -> Project | None:
    """The project; None if there is none. Blocks for one request; raises as ``studio.get_project``."""
    return projects.get_project(current_session().rest, namespace_slug, project_slug)


def create_project(namespace_slug: str, display_name: str, visibility: str = "TEAM") -> Project:
    """Make a project. Blocks for one request; raises as ``studio.create_project``."""
    return projects.create_project(current_session().rest, namespace_slug, display_name, visibility)


def delete_project(namespace_slug: str, project_slug: str) -> None:
    """Delete a project with its runs. Blocks for one request; raises as ``studio.delete_project``."""
    projects.delete_project(current_session().rest, namespace_slug, project_slug)
