"""Asking language models: once, and again where that may help; adding up the cost; reporting each question."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

from .. import usage, wire
from ..objects import Model
from ..prices import prepare
from ..questions import Answer, Asked, FailureKind, Question, QuestionFailed
from ..reading.completion import Completion, read_completion
from ..reading.thoughts import part
from ..refused import Refused
from .again import Again, Patience, failure_of
from .budget import Budget, count_question
from .cache import AnswerCache
from .embeddings import ARGUMENTS, Embedding
from .exchange import Exchanges, Response, Unreachable
from .in_flight import InFlight
from .learnt import AnswerForm, Learnt, encoded, next_form
from .lingering import Lingering
from .pace import Pace
from .settings import Own, Settings, blotted, secrets_among, settings_of

logger: logging.Logger = logging.getLogger(__name__)

CallFunction = Callable[..., Awaitable[Any]]
"""Calls a function of the client, with keyword arguments."""
OnQuestion = Callable[[Asked], None]

# With these arguments an answer would not be one text, unless they have one of these values.
_ONE_TEXT: dict[str, tuple[object, ...]] = {"stream": (None, False), "n": (None, 1)}

# What the chat-completions interface takes. Anything else goes by `extra_body`, so that a misspelt name is found.
_ARGUMENTS = frozenset(
    {
        *("model", "audio", "frequency_penalty", "function_call", "functions", "logit_bias", "logprobs"),
        *("max_completion_tokens", "max_tokens", "metadata", "modalities", "n", "parallel_tool_calls", "prediction"),
        *("presence_penalty", "prompt_cache_key", "prompt_cache_retention", "reasoning_effort", "response_format"),
        *("safety_identifier", "seed", "service_tier", "stop", "store", "stream", "stream_options", "temperature"),
        *("tool_choice", "tools", "top_logprobs", "top_p", "user", "verbosity", "web_search_options"),
    }
)
# These are not part of the body: where the request goes, and how long it may take.
_AROUND = ("extra_headers", "extra_query", "extra_body", "timeout")

# Seconds, without a Retry-After: the pauses before another try, and how long an endpoint that takes no more questions
# is waited for.

# For so many models it is remembered what their endpoints take; more than anybody uses.
_MOST_LEARNT = 1000

# Questions to endpoints at a time, of all models, where the backend's options say nothing.
_MOST_AT_ONCE = 256

# A body of more bytes is decoded on another thread, so that the event loop does not wait for it.
_LONG_BODY = 100_000


@dataclass(eq=False)
class _Endpoint:
    """One model of a client, ready to be asked."""

    settings: Settings
    pace: Pace


@dataclass(eq=False)
class _Asking:
    """One question while it is asked.

    Attributes:
        tries: requests so far.
        cost: of all requests, in US dollars; None: the cost of one is not known.
        sent: the arguments of the last request.
        is_left: whether its call was cancelled, so that only the cost of its last request is awaited.
        on_booked: called when the cost is known, or will stay unknown.
        on_wait: called with what it waits for before another try, in words, and with "" when it has waited.
    """

    address: str = ""
    tries: int = 0
    cost: float | None = 0.0
    sent: Mapping[str, Any] = field(default_factory=dict)
    is_left: bool = False
    on_booked: Callable[[], None] = lambda: None
    on_wait: Callable[[str], None] = lambda note: None

    def leave(self) -> Callable[[], None]:
        """The call was cancelled. Returns the function to call when the cost is known, or will stay unknown."""
        self.is_left = True
        return lambda: self.on_booked()


class LanguageModels:
    """Asks HTTP endpoints and functions of clients. Event loop's thread only.

    Attributes:
        on_question: each function is called with each question that has ended, in the order of their ends. It must
            not block. What it raises is logged.
    """

    def __init__(
        self,
        base_url: str | None = None,
        api_key: str | None = None,
        *,
        cache: AnswerCache | None = None,
        caches_all: bool = False,
        at_once: int | None = None,
        per_minute: float | None = None,
    ) -> None:
        """Nothing is asked yet.

        Args:
            base_url: for models that name none.
            api_key: goes to that address, and nowhere else.
            cache: keeps the answers of models that want that, so that they are not asked for again; None: none is kept.
            caches_all: keep also the answers of models that do not say whether they want it.
            at_once: questions to endpoints at a time, of all models; None: each model has only its own limit.
            per_minute: requests to endpoints a minute, of all models; None: any number.
        """
        self.on_question: list[OnQuestion] = []
        self._own = Own(base_url, api_key)
        self._cache = cache or AnswerCache(None)
        self._caches_all = caches_all
        self._pace = Pace(at_once or _MOST_AT_ONCE, per_minute)
        self._exchanges = Exchanges()
        self._lingering = Lingering()
        self._in_flight = InFlight()
        self._endpoints: WeakKeyDictionary[Model, _Endpoint] = WeakKeyDictionary()
        self._learnt: OrderedDict[tuple[str, str], Learnt] = OrderedDict()

    async def ask(
        self,
        question: Question,
        call: CallFunction,
        run_uuid: str = "",
        budgets: Sequence[Budget] = (),
        on_late_usage: Callable[[], None] = lambda: None,
        on_asked: OnQuestion = lambda asked: None,
        on_wait: Callable[[str], None] = lambda note: None,
    ) -> Answer:
        """The model's answer. Its usage is added to that of the model, and :attr:`on_question` is called.

        If it is cancelled it ends at once, and asks nothing more. But a question that was asked is paid for, so its
        answer is still awaited for some time, and its usage added.

        Args:
            question: with a model.
            call: for a model that is a function of the client.
            run_uuid: of the request that asks.
            budgets: all of them must allow it. Functions of clients use questions, but neither tokens nor money.
            on_late_usage: called when the usage of a cancelled question has been added.
            on_asked: called when this question has ended, as :attr:`on_question`.
            on_wait: called with what it waits for before another try, in words, and with "" when it has waited.

        Raises:
            QuestionFailed: there is no answer; the text holds no key.
        """
        assert question.model is not None
        started_at, started = time.time(), time.monotonic()
        asking = _Asking(on_wait=on_wait)
        answer: Answer | None = None
        error: str | None = None
        kind: FailureKind | None = None

        def tell() -> None:
            assert question.model is not None
            asked = Asked(
                purpose=question.purpose,
                run_uuid=run_uuid,
                model_id=question.model.model_id,
                model_name=_model_name(question),
                endpoint=asking.address,
                sample=question.sample,
                messages=question.messages,
                completion_args=_shown(asking.sent or question.completion_args),
                answer=answer,
                error=error,
                error_kind=kind,
                tries=asking.tries,
                cost=asking.cost if asking.tries else None,
                started_at=started_at,
                seconds=time.monotonic() - started,
            )
            on_asked(asked)
            self._tell(asked)

        def tell_late() -> None:
            tell()
            on_late_usage()

        try:
            answer = await self._answer(question, question.model, call, asking, budgets)
        except QuestionFailed as exc:
            error, kind = str(exc), exc.kind
            raise
        except asyncio.CancelledError:
            error = "Given up: nobody waits for the answer any more."
            raise
        finally:
            if asking.is_left:
                asking.on_booked = tell_late
            else:
                tell()
        return answer

    async def embed(
        self, model: Model, texts: Sequence[str], args: Mapping[str, Any], budgets: Sequence[Budget] = ()
    ) -> list[list[float]]:
        """A vector for each text. Its usage is added to that of the model.

        Args:
            model: an endpoint.
            texts: at least one.
            args: ``model``, and others of ``embeddings.ARGUMENTS`` or around them.
            budgets: all of them must allow it.

        Raises:
            QuestionFailed: there are none; the text holds no key.
        """
        if model.provider == "callable":
            raise QuestionFailed("settings", "The model is a function of the client, which gives its vectors itself.")
        args = dict(args)
        name = _checked_name(args)
        around = {key: args.pop(key, None) for key in _AROUND}
        _check_known(args, ARGUMENTS, "Embeddings")
        _check_around(around)
        endpoint = self._endpoint(model)
        settings = endpoint.settings
        await prepare(name)
        paces = endpoint.pace, self._pace
        embedding = Embedding(self._exchanges, self._lingering, settings, paces, model, budgets)
        try:
            return await embedding.vectors(name, texts, args, around)
        except QuestionFailed as exc:
            if exc.kind == "budget":
                raise
            secrets = [*settings.secrets, *secrets_among({**args, **around})]
            text = f"The language model {name!r} at {settings.address} failed: {blotted(exc.text, secrets)}"
            raise QuestionFailed(exc.kind, text, blotted(exc.said, secrets)) from None

    async def close(self) -> None:
        """Close all connections to endpoints."""
        await self._lingering.close()
        self._endpoints.clear()
        self._cache.close()
        await self._exchanges.close()

    def _tell(self, asked: Asked) -> None:
        for told in self.on_question:
            try:
                told(asked)
            except Exception:  # an answer that is paid for must not be lost because it could not be noted
                logger.exception("! a question could not be noted")

    async def _answer(
        self, question: Question, model: Model, call: CallFunction, asking: _Asking, budgets: Sequence[Budget]
    ) -> Answer:
        if model.provider != "callable":
            return await self._chat(question, model, asking, budgets)
        count_question(budgets)
        asking.tries = 1
        asking.cost = None
        function = wire.Callable(model.config["callable_id"])
        try:
            text = await call(function, question.messages, **question.completion_args)
        except Refused as exc:
            raise QuestionFailed("function", exc.text) from None
        if not isinstance(text, str):
            problem = f"The function of a CallableModel must return a text, not {type(text).__name__}."
            raise QuestionFailed("function", problem)
        parted = part(text)
        return Answer(parted.answer, parted.thoughts)

    # --- endpoints ------------------------------------------------------------------------------

    async def _chat(self, question: Question, model: Model, asking: _Asking, budgets: Sequence[Budget]) -> Answer:
        args = dict(question.completion_args)
        name = _checked_name(args)
        around = {key: args.pop(key, None) for key in _AROUND}
        _check_arguments(args, around)
        endpoint = self._endpoint(model)
        settings = endpoint.settings
        asking.address = settings.address
        learnt = self._learnt_of(settings.address, name)
        await prepare(name)
        key = self._cache_key(question, settings, args, around)
        if key is not None and (kept := self._cache.get(key)) is not None:
            return kept

        async def ask() -> Answer:
            answer = await self._asked(
                _Tries(
                    self._exchanges,
                    self._lingering,
                    endpoint,
                    self._pace,
                    learnt,
                    question,
                    model,
                    name,
                    args,
                    around,
                    asking,
                    budgets,
                ),
                name,
                settings,
                question,
            )
            if key is not None and answer.finish_reason != "length":
                self._cache.put(key, answer)
            return answer

        same = key if key is not None else self._same_key(question, settings, args, around)
        return await ask() if same is None else await self._in_flight.answer((model.model_id, same), ask)

    @staticmethod
    async def _asked(tries: _Tries, name: str, settings: Settings, question: Question) -> Answer:
        try:
            return await tries.answer()
        except QuestionFailed as exc:
            if exc.kind == "budget":
                raise
            secrets = [*settings.secrets, *secrets_among(question.completion_args)]
            text = f"The language model {name!r} at {settings.address} failed: {blotted(exc.text, secrets)}"
            raise QuestionFailed(exc.kind, text, blotted(exc.said, secrets)) from None

    def _cache_key(
        self, question: Question, settings: Settings, args: Mapping[str, Any], around: Mapping[str, Any]
    ) -> bytes | None:
        """Where the answer is kept; None: it is not kept."""
        wanted = settings.cache if settings.cache is not None else self._caches_all
        return self._key(question, settings, args, around) if wanted and not question.is_correction else None

    def _same_key(
        self, question: Question, settings: Settings, args: Mapping[str, Any], around: Mapping[str, Any]
    ) -> bytes | None:
        """The same for questions that are asked once while they are in flight; None: each answer may be another one."""
        temperature = args.get("temperature")
        is_cold = isinstance(temperature, (int, float)) and not isinstance(temperature, bool) and temperature == 0
        is_plain = not (question.is_correction or around["extra_headers"] or around["extra_query"])
        return self._key(question, settings, args, around) if is_cold and is_plain else None

    def _key(self, question: Question, settings: Settings, args: Mapping[str, Any], around: Mapping[str, Any]) -> bytes:
        body = {"messages": question.messages, "args": args, "schema": question.schema, "more": around["extra_body"]}
        return self._cache.key(settings.address, body)

    def _endpoint(self, model: Model) -> _Endpoint:
        endpoint = self._endpoints.get(model)
        if endpoint is None:
            settings = settings_of(model.config, self._own)
            endpoint = _Endpoint(settings, Pace(settings.max_concurrency, settings.per_minute))
            self._endpoints[model] = endpoint
        return endpoint

    def _learnt_of(self, address: str, name: str) -> Learnt:
        learnt = self._learnt.get((address, name))
        if learnt is None:
            learnt = self._learnt[address, name] = Learnt()
            if len(self._learnt) > _MOST_LEARNT:
                self._learnt.popitem(last=False)
        self._learnt.move_to_end((address, name))
        return learnt


class _Tries:
    """One question to an endpoint, from its first try to its last."""

    def __init__(
        self,
        exchanges: Exchanges,
        lingering: Lingering,
        endpoint: _Endpoint,
        pace_of_all: Pace,
        learnt: Learnt,
        question: Question,
        model: Model,
        name: str,
        args: dict[str, Any],
        around: Mapping[str, Any],
        asking: _Asking,
        budgets: Sequence[Budget],
    ) -> None:
        self._exchanges, self._settings, self._pace = exchanges, endpoint.settings, endpoint.pace
        self._lingering = lingering
        self._pace_of_all, self._budgets = pace_of_all, budgets
        self._learnt = learnt
        self._question, self._model, self._name = question, model, name
        self._args = args
        self._headers = {str(k): str(v) for k, v in (around["extra_headers"] or {}).items()}
        self._query = {str(k): str(v) for k, v in (around["extra_query"] or {}).items()}
        self._extra = dict(around["extra_body"] or {})
        self._timeout = float(around["timeout"] or endpoint.settings.timeout)
        self._asking = asking
        # The user's own format, or tools, would conflict with the form that is asked for here.
        has_own = any(key in args or key in self._extra for key in ("response_format", "tools", "functions"))
        self._schema = None if has_own else question.schema
        self._deadline: float | None = None

    async def answer(self) -> Answer:
        """The answer.

        Raises:
            QuestionFailed: there is none in time, or in so many tries.
        """
        patience = Patience(self._pace, self._settings.max_retries, self._asking.on_wait)
        while True:
            try:
                async with self._pace.turn(), self._pace_of_all.turn():
                    if self._deadline is None:
                        # Its time begins with its turn: the endpoint is not to blame for the wait behind other
                        # questions.
                        self._deadline = asyncio.get_running_loop().time() + self._timeout
                    return await self._turn()
            except Again as again:
                await patience.wait(again, self._left())

    def _left(self) -> float:
        assert self._deadline is not None
        return self._deadline - asyncio.get_running_loop().time()

    async def _turn(self) -> Answer:
        if self._schema is None:
            return await self._ask("plain", is_found_out=True)
        if self._learnt.form is not None:
            return await self._ask(self._learnt.form, is_found_out=True)
        async with self._learnt.probing:
            if self._learnt.form is None:
                return await self._ask("json_schema", is_found_out=False)
        return await self._ask(self._learnt.form, is_found_out=True)

    async def _ask(self, form: AnswerForm, *, is_found_out: bool) -> Answer:
        may_repeat = True
        while True:
            body = self._body(form)
            try:
                await self._pace.wait_for_rate()
                await self._pace_of_all.wait_for_rate()
                # Only what waits no longer to be sent: from now on it is paid.
                response, completion = await self._lingering.see_through(self._request(body), self._asking.leave)
            except Unreachable as exc:
                if exc.was_reused and may_repeat:
                    # An idle connection, closed by the other side at the same moment: the question did not arrive.
                    may_repeat = False
                    continue
                if exc.may_pass:
                    raise Again(exc.failure) from None
                raise exc.failure from None
            problem = completion.problem
            if problem is None or (form == "tool" and completion.is_call):
                self._pace.answered()
                self._learnt.form = self._learnt.form if is_found_out else form
                return Answer(
                    completion.text, completion.thoughts, completion.finish_reason, completion.usage, self._asking.cost
                )
            if self._learnt.learn(response.status, problem, body) or (
                response.status in (400, 422) and self._body(form) != body
            ):
                continue
            if not is_found_out and (other := next_form(form, response.status, problem)) is not None:
                form = other
                continue
            raise failure_of(problem, response)

    def _body(self, form: AnswerForm) -> dict[str, Any]:
        return {**self._learnt.body(self._question.messages, self._args, self._schema, form), **self._extra}

    async def _request(self, body: dict[str, Any]) -> tuple[Response, Completion]:
        """One request, within all budgets, and what its response says."""
        with contextlib.ExitStack() as reserved:
            used = [
                reserved.enter_context(budget.request(self._name, self._question.messages, self._args))
                for budget in self._budgets
            ]
            if not self._asking.tries:
                count_question(self._budgets)
            response = await self._post(body)
            completion = await _read(response)
            spent = self._book(completion, completion.cost if completion.cost is not None else response.cost)
            for one in used:
                one.prompt_tokens, one.completion_tokens, one.tokens = _counts(completion)
                one.usd = spent
            return response, completion

    async def _post(self, body: dict[str, Any]) -> Response:
        self._asking.sent = {key: value for key, value in body.items() if key != "messages"}
        self._asking.tries += 1
        left = self._left()
        if left <= 0:
            raise self._timed_out()
        try:
            return await self._exchanges.post(self._settings, self._headers, self._query, self._encoded(body), left)
        except QuestionFailed as exc:
            if exc.kind != "timeout":
                raise
            raise self._timed_out() from None

    @staticmethod
    def _encoded(body: Mapping[str, Any]) -> bytes:
        try:
            return encoded(body)
        except (TypeError, ValueError, RecursionError) as exc:
            raise QuestionFailed("settings", f"its arguments cannot be sent as JSON ({exc}).") from None

    def _timed_out(self) -> QuestionFailed:
        text = f"it gave no whole answer within {self._timeout:g} s, the `timeout` of the model."
        return QuestionFailed("timeout", text)

    def _book(self, completion: Completion, cost: float | None) -> float | None:
        """Count what a request used. Returns its cost in US dollars; None: it is not known."""
        if not completion.usage and cost is None and completion.problem is not None:
            return 0.0
        known = usage.add(self._model.usage, completion.usage, self._name, cost)
        if not completion.usage and cost is None:
            known = None  # It is not known what it used.
        so_far = self._asking.cost
        self._asking.cost = None if known is None or so_far is None else so_far + known
        return known


async def _read(response: Response) -> Completion:
    parts = (response.status, response.content_type, response.body)
    if len(response.body) > _LONG_BODY:
        return await asyncio.to_thread(read_completion, *parts)
    return read_completion(*parts)


def _counts(completion: Completion) -> tuple[int, int, int]:
    """Tokens of the question, of the answer, and of both."""
    names = ("prompt_tokens", "completion_tokens", "total_tokens")
    prompt, answer, both = (usage.tokens(completion.usage.get(name)) for name in names)
    return prompt, answer, both or prompt + answer


# --- arguments ----------------------------------------------------------------------------------


def _checked_name(args: Mapping[str, Any]) -> str:
    name = args.get("model")
    if not (isinstance(name, str) and name):
        raise QuestionFailed("settings", "No model name: give `model` among the completion arguments.")
    return name


def _check_arguments(args: Mapping[str, Any], around: Mapping[str, Any]) -> None:
    for argument, allowed in _ONE_TEXT.items():
        value = args.get(argument)
        if value not in allowed:
            text = f"`{argument}={str(value)[:50]}` is not supported: an answer is one whole text."
            raise QuestionFailed("settings", text)
    _check_known(args, _ARGUMENTS, "Chat completions")
    _check_around(around)


def _check_known(args: Mapping[str, Any], known: frozenset[str], what: str) -> None:
    unknown = [name for name in args if name not in known]
    if unknown:
        text = f"{what} take no argument {unknown[0][:50]!r}. "
        text += "What only this endpoint takes goes into `extra_body`."
        raise QuestionFailed("settings", text)


def _check_around(around: Mapping[str, Any]) -> None:
    for name in ("extra_headers", "extra_query", "extra_body"):
        if not isinstance(around[name], (dict, type(None))):
            raise QuestionFailed("settings", f"`{name}` must be an object, not {type(around[name]).__name__}.")
    timeout = around["timeout"]
    if timeout is not None and (isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not timeout > 0):
        raise QuestionFailed("settings", "`timeout` must be a positive number of seconds.")


# The completion arguments that may hold a key.
_SECRET_ARGUMENTS = ("extra_headers", "extra_query", "extra_body")


def _model_name(question: Question) -> str:
    name = question.completion_args.get("model")
    return name if isinstance(name, str) else ""


def _shown(completion_args: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in completion_args.items() if name not in _SECRET_ARGUMENTS}
