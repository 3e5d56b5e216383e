"""Questions to language models, their answers, and what is known of each afterwards.

The engine makes a :class:`Question` and gets an :class:`Answer` or a :class:`QuestionFailed`.  Observers of all
questions (the database, a bill) get an :class:`Asked` for each one, by the callbacks in ``LanguageModels.on_question``.
Plain values, no I/O.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from ..errors import shorten
from ..jsonrpc import INTERNAL_ERROR
from .refused import Refused

if TYPE_CHECKING:
    from .objects import Model
    from .prompts import ChatMessage

Purpose = Literal["forward", "judge", "critic", "propagator", "optimizer"]
"""What is asked: the user's own chat, a judgement, or one of the three questions of ``prompts``."""

FailureKind = Literal[
    "settings",  # the question could not be sent as it is: no model name, no key, an address that cannot be
    "unreachable",  # no connection: no server listens, the name does not resolve, the certificate is not trusted
    "timeout",  # no whole answer in the time that a question has
    "rate",  # 429, after all tries
    "server",  # 5xx, after all tries
    "key",  # 401, 403
    "refused",  # another 4xx, or an error object in the place of an answer: the endpoint does not want this question
    "not_a_completion",  # a web page, a stream, no JSON, another JSON
    "too_big",  # an answer over the largest that is read
    "no_text",  # a completion without a text: null, empty, a tool call
    "cut_off",  # the answer ended at the token limit before it was whole
    "blocked",  # the endpoint's content filter, or a refusal in its own field
    "form",  # no answer of the required form, after all tries
    "harmful",  # of the required form, but what it says would do harm, after all tries
    "budget",  # not asked: the budget does not allow it
    "function",  # the function of a CallableModel failed
]


@dataclass(frozen=True)
class Question:
    """One question.

    Attributes:
        purpose: what it is asked for.
        messages: the whole conversation.
        model: which model; None: the one for backward passes (protocol §H.4).
        completion_args: more arguments, as the user gave them; those of the backward model come with it.
        sample: of a batch: the index of the sample that it is about.
        schema: the JSON schema of the answer, where that is to be one JSON object.
        is_correction: it asks for an answer once more, because the first one could not be used.
    """

    purpose: Purpose
    messages: list[ChatMessage]
    model: Model | None = None
    completion_args: Mapping[str, Any] = field(default_factory=dict)
    sample: int | None = None
    schema: Mapping[str, Any] | None = None
    is_correction: bool = False

    def going_on(self, *messages: ChatMessage) -> Question:
        """The same question with more messages at its end."""
        return replace(self, messages=[*self.messages, *messages], is_correction=True)


@dataclass(frozen=True)
class Answer:
    """What a language model said.

    Attributes:
        text: the answer, without thoughts; it can be encoded as UTF-8.
        thoughts: what the model thought aloud before, "" for nothing. For display only.
        finish_reason: as the endpoint says it: "stop", "length", ...; None where it does not.
        usage: the tokens, as the endpoint reported them; empty where it did not.
        cost: US dollars, for all that was asked until it came; None: unknown.
        is_cached: it was not asked for again; usage and cost are those of the first time, and not paid.
    """

    text: str
    thoughts: str = ""
    finish_reason: str | None = None
    usage: Mapping[str, Any] = field(default_factory=dict)
    cost: float | None = None
    is_cached: bool = False


@dataclass(frozen=True)
class Asked:
    """What is known of a question once it has ended: answered, failed or given up.

    Attributes:
        run_uuid: the run that the request named, "" for none.
        model_name: the ``model`` among the completion arguments; "" for a function of the client's.
        endpoint: its address without secrets; "" for a function of the client's.
        completion_args: those that were sent, without headers, query and whatever else may hold a key.
        answer: None where there is none.
        error: the text of what went wrong; None where nothing did.
        error_kind: its kind; None too where the caller gave up waiting, ``error`` then says so.
        tries: requests that went to the endpoint for it; 0 from the cache.
        cost: US dollars for all of them; None: not known, or nothing was asked.
        started_at: seconds since the epoch.
        seconds: from then to the end, waiting for its turn included.
    """

    purpose: Purpose
    run_uuid: str
    model_id: str
    model_name: str
    endpoint: str
    sample: int | None
    messages: list[ChatMessage]
    completion_args: Mapping[str, Any]
    answer: Answer | None
    error: str | None
    error_kind: FailureKind | None
    tries: int
    cost: float | None
    started_at: float
    seconds: float


class QuestionFailed(Refused):
    """There is no answer to this question.

    Attributes:
        kind: what went wrong, the same for all samples that it goes wrong for.
        text: the same in words, and what to do; nothing in it is of the sample.
        said: what the endpoint or the model said, shortened; "" for nothing. It may quote the sample.
    """

    def __init__(self, kind: FailureKind, text: str, said: str = "") -> None:
        self.said: str = shorten(said) if said else ""
        whole = f"{text} {self.said}" if self.said else text
        super().__init__(whole, INTERNAL_ERROR)
        self.data: dict[str, str] = {"exception": whole, "kind": kind}
        self.kind = kind
        self.text = text

    def __str__(self) -> str:
        return f"{self.text} {self.said}" if self.said else self.text
