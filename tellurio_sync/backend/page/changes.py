"""What a reader may change: names, tags and notes of runs; and delete runs and projects.

Each change returns where the page to show next is, from the root of all pages.
"""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

from ..store import Row, Store
from .pages import NotFound
from .render import project_path, run_path

if TYPE_CHECKING:
    from ..history import History

MAX_NAME_CHARS = 200
MAX_TAGS = 50
MAX_TAG_CHARS = 60
MAX_NOTE_CHARS = 20_000

# Rows that are deleted at once: other clients get their turn in between.
_ROWS_AT_ONCE = 500


class Refusal(Exception):
    """The change cannot be made; the text says why."""


class Changes:
    """Makes changes to the records at once; they cannot be undone. Event loop's thread only."""

    def __init__(self, store: Store, history: History) -> None:
        self._store = store
        self._history = history

    def rename(self, project: Row, run: Row, name: str) -> str:
        """Give a run another name.

        Raises:
            Refusal: the name is empty, too long, or that of another run.
        """
        name = name.strip()
        if not name:
            raise Refusal("A run needs a name.")
        if len(name) > MAX_NAME_CHARS:
            raise Refusal(f"A name has {MAX_NAME_CHARS} characters at most.")
        taken = self._store.read(
            "SELECT 1 FROM runs WHERE project_uuid = ? AND name = ? AND uuid != ?", project["uuid"], name, run["uuid"]
        )
        if taken:
            raise Refusal(f"There is another run with the name “{name}” in this project.")
        self._store.write("UPDATE runs SET name = ? WHERE uuid = ?", name, run["uuid"])
        return run_path("", project, run)

    def describe(self, project: Row, run: Row, tags: str, notes: str) -> str:
        """Set the tags, separated by commas, and the notes of a run."""
        wanted = list(dict.fromkeys(tag.strip()[:MAX_TAG_CHARS] for tag in tags.split(",") if tag.strip()))[:MAX_TAGS]
        self._store.write(
            "INSERT OR REPLACE INTO run_notes VALUES (?, ?, ?)",
            *(run["uuid"], json.dumps(wanted), notes.strip()[:MAX_NOTE_CHARS]),
        )
        return run_path("", project, run)

    async def delete_run(self, project: Row, run: Row) -> str:
        """Delete a run with all that is kept of it.

        Takes a time proportional to its values and samples.
        """
        questions = self._history.questions
        while questions.delete_some(run["uuid"], _ROWS_AT_ONCE):
            await asyncio.sleep(0)
        for table in ("points", "others"):
            while self._delete_values(table, run):
                await asyncio.sleep(0)
        self._store.write("DELETE FROM runs WHERE uuid = ?", run["uuid"])
        self._history.versions.forget_run(run["uuid"])
        return project_path("", project)

    def _delete_values(self, table: str, run: Row) -> int:
        which = f"{table}.rowid" if table == "points" else f"{table}.series, {table}.number"
        key = "rowid" if table == "points" else "(series, number)"
        done = self._store.write(
            f"DELETE FROM {table} WHERE {key} IN (SELECT {which} FROM {table} JOIN series ON series.number = series"
            " JOIN runs ON runs.number = run WHERE runs.uuid = ? LIMIT ?)",
            *(run["uuid"], _ROWS_AT_ONCE),
        )
        return done.rowcount

    async def delete_project(self, project: Row) -> str:
        """Delete a project with all its runs."""
        for run in self._store.read("SELECT * FROM runs WHERE project_uuid = ?", project["uuid"]):
            await self.delete_run(project, run)
            await asyncio.sleep(0)
        self._store.write("DELETE FROM projects WHERE uuid = ?", project["uuid"])
        return ""


def found_run(store: Store, namespace: str, slug: str, run_uuid: str) -> tuple[Row, Row]:
    """The project and the run that a path names.

    Raises:
        NotFound: there is none.
    """
    project = found_project(store, namespace, slug)
    runs = store.read("SELECT * FROM runs WHERE project_uuid = ? AND uuid = ?", project["uuid"], run_uuid)
    if not runs:
        raise NotFound("There is no such run.")
    return project, runs[0]


def found_project(store: Store, namespace: str, slug: str) -> Row:
    """The project that a path names.

    Raises:
        NotFound: there is none.
    """
    projects = store.read("SELECT * FROM projects WHERE namespace = ? AND slug = ?", namespace, slug)
    if not projects:
        raise NotFound("There is no such project.")
    return projects[0]
