"""Language models: descriptions of the models that the server calls (protocol §H).

The forward and the backward pass run on the server, so a model here holds no connection to a provider: it names the
provider and the key, and mirrors the usage.  The key is sent to the server once, when the model is made, and appears
in no ``repr``, pickle or log of this package.

| State | Written by | Read by | Guarded by | Enforced by |
|---|---|---|---|---|
| ``_usage`` | receive thread (pushes): a new dict each time | any thread | one store | – |
| ``_model_id``, ``_lost`` | a restore, while no call is in progress | any thread | see ``call`` | ``restore_gate`` |
| ``_has_consent`` | any thread | any thread | one store | – |
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, overload

from ..errors import RemoteProtocolError, TellurioError, UsageError
from ..parallel import on_executor
from .call import Call
from .model_config import ModelConfig, openai_config, without_secrets
from .reply_checks import id_member, member
from .restorable import Restorable
from .session_link import SessionLink, current_link

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from typing_extensions import Self

# In ``cost``, where our backend does not know the price of some tokens.
_UNPRICED = "unpriced_tokens"
_BUDGET = "budget"

_EMBED = "embed"
"""The method, and the extension of servers that have it (protocol §K.16)."""
_TEXTS_PER_REQUEST = 100

MODEL_TAG = "__model_client__"


def initial_usage() -> dict[str, Any]:
    """Usage of a model that has not been called (protocol §H.3)."""
    return {
        "completion_tokens": 0,
        "prompt_tokens": 0,
        "total_tokens": 0,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": 0,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
        "cost": {"amount": 0.0, "currency": "USD"},
    }


class ChatCompletionModel(Restorable):
    """A language model that answers chats. Use a subclass."""

    provider: ClassVar[str] = ""
    class_type: ClassVar[str] = ""

    def __init__(self, config: ModelConfig) -> None:
        self._config = config
        self._usage = initial_usage()
        self._link = current_link()
        self._lost: str | None = None
        self._check_may_share(self._link)
        with Call(self._link) as call:
            result = call.request("create_model", self._creation())
            self._model_id = id_member("create_model", result, "model_id")
            self._link.registries.models.register(self._model_id, self)

    @property
    def model_id(self) -> str:
        """The id under which the server knows this model."""
        return self._model_id

    @property
    def link(self) -> SessionLink:
        """The session it belongs to."""
        return self._link

    def has_config(self, config: Any) -> bool:
        """Whether it was made with this configuration."""
        return bool(self._config == config)

    def take_usage(self, usage: dict[str, Any]) -> None:
        """Take over what the server says of tokens and cost. For pushes."""
        self._usage = usage

    def get_usage(self) -> dict[str, Any]:
        """A copy of the tokens and the cost so far, as the server last reported them. Does not block.

        ``cost["amount"]`` is in US dollars, and None where the price of some tokens is not known; ``cost["known"]`` is
        then what the others cost, and ``cost["unpriced_tokens"]`` how many there are.
        """
        usage = copy.deepcopy(self._usage)
        cost = usage.get("cost")
        if isinstance(cost, dict) and cost.get(_UNPRICED):
            cost["known"], cost["amount"] = cost.get("amount"), None
        elif isinstance(cost, dict):
            cost.pop(_UNPRICED, None)
        return usage

    def clear_usage(self) -> None:
        """Reset the usage that the server counts to zero. One round trip; ``get_usage`` shows it afterwards."""
        with Call(self._link, changes=[self]) as call:
            self._check_not_lost()
            result = call.request("clear_model_usage", {"model_id": self._model_id})
            id_member("clear_model_usage", result, "model_id")

    def chat(self, messages: Sequence[Mapping[str, str]], **completion_args: Any) -> str:
        """The answer to a chat, as plain text, outside of any graph. Two round trips, one of them a long call.

        Args:
            messages: ``[{"role": "system", "content": "..."}, ...]``.
            completion_args: passed on to the model, such as ``model="gpt-4o"``.

        Raises:
            TypeError: messages of another form.
            As ``functional.chat_completion``.
        """
        from ..autodiff.conversation import ask

        return ask(self, messages, completion_args)

    def complete(self, prompt: str, **completion_args: Any) -> str:
        """As ``chat``, with ``prompt`` as the only message."""
        return self.chat([{"role": "user", "content": prompt}], **completion_args)

    @overload
    def embed(self, texts: str, **arguments: Any) -> list[float]: ...

    @overload
    def embed(self, texts: Sequence[str], **arguments: Any) -> list[list[float]]: ...

    def embed(self, texts: str | Sequence[str], **arguments: Any) -> list[float] | list[list[float]]:
        """The vector of a text, or one for each of several, outside of any graph.

        One round trip, which waits for the model. A hundred texts go in a request to it.

        Args:
            texts: one, or a list of them.
            arguments: passed on to the model, such as ``model="text-embedding-3-small"`` or ``dimensions=256``.

        Raises:
            TypeError: not texts.
            UsageError: the server cannot do this; the local backend can.
            RemoteError: the model gave no vectors.
        """
        listed = [texts] if isinstance(texts, str) else _texts(texts)
        vectors = self._embedded(listed, arguments) if listed else []
        return vectors[0] if isinstance(texts, str) else vectors

    async def achat(self, messages: Sequence[Mapping[str, str]], **completion_args: Any) -> str:
        """As ``chat``, awaited, for a program that has an event loop: a worker thread of the loop makes the call.

        Several at once: ``await asyncio.gather(model.achat(...), model.achat(...))``. A task that is cancelled does
        not take back its question: the thread waits for the answer.
        """
        from asyncio import to_thread

        return await to_thread(self.chat, messages, **completion_args)

    async def acomplete(self, prompt: str, **completion_args: Any) -> str:
        """As ``complete``, awaited: see ``achat``."""
        return await self.achat([{"role": "user", "content": prompt}], **completion_args)

    @overload
    async def aembed(self, texts: str, **arguments: Any) -> list[float]: ...

    @overload
    async def aembed(self, texts: Sequence[str], **arguments: Any) -> list[list[float]]: ...

    async def aembed(self, texts: str | Sequence[str], **arguments: Any) -> list[float] | list[list[float]]:
        """As ``embed``, awaited: see ``achat``."""
        from asyncio import to_thread

        embed: Callable[..., list[float] | list[list[float]]] = self.embed
        return await to_thread(embed, texts, **arguments)

    def _embedded(self, texts: list[str], arguments: dict[str, Any]) -> list[list[float]]:
        parts = [texts[start : start + _TEXTS_PER_REQUEST] for start in range(0, len(texts), _TEXTS_PER_REQUEST)]
        with Call(self._link) as call:
            self._check_not_lost()
            if _EMBED not in self._link.extensions:
                raise UsageError("This server gives no vectors for texts; the local backend does.")
            fixed = {"model_id": self._model_id, "completion_args": arguments}
            outcomes = call.request_many([(_EMBED, {**fixed, "texts": part}) for part in parts])
        vectors: list[list[float]] = []
        for outcome, part in zip(outcomes, parts):
            if isinstance(outcome, TellurioError):
                raise outcome
            found = member(_EMBED, outcome, "vectors")
            if not isinstance(found, list) or len(found) != len(part):
                raise RemoteProtocolError(f"There is not a vector for each of {len(part)} texts.", received="")
            vectors.extend(found)
        return vectors

    def describe(self) -> dict[str, Any]:
        """The form of a model in a checkpoint: class, provider and usage (protocol §H.1)."""
        return {"class_type": self.class_type, "provider": self.provider, "usage": self.get_usage()}

    def _reference(self) -> dict[str, Any]:
        self._check_not_lost()
        return {MODEL_TAG: True, "model_id": self._model_id}

    def _check_not_lost(self) -> None:
        if self._lost is not None:
            raise UsageError(self._lost)

    def _check_may_share(self, link: SessionLink) -> None:
        """Return if the configuration may be sent to the server of this session; raises UsageError if not."""

    # --- for a restore ---------------------------------------------------------------------------

    def _creation(self) -> dict[str, Any]:
        """The parameters of ``create_model`` for what this is now."""
        usage = copy.deepcopy(self._usage)
        if _BUDGET in self._link.extensions and isinstance(usage.get("cost"), dict):
            # Asks the server to count these too (protocol §K.11).
            usage["cost"].setdefault(_UNPRICED, 0)
        return {"class_type": self.class_type, "provider": self.provider, "config": self._config, "usage": usage}

    def _mark_lost(self, reason: str) -> None:
        self._lost = reason

    def _renewed(self, link: SessionLink, model_id: str) -> None:
        """The server has a new model for this one, under this id."""
        former, self._model_id, self._lost = self._model_id, model_id, None
        link.registries.models.rename(former, model_id, self)

    # A model is a handle: a copy of an object that uses it must not make another model on the server.
    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def _repr_html_(self) -> str:
        """In a notebook: which model, its tokens and its cost so far. Does not block; shows no key."""
        from .. import cards

        usage = self.get_usage()
        rows = [
            ("tokens", f"{usage['total_tokens']:,}"),
            ("of questions", f"{usage['prompt_tokens']:,}"),
            ("of answers", f"{usage['completion_tokens']:,}"),
            ("cost", _in_words(usage["cost"])),
        ]
        if self._lost is not None:
            rows.append(("lost", self._lost))
        return cards.card(type(self).__name__, _host_of(self._config.get("base_url")), [cards.table(rows)])

    def __repr__(self) -> str:
        known = self.__dict__  # of a constructor that has failed, and whose frame is being shown, not all is there
        return f"{type(self).__name__}(model_id={known.get('_model_id')!r}, config={known.get('_config')!r})"


class OpenAI(ChatCompletionModel):
    """A model behind the chat-completions interface of OpenAI, or of any server that speaks it.

    Args:
        api_key: None: ``OPENAI_API_KEY``.
        organization, project: of the account.
        base_url: of another server, such as ``http://localhost:11434/v1``; None: ``OPENAI_BASE_URL`` of this process,
            where ``OPENAI_API_KEY`` comes from too, else the server's own default.
        websocket_base_url: the same for streaming connections.
        timeout: seconds, > 0, for one question to the provider, with all its tries; None: 600.
        max_retries: >= 0, by the server, for one request to the provider.
        default_headers, default_query: added to every request to the provider.
        max_concurrency: questions at once, > 0; None: as many as the provider bears.
        requests_per_minute: > 0; None: as many as the provider bears.
        ca_bundle: path, on the server's machine, of certificates that it trusts in addition to the usual ones.
        allow_insecure: send the key over ``http://`` to another machine. Everybody on the way can read it.
        cache: take the answer to a question that was asked before, with the same messages and arguments, from the
            server's disk. None: not for the chats of the user.

    ``max_concurrency`` and those below it are options of the local backend; other servers may ignore them.

    Sends the key to the server, which needs the user's consent (protocol §H.5), unless the server runs on this
    machine. Blocks for one round trip.

    Raises:
        UsageError: there is no key.
        RuntimeError: no consent.
        TypeError, ValueError: an argument that cannot be sent.
    """

    provider = "openai"
    class_type = "OpenAI"

    def __init__(
        self,
        *,
        api_key: str | None = None,
        organization: str | None = None,
        project: str | None = None,
        base_url: str | None = None,
        websocket_base_url: str | None = None,
        timeout: float | None = None,
        max_retries: int = 2,
        default_headers: Mapping[str, str] | None = None,
        default_query: Mapping[str, object] | None = None,
        max_concurrency: int | None = None,
        requests_per_minute: float | None = None,
        ca_bundle: str | None = None,
        allow_insecure: bool | None = None,
        cache: bool | None = None,
    ) -> None:
        arguments = ModelConfig(
            api_key=api_key,
            organization=organization,
            project=project,
            base_url=base_url,
            websocket_base_url=websocket_base_url,
            timeout=timeout,
            max_retries=max_retries,
            default_headers=default_headers,
            default_query=default_query,
            max_concurrency=max_concurrency,
            requests_per_minute=requests_per_minute,
            ca_bundle=ca_bundle,
            allow_insecure=allow_insecure,
            cache=cache,
        )
        # No frame of ours keeps the plain keys beside the config, whose repr hides them.
        del api_key, default_headers, default_query
        config = openai_config(arguments)
        self._has_consent = False
        super().__init__(config)

    def _check_may_share(self, link: SessionLink) -> None:
        if self._has_consent or link.is_local:
            return
        link.check_consent()
        # The user is asked once: a restore after a reconnect must not ask again.
        self._has_consent = True

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickles hold the configuration without the key: where it is unpickled, ``OPENAI_API_KEY`` must be set."""
        return _rebuild, (type(self), without_secrets(self._config))


