"""What an endpoint does not take: learnt once, from the words of its refusal, and then remembered.

Nothing is guessed: a refusal that names none of these things reaches the user as it is, after one request.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ..prompts import ChatMessage
from ..reading.completion import Problem

AnswerForm = Literal["json_schema", "tool", "plain"]
"""How a JSON object is asked for: by ``response_format``, by a tool that the model must call, or in words alone."""

_NEXT_FORM: dict[AnswerForm, AnswerForm | None] = {"json_schema": "tool", "tool": "plain", "plain": None}

TOOL = "give_answer"

# What an answer can do without.
_DISPENSABLE = (
    *("temperature", "top_p", "presence_penalty", "frequency_penalty", "logprobs", "top_logprobs", "seed"),
    *("parallel_tool_calls", "reasoning_effort", "verbosity", "store", "stop"),
)

_LIMITS = {"max_tokens": "max_completion_tokens", "max_completion_tokens": "max_tokens"}

_NOT_TAKEN = ("unsupported", "not supported", "does not support", "unrecognized", "unknown parameter", "not permitted")

# Statuses that say of a question that its form is not taken; other ones only with words about that.
_FORM_STATUSES = frozenset({415, 422, 501})
_ABOUT_FORM = (
    *("response_format", "json", "schema", "structured", "grammar", "tool", "function"),
    *("unsupported", "not support", "unknown", "unrecognized", "unexpected", "extra"),
)


@dataclass
class Learnt:
    """What one model at one endpoint takes.

    Attributes:
        form: how a JSON object is asked for; None: not known yet.
        probing: held by the question that finds this out, so that only one does.
    """

    has_system_role: bool = True
    renamed: dict[str, str] = field(default_factory=dict)
    dropped: set[str] = field(default_factory=set)
    form: AnswerForm | None = None
    probing: asyncio.Lock = field(default_factory=asyncio.Lock, repr=False)

    def body(
        self, messages: list[ChatMessage], args: Mapping[str, Any], schema: Mapping[str, Any] | None, form: AnswerForm
    ) -> dict[str, Any]:
        """The body of a request."""
        body: dict[str, Any] = {
            self.renamed.get(name, name): value for name, value in args.items() if name not in self.dropped
        }
        body["messages"] = messages if self.has_system_role else in_turns(messages)
        if schema is not None and form == "json_schema":
            named = {"name": TOOL, "strict": True, "schema": schema}
            body["response_format"] = {"type": "json_schema", "json_schema": named}
        if schema is not None and form == "tool":
            function = {"name": TOOL, "description": "Give the answer, in the required form.", "parameters": schema}
            body["tools"] = [{"type": "function", "function": function}]
            body["tool_choice"] = {"type": "function", "function": {"name": TOOL}}
        return body

    def learn(self, status: int, problem: Problem, body: Mapping[str, Any]) -> bool:
        """Whether the refusal of ``body`` names something that is not taken. From now on questions go without it."""
        if status not in (400, 422):
            return False
        said = problem.said.lower()
        for name, other in _LIMITS.items():
            if name in body and self._is_not_taken(name, problem, said) and name not in self.renamed.values():
                self.renamed[name] = other
                return True
        for name in _DISPENSABLE:
            if name in body and self._is_not_taken(name, problem, said):
                self.dropped.add(name)
                return True
        if self.has_system_role and _is_about_roles(said) and in_turns(body["messages"]) != body["messages"]:
            self.has_system_role = False
            return True
        return False

    @staticmethod
    def _is_not_taken(name: str, problem: Problem, said: str) -> bool:
        # OpenAI's form (code and param), and its words, which others copy: 'max_tokens' is not supported with ...
        if problem.param == name and (problem.code or "").startswith("unsupported_"):
            return True
        return f"'{name}'" in said and any(words in said for words in _NOT_TAKEN)


def next_form(form: AnswerForm, status: int, problem: Problem) -> AnswerForm | None:
    """How to ask for a JSON object after this refusal of the first try; None: the refusal is about something else."""
    said = problem.said.lower()
    is_about_form = not said.strip() or any(words in said for words in _ABOUT_FORM)
    if status in _FORM_STATUSES or (status in (400, 404, 500) and is_about_form):
        return _NEXT_FORM[form]
    return None


def in_turns(messages: list[ChatMessage]) -> list[ChatMessage]:
    """The same conversation for templates that have no system role and want user and assistant in turns."""
    turns: list[ChatMessage] = []
    for message in messages:
        role = "assistant" if message["role"] == "assistant" else "user"
        if turns and turns[-1]["role"] == role:
            turns[-1] = {"role": role, "content": f"{turns[-1]['content']}\n\n{message['content']}"}
        else:
            turns.append({"role": role, "content": message["content"]})
    return turns


def _is_about_roles(said: str) -> bool:
    if "system" in said and ("role" in said or "message" in said or "instruction" in said or "prompt" in said):
        return any(
            words in said for words in ("support", "not allowed", "invalid", "unknown", "expected", "only", "must")
        )
    return "user" in said and "assistant" in said and ("turn" in said or "alternat" in said)


def encoded(body: Mapping[str, Any]) -> bytes:
    """The body on the wire."""
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
