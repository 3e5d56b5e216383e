"""What a new run will be at a local backend that still starts: looked up in its data, which are there.

Only for the usual new run.  Whatever the backend could refuse, or would name otherwise, it has to be asked.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from ..backend.key_names import without_keys
from ..backend.run_names import new_run_name
from ..backend.snapshot import Records, records_of
from ..errors import BackendError
from ..studio.projects import Project, slug_of
from ..studio.values import plain_config

_LONGEST = 200  # characters, which every backend takes


class Plan(NamedTuple):
    """What the new run will be: its project, without an id, its name, and its configuration as the backend keeps it."""

    project: Project
    name: str
    config: dict[str, Any] | None


def plan(
    data_dir: str, namespace: str, project: str, name: str | None, description: str | None, config: Any
) -> Plan | None:
    """What a new run will be; None: the backend has to be asked.

    Args:
        data_dir: where the backend keeps its data.
        name: None: one is made up.

    Raises:
        TypeError: ``config`` cannot be a configuration.
    """
    kept = None if config is None else without_keys(plain_config(config))
    if not all(_is_usual(text) for text in (project, name, description) if text is not None):
        return None
    try:
        json.dumps(kept, ensure_ascii=False, allow_nan=False).encode()
        slug = slug_of(project)
        if slug_of(namespace) != namespace:
            return None
        with records_of(Path(data_dir)) as records:
            there = Project("", project, slug, namespace)
            free = _free_name(records, there, name)
            return None if free is None else Plan(there, free, kept)
    except (BackendError, ValueError):
        return None


def _is_usual(text: object) -> bool:
    """Whether every backend takes it as it is."""
    return isinstance(text, str) and text.isprintable() and bool(text.strip()) and len(text) <= _LONGEST


def _free_name(records: Records, project: Project, name: str | None) -> str | None:
    """The name of the run; None: it is taken, or another project has the address of this one."""
    wanted = (project.namespace_slug, project.slug)
    found = records.read("SELECT uuid, display_name FROM projects WHERE namespace = ? AND slug = ?", *wanted)
    taken: set[str] = set()
    if found:
        if found[0]["display_name"] != project.display_name:
            return None
        rows = records.read("SELECT name FROM runs WHERE project_uuid = ?", found[0]["uuid"])
        taken = {row["name"] for row in rows}
    if name is not None:
        return None if name in taken else name
    while (made_up := new_run_name()) in taken:
        pass
    return made_up