class AsyncOpenAI(OpenAI):
    """The same as ``OpenAI``, under the name of the asynchronous client; the server treats both in the same way."""

    class_type = "AsyncOpenAI"


class CallableModel(ChatCompletionModel):
    """A Python function in place of a language model, for offline work and tests.

    The local backend calls it back: ``fn(messages, **completion_args)`` with ``messages`` a list of
    ``{"role": str, "content": str}``.  It returns the answer, a str.  It runs on a worker thread, several
    calls at once where a batch is answered, and may call the server.  Making one blocks for one round trip.

    Args:
        fn: the function.
        executor: a ``concurrent.futures.Executor`` that runs it, such as a pool of processes or a cluster; None: the
            worker thread itself.  At most 32 questions are on it at the same time.
        embed: in the place of a model for vectors: ``embed(texts, **arguments)`` gives a list of numbers for each of
            the texts. The method ``embed`` calls it, in its own thread.

    Raises:
        TypeError: ``fn`` is not callable, or a coroutine function; not an executor.
    """

    provider = "callable"
    class_type = "CallableModel"

    def __init__(
        self,
        fn: Callable[..., str],
        *,
        executor: Executor | None = None,
        embed: Callable[..., Sequence[Sequence[float]]] | None = None,
    ) -> None:
        if not callable(fn):
            raise TypeError(f"CallableModel takes a function, not {type(fn).__name__}")
        if inspect.iscoroutinefunction(fn):
            raise TypeError("CallableModel takes a plain function, not a coroutine function")
        if embed is not None and not callable(embed):
            raise TypeError(f"embed must be a function, not {type(embed).__name__}")
        self._function = fn
        self._embed = embed
        self._registered = current_link().registries.register_callable(_text_answers(on_executor(fn, executor)))
        super().__init__(ModelConfig(callable_id=self._registered.callable_id))

    def _embedded(self, texts: list[str], arguments: dict[str, Any]) -> list[list[float]]:
        if self._embed is None:
            raise UsageError("This model has no function for vectors: CallableModel(fn, embed=...).")
        vectors = [[float(number) for number in vector] for vector in self._embed(texts, **arguments)]
        if len(vectors) != len(texts):
            raise ValueError(f"embed() must give a vector for each of the {len(texts)} texts, not {len(vectors)}.")
        return vectors

    def __reduce__(self) -> tuple[Any, ...]:
        make = type(self) if self._embed is None else partial(type(self), embed=self._embed)
        return make, (self._function,)


