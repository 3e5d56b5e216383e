"""Textual gradient descent (protocol §I): better data for parameters, by a language model, from feedback."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import shorten
from . import prompts
from .asking import ask_for
from .data import Data, text
from .engine.concurrency import map_at_once
from .engine.conversation import Conversation
from .engine.op import Host
from .engine.replay import tried
from .objects import Model, Objects, Rejected, Variable, Version
from .questions import Question, QuestionFailed
from .reading.answers import read_improved
from .records import Record, summary
from .refused import Refused
from .wire import Operand, decode, plain

DEFAULTS: dict[str, Any] = {
    "model_client": None,
    "messages": [],
    "inputs": {},
    "constraints": [],
    "momentum": 0,
    "completion_args": {},
}


ACCEPT, BATCH = "accept", "batch"
"""A setting that is absent unless a client gives it (protocol §K.13)."""


class Settings:
    """How parameters are rewritten; decoded from a group's wire form when a step begins."""

    def __init__(self, objects: Objects, group: dict[str, Any]) -> None:
        """Decode and check ``group``.

        Raises:
            Refused: a setting of the wrong form.
            UnknownVariable, UnknownModel: a reference to an unknown id.
        """
        decoded = {name: decode(objects, group.get(name, default)) for name, default in DEFAULTS.items()}
        self._model = decoded["model_client"]
        if self._model is not None and not isinstance(self._model, Model):
            raise Refused("`model_client` must be a language model.")
        self.momentum: int = _checked_momentum(decoded["momentum"])
        completion_args = decoded["completion_args"] or {}
        if not isinstance(completion_args, dict):
            raise Refused("`completion_args` must be an object.")
        self._completion_args = {name: plain(value) for name, value in completion_args.items()}
        constraints = decoded["constraints"] or []
        if not (isinstance(constraints, list) and all(isinstance(c, (str, Operand)) for c in constraints)):
            raise Refused("`constraints` must be a list of texts or Variables.")
        self._constraints = [text(plain(constraint)) for constraint in constraints]
        self._inputs, self._messages = _filled(decoded["messages"], decoded["inputs"])
        accept = group.get(ACCEPT)
        if accept not in (None, BATCH):
            raise Refused(f"`{ACCEPT}` must be {BATCH!r} or null.")
        self.tries_before: bool = accept == BATCH
        objects.tries_before = objects.tries_before or self.tries_before

    async def improved(
        self,
        host: Host,
        current: Operand,
        gradients: Sequence[Operand],
        history: Sequence[Version],
        rejected: Rejected | None = None,
    ) -> Data:
        """New data for one parameter.

        Raises:
            Refused: no language model, or no usable answer.
        """
        model = self._model
        if model is None:
            raise Refused("The optimizer has no language model: give it a `model_client`.")

        asked = prompts.optimizer_question(
            prompts.Part(current.role, text(current.data)),
            _said([gradient.variable for gradient in gradients]),
            [prompts.Version(text(v.copy.data), _said(v.gradients), summary(_records(v.gradients))) for v in history],
            self._inputs,
            self._constraints,
            self._messages,
            _records([gradient.variable for gradient in gradients]),
            prompts.Version(text(rejected.data), [], rejected.score) if rejected is not None else None,
        )
        if asked.left_out:
            host.notes.append(
                f"{asked.left_out} samples were not shown for the parameter with the role "
                f"{shorten(current.role, 100)!r}: the question to the language model would be too long."
            )
        question = Question("optimizer", asked.messages, model, self._completion_args)
        read = read_improved(current.data, asked.answer_tag, asked.own_tags)
        return await ask_for(host.ask, question, read)


@dataclass(frozen=True)
class Task:
    """One parameter to rewrite, as it was when the step was asked for."""

    settings: Settings
    parameter: Operand
    gradients: list[Operand]
    history: list[Version]

    @property
    def has_feedback(self) -> bool:
        """Whether any gradient says anything; a success leaves empty ones (protocol §G.3)."""
        return any(_texts(gradient.data for gradient in self.gradients))


@dataclass(frozen=True)
class Rewritten:
    """What a step did to one parameter."""

    variable: Variable
    before: Version
    kept: list[Version]


