"""A host for the engine without sockets: functions and language models are plain functions of the test."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from tellurio_sync.backend import wire
from tellurio_sync.backend.engine.backward import Arrived, backward
from tellurio_sync.backend.engine.functions import bind
from tellurio_sync.backend.engine.graph import record
from tellurio_sync.backend.engine.samples import LeftOut
from tellurio_sync.backend.objects import Model, Objects, Variable
from tellurio_sync.backend.prompts import CRITIC, OPTIMIZER, PROPAGATOR, ChatMessage, read_blocks
from tellurio_sync.backend.questions import Answer, Question
from tellurio_sync.backend.records import learnt, plain_feedback

T = TypeVar("T")


def run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(work)


class ScriptedHost:
    """Keeps what was asked, in order."""

    def __init__(self, answer: Callable[[list[ChatMessage]], str] | None = None, feedback: str = "critic") -> None:
        self.objects = Objects()
        self.max_failed = 0.5
        self.feedback = feedback
        self.left_out: list[LeftOut] = []
        self.told: list[str] = []
        self.notes: list[str] = []
        self.rejected: list[str] = []
        self.functions: dict[str, Callable[..., Any]] = {}
        self.questions: list[Question] = []
        self.asked: list[list[ChatMessage]] = []
        self.completion_args: list[dict[str, Any]] = []
        self._answer = answer or answer_like_a_model

    async def call(self, function: wire.Callable, *args: Any) -> Any:
        return self.functions[function.callable_id](*args)

    async def ask(self, question: Question) -> Answer:
        self.questions.append(question)
        self.asked.append(question.messages)
        if question.model is not None:
            self.completion_args.append(dict(question.completion_args))
        return Answer(self._answer(question.messages))

    # --- shorthands -----------------------------------------------------------------------------

    def variable(self, data: Any, role: str = "", requires_grad: bool = False) -> Variable:
        return self.objects.new_variable(data=data, role=role, requires_grad=requires_grad)

    def model(self) -> dict[str, Any]:
        self.objects.models["m"] = Model("m", "callable", {"callable_id": "f"}, {})
        return {"__model_client__": True, "model_id": "m"}

    def function(self, function: Callable[..., Any]) -> dict[str, Any]:
        name = f"f{len(self.functions)}"
        self.functions[name] = function
        return {"__callable__": True, "callable_id": name}

    def run(self, name: str, *args: Any, grad_enabled: bool = True, **kwargs: Any) -> list[Variable]:
        """The outputs of a function; Variables among the arguments become references."""
        op = bind(self.objects, name, _tagged(list(args)), _tagged(kwargs))
        return record(self.objects, op, run(op.forward(self)), grad_enabled=grad_enabled).outputs

    def backward(self, *roots: Variable, gradients: Any = None, **options: Any) -> list[Arrived]:
        """Go back and append what arrives, as a request does."""
        arrived = run(backward(self, roots, gradients or [None] * len(roots), **options))
        for variable, data in arrived:
            gradient = Variable("g", plain_feedback(data), "gradient", learnt=learnt(data))
            variable.grad.append(gradient)
        return arrived


def _tagged(value: Any) -> Any:
    if isinstance(value, Variable):
        return value.tag
    if isinstance(value, list):
        return [_tagged(item) for item in value]
    if isinstance(value, dict):
        return {key: _tagged(item) for key, item in value.items()}
    return value


def grads(variable: Variable) -> list[Any]:
    return [gradient.data for gradient in variable.grad]


def answer_like_a_model(messages: list[ChatMessage]) -> str:
    """Says what it saw: forward chats in upper case, feedback naming its subject."""
    first_line, user = messages[0]["content"].splitlines()[0], messages[-1]["content"]
    if first_line == CRITIC:
        return f"criticism of {read_blocks(user, 'DATA')[0]}"
    if first_line == PROPAGATOR:
        (feedback,) = read_blocks(user, "FEEDBACK")
        parts = read_blocks(user, "VARIABLE")
        entries = [
            f'"{read_blocks(part, "NAME")[0]}": "{feedback} for {read_blocks(part, "ROLE")[0]}"' for part in parts
        ]
        return "{" + ", ".join(entries) + "}"
    if first_line == OPTIMIZER:
        (variable,) = read_blocks(user, "VARIABLE")
        return f"Here it is: <IMPROVED>{read_blocks(variable, 'DATA')[0]}, better</IMPROVED>"
    return user.upper()


def model_answer(messages: list[dict[str, str]], **completion_args: Any) -> str:
    return answer_like_a_model(messages)


def language_model(messages: list[ChatMessage]) -> str:
    """Deterministic, and sensitive to everything: each new prompt is a digest of all that was shown."""
    if messages[0]["content"].splitlines()[0] == OPTIMIZER:
        return f"<IMPROVED>prompt {hashlib.sha256(messages[-1]['content'].encode()).hexdigest()}</IMPROVED>"
    return answer_like_a_model(messages)