def _texts(texts: Sequence[str]) -> list[str]:
    listed = list(texts)
    for index, text in enumerate(listed):
        if not isinstance(text, str):
            raise TypeError(f"texts[{index}] must be a text, not {type(text).__name__}")
    return listed


def _in_words(cost: Mapping[str, Any]) -> str:
    amount, known = cost.get("amount"), cost.get("known")
    if amount is not None:
        return f"${amount:.4f}"
    return f"unknown for {cost.get('unpriced_tokens', 0):,} tokens" + (
        f", ${known:.4f} for the others" if known else ""
    )


def _host_of(address: str | None) -> str:
    """Only this of an address: the rest of it may hold a key."""
    from urllib.parse import urlsplit

    try:
        found = urlsplit(address or "")
        return (found.hostname or "") + (f":{found.port}" if found.port else "")
    except ValueError:
        return ""


def _text_answers(fn: Callable[..., Any]) -> Callable[..., str]:
    # Not a method: the registration must not refer to the model, so that both are freed as soon as the user drops it.
    def answer(messages: list[dict[str, str]], **completion_args: Any) -> str:
        text = fn(messages, **completion_args)
        if not isinstance(text, str):
            name = getattr(fn, "__qualname__", type(fn).__qualname__)
            raise TypeError(f"The function of a CallableModel, {name}, must return a str, not {type(text).__name__}")
        return text

    return answer


def _rebuild(cls: type[OpenAI], config: dict[str, Any]) -> OpenAI:
    return cls(**config)
