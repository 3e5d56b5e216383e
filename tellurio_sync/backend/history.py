"""The records of a run that the backend keeps for people to look at.

A training goes on even if it cannot be watched: what cannot be stored is logged and left out.
Only the event loop's thread uses this module.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .data import text
from .engine.chat import ChatCompletion
from .engine.evaluators import Evaluator
from .kept_out import KeptOut
from .objects import PARAMETER, Variable
from .passes import Passes, Way, graph_of
from .question_log import DEFAULT_MAX_BYTES, DEFAULT_MAX_DAYS, Forward, QuestionLog, sample_of
from .versions import Cause, Versions

if TYPE_CHECKING:
    from .engine.op import Op
    from .questions import Asked
    from .store import Logged, Store

logger: logging.Logger = logging.getLogger(__name__)


class History:
    """Notes in the store what happens in runs.

    Attributes:
        versions: of parameters.
        questions: to language models.
        passes: backward, the last ones of each run.
        kept_out: the keys that stand in none of them.
    """

    def __init__(
        self, store: Store, *, max_question_bytes: int = DEFAULT_MAX_BYTES, max_question_days: float = DEFAULT_MAX_DAYS
    ) -> None:
        self.kept_out: KeptOut = KeptOut()
        self.versions: Versions = Versions(store, self.kept_out)
        self.passes: Passes = Passes(store)
        self.questions: QuestionLog = QuestionLog(
            store, max_bytes=max_question_bytes, max_days=max_question_days, kept_out=self.kept_out
        )

    def parameter(self, run_uuid: str, variable: Variable) -> None:
        """A parameter of a run (`""` is none) is new, or may have another value."""
        self._note(run_uuid, variable.variable_id, variable)

    def step(
        self,
        run_uuid: str,
        before: Variable,
        variable: Variable,
        feedback: Sequence[Variable],
        logged: Logged | None = None,
    ) -> None:
        """An optimizer rewrote a parameter of a run (`""` is none).

        Args:
            run_uuid: of which run.
            before: the parameter as it was: a run may go on with one that it has not seen yet.
            variable: the parameter as it is.
            feedback: the gradients that the optimizer read.
            logged: how much the client had logged when it asked for the step; None: it did not tell.
        """
        self._note(run_uuid, variable.variable_id, before)
        texts = [part for one in feedback for part in _texts(one)]
        self._note(run_uuid, variable.variable_id, variable, "step", texts, logged)

    def end_step(self, run_uuid: str) -> None:
        """A step of an optimizer has ended, whether it changed anything or not."""
        try:
            self.questions.end_step(run_uuid)
        except sqlite3.Error as exc:
            logger.warning("! a step of run %s was not counted: %s", run_uuid, exc)

    # --- questions ------------------------------------------------------------------------------

    def question(self, asked: Asked) -> None:
        """A question to a language model has ended (see ``LanguageModels.on_question``)."""
        try:
            self.questions.note(asked)
        except sqlite3.Error as exc:
            logger.warning("! a question of run %s was not kept: %s", asked.run_uuid, exc)

    def function(self, run_uuid: str, op: Op) -> Forward | None:
        """A function is about to be applied: what its questions will be about.

        To be called when the request arrives: the parameters among its operands have these values now.
        """
        if not run_uuid:
            return None
        if not isinstance(op, ChatCompletion):
            return Forward()
        prompts = {}
        for operand in op.operands:
            if operand.variable.obj_type == PARAMETER:
                variable_id = operand.variable.variable_id
                version = self._note(run_uuid, variable_id, operand.variable)
                if version is not None:
                    prompts[variable_id] = version
        return Forward(lambda index: sample_of(op.subject(index), prompts))

    def applied(self, op: Op, forward: Forward | None, outputs: Sequence[Variable]) -> None:
        """A function was applied: its answers may be evaluated later, or it evaluated earlier ones."""
        if forward is None:
            return
        try:
            if isinstance(op, ChatCompletion):
                self.questions.note_answers(outputs[0].variable_id, forward.numbers)
            elif isinstance(op, Evaluator):
                scores = [None if i in op.missing else (one.score, one.explanation) for i, one in enumerate(op.judged)]
                self.questions.note_scores(op.prediction.variable.variable_id, scores)
        except sqlite3.Error as exc:
            logger.warning("! scores were not kept: %s", exc)

    def backward(self, run_uuid: str, roots: Sequence[Variable], way: Way) -> None:
        """A backward pass was made."""
        if not run_uuid:
            return
        try:
            self.passes.note(run_uuid, graph_of(roots, way, self.kept_out.clean))
        except sqlite3.Error as exc:
            logger.warning("! a backward pass of run %s was not kept: %s", run_uuid, exc)

    # --- helpers --------------------------------------------------------------------------------

    def _note(
        self,
        run_uuid: str,
        variable_id: str,
        variable: Variable,
        cause: Cause = "set",
        feedback: Sequence[str] = (),
        logged: Logged | None = None,
    ) -> int | None:
        if not run_uuid:
            return None
        try:
            step = self.questions.current_step(run_uuid) if cause == "step" else None
            return self.versions.note(
                run_uuid, variable_id, variable.role or "", variable.data, cause, feedback, step, logged
            )
        except sqlite3.Error as exc:
            logger.warning("! the value of a parameter of run %s was not kept: %s", run_uuid, exc)
            return None


def _texts(gradient: Variable) -> list[str]:
    data = gradient.data if isinstance(gradient.data, list) else [gradient.data]
    return [found for found in map(text, data) if found]
