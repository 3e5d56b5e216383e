"""Language models behind OpenAI-compatible HTTP endpoints."""

from __future__ import annotations

import asyncio
import importlib
import logging
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

from . import usage, wire
from .objects import Model
from .prompts import ChatMessage
from .questions import Answer, Asked, Question, QuestionFailed
from .refused import Refused

if TYPE_CHECKING:
    from openai import AsyncOpenAI
    from openai.types.chat import ChatCompletion

logger = logging.getLogger(__name__)

# Calls a function of the client, with keyword arguments.
CallFunction = Callable[..., Awaitable[Any]]
OnQuestion = Callable[[Asked], None]

# The most requests to one model at a time; more of them wait here, not in the endpoint's rate limit.
AT_ONCE = 16

# The settings that a client may give (protocol §H.2), under the names of the openai client.
_SETTINGS = ("max_retries", "organization", "project", "default_headers", "default_query", "timeout")

# Arguments under which an answer would not be one text, unless they have one of these values.
_ONE_TEXT: dict[str, tuple[object, ...]] = {"stream": (None, False), "n": (None, 1)}


class LanguageModels:
    """Asks HTTP endpoints, with one openai client per model. Event loop's thread only.

    The ``openai`` package is imported at the first question: a backend whose users bring their own
    functions as models never needs it.

    Attributes:
        on_question: each is told of each question once it has ended, in the order of their ends; must not block. What
            it raises is logged.
    """

    def __init__(self, base_url: str | None = None, api_key: str | None = None) -> None:
        """Defaults for models that name no address or bring no key."""
        self.on_question: list[OnQuestion] = []
        self._base_url = base_url
        self._api_key = api_key
        self._clients: dict[Model, tuple[AsyncOpenAI, asyncio.Semaphore]] = {}

    async def ask(self, question: Question, call: CallFunction, run_uuid: str = "") -> Answer:
        """The model's answer; its usage is added to the model's, and :attr:`on_question` is told.

        Cancelling it ends the request to the endpoint.

        Args:
            question: with a model.
            call: for a model that is a function of the client's.
            run_uuid: of the request that asks.

        Raises:
            QuestionFailed: there is no answer; the text holds no key.
        """
        assert question.model is not None
        started_at, started = time.time(), time.monotonic()
        answer, error, kind = None, None, None
        try:
            answer = await self._answer(question, question.model, call)
        except QuestionFailed as exc:
            error, kind = str(exc), exc.kind
            raise
        except asyncio.CancelledError:
            error = "Given up: nobody waits for the answer any more."
            raise
        finally:
            self._tell(
                Asked(
                    purpose=question.purpose,
                    run_uuid=run_uuid,
                    model_id=question.model.model_id,
                    model_name=_model_name(question),
                    endpoint=str(question.model.config.get("base_url") or ""),
                    sample=question.sample,
                    messages=question.messages,
                    completion_args=_shown(question.completion_args),
                    answer=answer,
                    error=error,
                    error_kind=kind,
                    tries=1,
                    started_at=started_at,
                    seconds=time.monotonic() - started,
                )
            )
        return answer

    def _tell(self, asked: Asked) -> None:
        for told in self.on_question:
            try:
                told(asked)
            except Exception:  # an answer that is paid for must not be lost because it could not be noted
                logger.exception("! a question could not be noted")

    async def _answer(self, question: Question, model: Model, call: CallFunction) -> Answer:
        if model.provider != "callable":
            return await self._chat(model, question.messages, dict(question.completion_args))
        function = wire.Callable(model.config["callable_id"])
        try:
            text = await call(function, question.messages, **question.completion_args)
        except Refused as exc:
            raise QuestionFailed("function", exc.text) from None
        if not isinstance(text, str):
            problem = f"The function of a CallableModel must return a text, not {type(text).__name__}."
            raise QuestionFailed("function", problem)
        return Answer(text)

    async def _chat(self, model: Model, messages: list[ChatMessage], completion_args: dict[str, Any]) -> Answer:
        name = completion_args.get("model")
        if not (isinstance(name, str) and name):
            raise QuestionFailed("settings", "No model name: give `model` among the completion arguments.")
        for argument, allowed in _ONE_TEXT.items():
            value = completion_args.get(argument)
            if value not in allowed:
                text = f"`{argument}={value!r}` is not supported: an answer is one whole text."
                raise QuestionFailed("settings", text)
        if model not in self._clients:
            self._clients[model] = (await self._client_for(model), asyncio.Semaphore(AT_ONCE))
        client, gate = self._clients[model]
        try:
            async with gate:
                completion = await client.chat.completions.create(messages=messages, **completion_args)  # type: ignore[arg-type]
        except Exception as exc:  # noqa: BLE001 - every kind of failure becomes one clear text, without keys
            text = _without_secrets(str(exc) or type(exc).__name__, model, client.api_key)
            text = f"The language model {name!r} at {client.base_url} failed: {text}"
            raise QuestionFailed("refused", text) from None
        return self._read(model, name, completion)

    def _read(self, model: Model, name: str, completion: ChatCompletion) -> Answer:
        if completion.usage is not None:
            usage.add(model.usage, completion.usage.model_dump(), name)
        content = completion.choices[0].message.content if completion.choices else None
        if content is None:
            raise QuestionFailed("no_text", f"The language model {name!r} answered without text.")
        return Answer(content)

    async def _client_for(self, model: Model) -> AsyncOpenAI:
        # The import takes about a second: not in the event loop's thread, where everybody would wait.
        openai = await asyncio.to_thread(importlib.import_module, "openai")
        settings = {name: model.config[name] for name in _SETTINGS if model.config.get(name) is not None}
        base_url = model.config.get("base_url") or self._base_url or os.environ.get("OPENAI_BASE_URL")
        api_key = model.config.get("api_key") or self._api_key or os.environ.get("OPENAI_API_KEY")
        if not api_key:
            if not base_url:
                raise QuestionFailed(
                    "settings", "No API key for the language model: neither the model nor the backend has one."
                )
            # Servers on one's own machine want none, but the client insists on sending one.
            api_key = "none"
        try:
            client: AsyncOpenAI = openai.AsyncOpenAI(api_key=api_key, base_url=base_url, **settings)
        except Exception as exc:  # noqa: BLE001 - settings come from the user
            raise QuestionFailed(
                "settings", f"The language model's settings are wrong: {_without_secrets(str(exc), model)}"
            ) from None
        return client

    async def close(self) -> None:
        """Close all connections to endpoints."""
        clients = [client for client, _ in self._clients.values()]
        self._clients.clear()
        for client in clients:
            await client.close()


# Among the completion arguments, what may hold a key.
_SECRET_ARGUMENTS = ("extra_headers", "extra_query", "extra_body")


def _model_name(question: Question) -> str:
    name = question.completion_args.get("model")
    return name if isinstance(name, str) else ""


def _shown(completion_args: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in completion_args.items() if name not in _SECRET_ARGUMENTS}


def _without_secrets(text: str, model: Model, *more: str) -> str:
    headers = model.config.get("default_headers") or {}
    secrets = [model.config.get("api_key"), *more, *(headers.values() if isinstance(headers, dict) else [])]
    for secret in secrets:
        if isinstance(secret, str) and len(secret) > 4:
            text = text.replace(secret, "***")
    return text
