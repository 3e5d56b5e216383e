"""The page ``docs/threads.md``: the tables of shared state in the docstrings of all modules, in one place.

``python -m tests.thread_tables`` writes it; ``tests/test_docs.py`` compares it.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import tellurio_sync

PACKAGE = Path(tellurio_sync.__file__).parent
PAGE = PACKAGE / "docs" / "threads.md"

HEAD = """\
# Which thread may touch what

The tables of shared state, from the docstrings of the modules (`python -m tests.thread_tables` collects them). The
threads themselves, the locks and their order are on the page [Architecture](architecture.md#threads). *Ownership* means
that only one thread uses the state, so that it needs no lock. *The order of the stores* means that the last store
publishes what was stored before it.
"""


def tables_of(path: Path) -> Iterator[list[str]]:
    """The tables in a module's docstring whose first column is the state."""
    lines = (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").splitlines()
    table: list[str] = []
    for line in [*lines, ""]:
        if line.startswith("|"):
            table.append(line)
        elif table:
            if table[0].startswith("| State"):
                yield table
            table = []


def page() -> str:
    """The text of the page."""
    parts = [HEAD]
    for path in sorted(PACKAGE.rglob("*.py")):
        for table in tables_of(path):
            text = "\n".join(table).replace("``", "`")
            parts.append(f"## `{path.relative_to(PACKAGE).as_posix()}`\n\n{text}\n")
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
