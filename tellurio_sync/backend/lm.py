"""Language models behind OpenAI-compatible HTTP endpoints."""

from __future__ import annotations

import asyncio
import importlib
import os
from typing import TYPE_CHECKING, Any

from . import usage
from .objects import Model
from .prompts import ChatMessage
from .refused import Refused

if TYPE_CHECKING:
    from openai import AsyncOpenAI
    from openai.types.chat import ChatCompletion

# Requests to one model at a time; more wait here rather than in the endpoint's rate limit.
AT_ONCE = 16

# What PROTOCOL.md §H.2 lets a client configure, as the openai client takes it.
_SETTINGS = ("max_retries", "organization", "project", "default_headers", "default_query", "timeout")

# Arguments under which an answer would not be one text, unless they have one of these values.
_ONE_TEXT: dict[str, tuple[object, ...]] = {"stream": (None, False), "n": (None, 1)}


class LanguageModels:
    """Asks HTTP endpoints, with one openai client per model. Event loop's thread only.

    The ``openai`` package is imported at the first question: a backend whose users bring their own
    functions as models never needs it.
    """

    def __init__(self, base_url: str | None = None, api_key: str | None = None) -> None:
        """Defaults for models that name no address or bring no key."""
        self._base_url = base_url
        self._api_key = api_key
        self._clients: dict[Model, tuple[AsyncOpenAI, asyncio.Semaphore]] = {}

    async def chat(self, model: Model, messages: list[ChatMessage], completion_args: dict[str, Any]) -> str:
        """The model's answer; its usage is added to the model's.

        Raises:
            Refused: no model name or key, arguments that cannot work, or whatever went wrong at the endpoint,
                after the retries of the model's configuration. The text holds no key.
        """
        name = completion_args.get("model")
        if not (isinstance(name, str) and name):
            raise Refused("No model name: give `model` among the completion arguments.")
        for argument, allowed in _ONE_TEXT.items():
            value = completion_args.get(argument)
            if value not in allowed:
                raise Refused(f"`{argument}={value!r}` is not supported: an answer is one whole text.")
        if model not in self._clients:
            self._clients[model] = (await self._client_for(model), asyncio.Semaphore(AT_ONCE))
        client, gate = self._clients[model]
        try:
            async with gate:
                completion = await client.chat.completions.create(messages=messages, **completion_args)  # type: ignore[arg-type]
        except Exception as exc:  # noqa: BLE001 - every kind of failure becomes one clear text, without keys
            text = _without_secrets(str(exc) or type(exc).__name__, model, client.api_key)
            raise Refused(f"The language model {name!r} at {client.base_url} failed: {text}") from None
        return self._answer(model, name, completion)

    def _answer(self, model: Model, name: str, completion: ChatCompletion) -> str:
        if completion.usage is not None:
            usage.add(model.usage, completion.usage.model_dump(), name)
        content = completion.choices[0].message.content if completion.choices else None
        if content is None:
            raise Refused(f"The language model {name!r} answered without text.")
        return content

    async def _client_for(self, model: Model) -> AsyncOpenAI:
        # The import takes about a second: not in the event loop's thread, where everybody would wait.
        openai = await asyncio.to_thread(importlib.import_module, "openai")
        settings = {name: model.config[name] for name in _SETTINGS if model.config.get(name) is not None}
        base_url = model.config.get("base_url") or self._base_url or os.environ.get("OPENAI_BASE_URL")
        api_key = model.config.get("api_key") or self._api_key or os.environ.get("OPENAI_API_KEY")
        if not api_key:
            if not base_url:
                raise Refused("No API key for the language model: neither the model nor the backend has one.")
            # Servers on one's own machine want none, but the client insists on sending one.
            api_key = "none"
        try:
            client: AsyncOpenAI = openai.AsyncOpenAI(api_key=api_key, base_url=base_url, **settings)
        except Exception as exc:  # noqa: BLE001 - settings come from the user
            raise Refused(f"The language model's settings are wrong: {_without_secrets(str(exc), model)}") from None
        return client

    async def close(self) -> None:
        """Close all connections to endpoints."""
        clients = [client for client, _ in self._clients.values()]
        self._clients.clear()
        for client in clients:
            await client.close()


def _without_secrets(text: str, model: Model, *more: str) -> str:
    headers = model.config.get("default_headers") or {}
    secrets = [model.config.get("api_key"), *more, *(headers.values() if isinstance(headers, dict) else [])]
    for secret in secrets:
        if isinstance(secret, str) and len(secret) > 4:
            text = text.replace(secret, "***")
    return text
