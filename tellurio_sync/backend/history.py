"""What the backend keeps of a run for people to look at, beside what its clients asked for.

A training goes on although it cannot be watched: what cannot be kept is logged, and left out.
Event loop's thread only.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .data import text
from .versions import Cause, Versions

if TYPE_CHECKING:
    from .objects import Variable
    from .store import Store

logger = logging.getLogger(__name__)


class History:
    """Notes in the store what happens in runs."""

    def __init__(self, store: Store) -> None:
        self.versions = Versions(store)

    def parameter(self, run_uuid: str, variable: Variable) -> None:
        """A parameter of a run (`""` is none) is new, or may have another value."""
        self._note(run_uuid, variable.variable_id, variable)

    def step(self, run_uuid: str, before: Variable, variable: Variable, feedback: Sequence[Variable]) -> None:
        """An optimizer rewrote a parameter of a run (`""` is none).

        Args:
            run_uuid: of which run.
            before: the parameter as it was: a run may go on with one that it has not seen yet.
            variable: the parameter as it is.
            feedback: the gradients that the optimizer read.
        """
        self._note(run_uuid, variable.variable_id, before)
        self._note(run_uuid, variable.variable_id, variable, "step", [part for one in feedback for part in _texts(one)])

    def _note(
        self, run_uuid: str, variable_id: str, variable: Variable, cause: Cause = "set", feedback: Sequence[str] = ()
    ) -> None:
        if not run_uuid:
            return
        try:
            role, value = variable.role or "", text(variable.data)
            self.versions.note(run_uuid, variable_id, role, value, cause, feedback)
        except sqlite3.Error as exc:
            logger.warning("! the value of a parameter of run %s was not kept: %s", run_uuid, exc)


def _texts(gradient: Variable) -> list[str]:
    data = gradient.data if isinstance(gradient.data, list) else [gradient.data]
    return [found for found in map(text, data) if found]
