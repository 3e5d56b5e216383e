"""What one running request may do: ask the client and language models, and push changes to the client."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from .engine.samples import LeftOut
from .lm import LanguageModels
from .objects import PARAMETER, BackwardModel, Model, Objects, Variable
from .progress import Progress
from .question_counts import Counts, note
from .questions import Answer, Asked, Question, QuestionFailed
from .records import CRITIC
from .refused import Refused
from .wire import BUILTINS, Callable

if TYPE_CHECKING:
    from .engine.op import Op
    from .passes import Way
    from .question_log import Forward
    from .store import Logged

# Where more samples than these are without feedback, it is rather the model that is at fault.
DEFAULT_MAX_FAILED = 0.5

# Ids per push, so that no push is longer than a client takes.
_IDS_PER_PUSH = 1000


class Client(Protocol):
    """The connection on which the request came."""

    def push(self, method: str, params: dict[str, Any]) -> None:
        """Send a state change. In the order of the calls, and before any reply that is sent later."""
        ...

    async def call(self, method: str, params: dict[str, Any]) -> Any:
        """Call a method of the client and wait for its result, without a time limit."""
        ...


class LatePush(NamedTuple):
    """A push that comes ``delay`` seconds after the reply."""

    delay: float
    method: str
    params: dict[str, Any]


class Scope:
    """One running request, as the methods and the engine see it (it is a :class:`~.engine.op.Host`).

    Attributes:
        max_failed: see ``engine.op.Host``.
        feedback: see ``engine.op.Host``.
        left_out: see ``engine.op.Host``.
        told: see ``engine.op.Host``.
        notes: see ``engine.op.Host``.
        rejected: see ``engine.op.Host``.
        late_pushes: pushes that are sent after the reply, unless it is an error.
    """

    def __init__(
        self,
        objects: Objects,
        client: Client,
        lm: LanguageModels,
        run_uuid: str = "",
        progress: Progress | None = None,
    ) -> None:
        self.objects = objects
        self._progress = progress
        self._run_uuid = run_uuid
        self._client = client
        self._lm = lm
        self._used: dict[Model, None] = {}
        self.max_failed = DEFAULT_MAX_FAILED
        self.feedback = CRITIC
        self.left_out: list[LeftOut] = []
        self.told: list[str] = []
        self.notes: list[str] = []
        self.rejected: list[str] = []
        self.late_pushes: list[LatePush] = []

    # --- asking ---------------------------------------------------------------------------------

    async def call(self, function: Callable, /, *args: Any, **kwargs: Any) -> Any:
        """The result of a function of the client.

        Raises:
            Refused: it failed there; the text comes from the client.
        """
        if function.builtin is not None and not kwargs:
            return _computed(function.builtin, args)
        params = {"callable_id": function.callable_id, "args": list(args), "kwargs": kwargs}
        result = await self._client.call("run_callable", params)
        if not (isinstance(result, dict) and "data" in result):
            raise Refused("The client's answer to run_callable holds no data.")
        return result["data"]

    async def ask(self, question: Question) -> Answer:
        """A language model's answer.

        Raises:
            QuestionFailed: there is none; every kind of failure becomes one clear text, without keys.
        """
        if question.model is None:
            backward = self._backward_model()
            question = replace(question, model=backward.model, completion_args=backward.completion_args)
        assert question.model is not None
        model = question.model
        self._used[model] = None
        budgets = tuple(self.objects.budgets.values())
        progress = self._progress
        if progress is None:
            return await self._lm.ask(
                question, self.call, self._run_uuid, budgets, lambda: self._push_usage_of(model), self._count
            )
        number = progress.began()
        try:
            return await self._lm.ask(
                question,
                self.call,
                self._run_uuid,
                budgets,
                lambda: self._push_usage_of(model),
                self._count,
                lambda note: progress.waits(number, note),
            )
        finally:
            progress.waits(number, "")

    async def embed(self, model: Model, texts: list[str], args: dict[str, Any]) -> list[list[float]]:
        """A vector for each text, by the endpoint of a model.

        Raises:
            QuestionFailed: there are none.
        """
        self._used[model] = None
        return await self._lm.embed(model, texts, args, tuple(self.objects.budgets.values()))

    def _count(self, asked: Asked) -> None:
        note(self.objects.question_counts, asked)
        if self._progress is not None:
            self._progress.ended(asked)

    def questions_of_run(self) -> Counts | None:
        """How many questions the request's run has asked so far, in all sessions; None: it belongs to no run."""
        history = self.objects.history
        return history.questions.counts(self._run_uuid) if history is not None and self._run_uuid else None

    def _backward_model(self) -> BackwardModel:
        backward = self.objects.backward_model
        if backward is None:
            raise QuestionFailed(
                "settings",
                "No global model client set for backward pass. Call `set_backward_model_client` to define one.",
            )
        return backward

    # --- showing --------------------------------------------------------------------------------

    def watch(self, *variables: Variable) -> None:
        """Show the parameters among ``variables`` as parameters of the request's run."""
        history = self.objects.history
        for variable in variables:
            if variable.obj_type == PARAMETER and history is not None:
                history.parameter(self._run_uuid, variable)

    def watch_step(
        self, before: Variable, variable: Variable, feedback: Sequence[Variable], logged: Logged | None
    ) -> None:
        """Show what an optimizer made of a parameter of the request's run, and the feedback that it read."""
        if self.objects.history is not None:
            self.objects.history.step(self._run_uuid, before, variable, feedback, logged)

    def end_step(self) -> None:
        """A step of an optimizer has ended: questions of the request's run belong to the next one from now on."""
        if self.objects.history is not None:
            self.objects.history.end_step(self._run_uuid)

    def watch_function(self, op: Op) -> Forward | None:
        """Show the questions that applying ``op`` will ask; to be called when the request arrives."""
        history = self.objects.history
        return None if history is None else history.function(self._run_uuid, op)

    def watch_result(self, op: Op, watched: Forward | None, outputs: Sequence[Variable]) -> None:
        """Show what applying ``op`` gave."""
        if self.objects.history is not None:
            self.objects.history.applied(op, watched, outputs)

    def watch_backward(self, roots: Sequence[Variable], way: Way) -> None:
        """Show a backward pass and the way that its feedback took."""
        if self.objects.history is not None:
            self.objects.history.backward(self._run_uuid, roots, way)

    # --- pushing (protocol §D) -----------------------------------------------------------------

    def push(self, method: str, **params: Any) -> None:
        """Send a state change, before the reply."""
        self._client.push(method, params)

    def push_ids_later(self, method: str, variable_ids: list[str], delay: float = 0.0) -> None:
        """Send ``method`` with these ids, ``delay`` seconds after the reply."""
        for start in range(0, len(variable_ids), _IDS_PER_PUSH):
            params = {"variable_ids": variable_ids[start : start + _IDS_PER_PUSH]}
            self.late_pushes.append(LatePush(delay, method, params))

    def push_usage(self) -> None:
        """Push the usage of the models that were asked since the last time."""
        for model in self._used:
            self._push_usage_of(model)
        self._used.clear()

    def _push_usage_of(self, model: Model) -> None:
        self.push("update_model", model_id=model.model_id, field="_usage", value=model.usage)


def _computed(builtin: str, args: tuple[Any, ...]) -> Any:
    try:
        return BUILTINS[builtin](*args)
    except Exception as exc:
        raise Refused(f"{builtin}: {type(exc).__name__}: {exc}") from exc
