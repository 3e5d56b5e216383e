"""Projects, to which runs belong (protocol §J)."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from ..errors import HttpError, HttpStatusError, UsageError
from .dates import parse_date
from .rest import StudioRest


@dataclass(frozen=True)
class Project:
    """A project as the server described it; a snapshot.

    Attributes:
        uuid: its id.
        display_name: the name for people.
        slug: the name in addresses, made from ``display_name``.
        namespace_slug: the account or organisation that owns it.
        visibility: ``RESTRICTED``, ``TEAM``, ``PUBLIC`` or ``OPEN``; None if the server left it out.
        date_created: None if the server left it out.
        last_run_date: None: there was no run yet.
        role, org_uuid, org_display_name, org_slug: this account's part in it; the server sends them only at creation.
    """

    uuid: str
    display_name: str
    slug: str
    namespace_slug: str
    visibility: str | None = None
    date_created: datetime | None = None
    last_run_date: datetime | None = None
    role: str | None = None
    org_uuid: str | None = None
    org_display_name: str | None = None
    org_slug: str | None = None

    @staticmethod
    def from_answer(answer: dict[str, Any], namespace_slug: str) -> Project:
        """The project in an answer of the server.

        Raises:
            HttpError: the answer lacks what every project has.
        """
        with reading("project"):
            return Project(
                uuid=answer["uuid"],
                display_name=answer["display_name"],
                slug=answer["slug"],
                namespace_slug=namespace_slug,
                visibility=answer.get("visibility"),
                date_created=optional_date(answer, "date_created"),
                last_run_date=optional_date(answer, "last_run_date"),
                role=answer.get("role"),
                org_uuid=answer.get("org_uuid"),
                org_display_name=answer.get("org_display_name"),
                org_slug=answer.get("org_slug"),
            )


class reading:
    """Context manager: a missing or malformed part of a server's answer becomes an HttpError."""

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, traceback: object) -> None:
        if isinstance(exc, KeyError):
            raise HttpError(f"The server described a {self._what} without {exc}.") from exc
        if isinstance(exc, (TypeError, ValueError, AttributeError)):
            raise HttpError(f"The server described a {self._what} in an unknown form: {exc}") from exc


def optional_date(answer: dict[str, Any], name: str) -> datetime | None:
    """The date under this name, None where there is none."""
    text = answer.get(name)
    return None if text is None else parse_date(text)


def slug_of(display_name: str) -> str:
    """The slug that the server makes of a display name (protocol §J).

    Raises:
        ValueError: the name has no letters and digits.
    """
    from slugify import slugify

    slug: str = slugify(display_name)
    if not slug:
        raise ValueError(f"A name must hold letters or digits, not {display_name!r}")
    return slug


# The functions below block until the server answered, are thread-safe, and raise as StudioRest does.


def get_project(rest: StudioRest, namespace_slug: str, project_slug: str) -> Project | None:
    """The project; None if it, or its namespace, does not exist."""
    answer = rest.get_project(namespace_slug, project_slug)
    return None if answer is None else Project.from_answer(answer, namespace_slug)


def create_project(rest: StudioRest, namespace_slug: str, display_name: str, visibility: str = "TEAM") -> Project:
    """Create a project; see :meth:`StudioRest.create_project`."""
    return Project.from_answer(rest.create_project(namespace_slug, display_name, visibility), namespace_slug)


def delete_project(rest: StudioRest, namespace_slug: str, project_slug: str) -> None:
    """Delete a project with all its runs."""
    rest.delete_project(namespace_slug, project_slug)


def find_project(rest: StudioRest, namespace_slug: str, name: str) -> Project | None:
    """The project of this name, or with this slug; None if there is none.

    Raises:
        UsageError: the slug of this name is that of a project with another one.
    """
    slug = slug_of(name)
    project = get_project(rest, namespace_slug, slug)
    # "C", "C++" and "C#" have the same slug, and so the same address at every server.
    if project is None or name == slug or _same_name(name, project.display_name):
        return project
    raise UsageError(
        f"The name {name!r} leads to the address {slug!r}, which the project {project.display_name!r} of "
        f"{namespace_slug!r} has already. Give it a name that differs in letters or digits (addresses hold nothing "
        f"else), or use the project {project.display_name!r}."
    )


def _same_name(one: str, other: str) -> bool:
    def folded(name: str) -> str:
        return re.sub(r"[\s_-]+", "-", unicodedata.normalize("NFKC", name).casefold().strip())

    return folded(one) == folded(other)


def get_or_create_project(
    rest: StudioRest, namespace_slug: str, display_name: str, visibility: str, username: str | None = None
) -> Project:
    """The project of this name, created first if there is none.

    Args:
        username: of this account, for the text of the error.

    Raises:
        UsageError: another project has the slug that this name would get.
        HttpStatusError: there is none and it may not be created; the text names the namespace if that is the reason.
    """
    project = find_project(rest, namespace_slug, display_name)
    if project is not None:
        return project
    try:
        return create_project(rest, namespace_slug, display_name, visibility)
    except HttpStatusError as exc:
        if exc.status in (400, 409):
            # Perhaps another process created it since it was asked for.
            project = find_project(rest, namespace_slug, display_name)
            if project is not None:
                return project
        if exc.status not in (403, 404):
            raise
        yours = f"you are logged in as {username!r}" if username else "is it the name of your account?"
        raise HttpStatusError(
            f"The namespace {namespace_slug!r} does not exist or is not open to you; {yours}. ({exc})",
            status=exc.status,
            url=exc.url,
        ) from exc