async def step(objects: Objects, host: Host, tasks: Sequence[Task]) -> list[Rewritten]:
    """Rewrite the parameters of ``tasks``: all models are asked at the same time, then all changes are made together.

    If a question fails, nothing is changed.  Where the settings say so, the new data of all their parameters is tried
    on the samples of the batch first, and adopted if it is better.  A parameter for which the model offers only what
    would do harm (a lost placeholder, for instance) keeps its data, and the user is told.  Gradients stay (protocol
    §I.3).
    """
    new = await map_at_once(lambda task: _improved(objects, host, task), tasks)
    rejected = await _rejected(objects, host, tasks, new)
    rewritten = []
    for task, data in zip(tasks, new):
        variable = task.parameter.variable
        if variable in rejected:
            continue
        if isinstance(data, QuestionFailed):
            name = f"The parameter with the role {shorten(task.parameter.role, 100)!r}"
            host.told.append(f"{name} keeps its data: {shorten(data.text, 500)}")
            continue
        version = Version(objects.copy_of(variable), tuple(gradient.variable for gradient in task.gradients))
        variable.data = data
        momentum = task.settings.momentum
        rewritten.append(Rewritten(variable, version, [*task.history, version][-momentum:] if momentum else []))
    return rewritten


async def _rejected(
    objects: Objects, host: Host, tasks: Sequence[Task], new: Sequence[Data | QuestionFailed]
) -> set[Variable]:
    """The parameters that keep their data because the new data is no better on the batch; what was tried is kept."""
    to_try = [
        (task, data)
        for task, data in zip(tasks, new)
        if task.settings.tries_before and not isinstance(data, QuestionFailed)
    ]
    if not to_try:
        return set()
    replays = [
        gradient.variable.replay
        for task, _ in to_try
        for gradient in task.gradients
        if gradient.variable.replay is not None
    ]
    changed = {task.parameter.variable: data for task, data in to_try if data != task.parameter.data}
    if changed:
        verdict = await tried(host, replays, changed)
        if verdict.is_better:
            return set()
        score = f"score {verdict.new:.4g} on {verdict.samples} samples, where the current data has {verdict.old:.4g}"
    else:
        score = "the same as the current data"
    for task, data in to_try:
        objects.rejected[task.parameter.variable] = Rejected(data, task.parameter.data, score)
        host.rejected.append(
            f"The parameter with the role {shorten(task.parameter.role, 100)!r} keeps its data: {score}."
        )
    return {task.parameter.variable for task, _ in to_try}


async def _improved(objects: Objects, host: Host, task: Task) -> Data | QuestionFailed:
    """The new data; the failure where all that was offered would have done harm, which the old data does not."""
    rejected = objects.rejected.get(task.parameter.variable)
    if rejected is not None and rejected.instead_of != task.parameter.data:
        rejected = None
    try:
        return await task.settings.improved(host, task.parameter, task.gradients, task.history, rejected)
    except QuestionFailed as exc:
        if exc.kind != "harmful":
            raise
        return exc


def version_tags(versions: Sequence[Version]) -> list[Any]:
    """A momentum buffer on the wire (protocol §E.5)."""
    return [[version.copy.tag, [gradient.tag for gradient in version.gradients]] for version in versions]


def _said(gradients: Sequence[Variable]) -> list[str]:
    """What gradients say in words and do not know of samples."""
    return _texts(one.data if one.learnt is None else one.learnt.besides for one in gradients)


def _records(gradients: Sequence[Variable]) -> list[Record]:
    return [record for one in gradients if one.learnt is not None for record in one.learnt.records]


def _texts(data: Any) -> list[str]:
    return [found for found in (_as_text(item) for item in data) if found]


def _as_text(data: Data) -> str:
    return "\n".join(filter(None, map(text, data))) if isinstance(data, list) else text(data)


def _checked_momentum(momentum: Any) -> int:
    if isinstance(momentum, bool) or not isinstance(momentum, int) or momentum < 0:
        raise Refused(f"`momentum` must be an integer of at least 0, not {momentum!r}.")
    return momentum


def _filled(messages: Any, inputs: Any) -> tuple[dict[str, str], list[prompts.ChatMessage]]:
    """The inputs as texts, and the user's own messages; no messages if they are the client's placeholders."""
    conversation = Conversation(messages or [{"role": "user", "content": ""}], inputs or {})
    if conversation.size is not None:
        raise Refused("The messages and inputs of an optimizer must not be lists.")
    filled = conversation.messages(0)
    if all(message["content"] in ("", *prompts.TGD_PLACEHOLDERS) for message in filled):
        filled = []
    return conversation.inputs(0), filled
