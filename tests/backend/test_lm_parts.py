"""Settings, pace, what is learnt, and prices: without an endpoint."""

from __future__ import annotations

import asyncio
import sys
import types
from typing import Any

import pytest

from tellurio_sync.backend import prices, usage
from tellurio_sync.backend.lm.exchange import Decoder, proxy_for, retry_after
from tellurio_sync.backend.lm.learnt import Learnt, in_turns, next_form
from tellurio_sync.backend.lm.pace import Pace
from tellurio_sync.backend.lm.settings import Own, blotted, is_this_machine, secrets_among, settings_of
from tellurio_sync.backend.questions import QuestionFailed
from tellurio_sync.backend.reading.completion import Problem

from .scripted import run

OWN = Own("https://own.example/v1", "sk-of-the-backend")
LOCAL = "http://127.0.0.1:11434/v1"


def key_sent(config: dict[str, Any], own: Own = OWN) -> str | None:
    return settings_of(config, own).headers.get("Authorization")


# --- whose key goes where -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "sent"),
    [
        ({}, "Bearer sk-of-the-backend"),
        ({"base_url": "https://own.example/v1"}, "Bearer sk-of-the-backend"),
        ({"base_url": "https://OWN.example:443/v1/"}, "Bearer sk-of-the-backend"),
        ({"base_url": "https://own.example/v2"}, None),
        ({"base_url": "https://own.example.evil.example/v1"}, None),
        ({"base_url": "https://own.example@evil.example/v1"}, "Basic b3duLmV4YW1wbGU6"),
        ({"base_url": "http://own.example/v1"}, None),
        ({"base_url": LOCAL}, None),
        ({"base_url": LOCAL, "api_key": "sk-mine\n"}, "Bearer sk-mine"),
        ({"base_url": "https://me:pass%20word@host.example/v1"}, "Basic bWU6cGFzcyB3b3Jk"),
    ],
)
def test_the_backends_key_goes_to_the_backends_address_only(config: dict[str, Any], sent: str | None) -> None:
    assert key_sent(config) == sent


def test_the_environments_key_belongs_to_the_environments_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-environment")
    assert key_sent({}, Own()) == "Bearer sk-environment"
    assert settings_of({}, Own()).address == "https://api.openai.com/v1"
    assert key_sent({"base_url": LOCAL}, Own()) is None
    monkeypatch.setenv("OPENAI_BASE_URL", LOCAL)
    assert key_sent({"base_url": LOCAL}, Own()) == "Bearer sk-environment"
    with pytest.raises(QuestionFailed, match="No API key"):
        settings_of({"base_url": "https://api.openai.com/v1"}, Own())


@pytest.mark.parametrize(
    ("config", "is_refused"),
    [
        ({"api_key": "sk-secret"}, True),
        ({"api_key": "sk-secret", "allow_insecure": True}, False),
        ({"api_key": "none"}, False),
        ({"default_headers": {"api-key": "secret"}}, True),
        ({"default_query": {"key": "secret"}}, True),
        ({"default_headers": {"X-Team": "a"}}, False),
        ({}, False),
    ],
)
def test_a_key_does_not_cross_a_network_in_clear_text(config: dict[str, Any], is_refused: bool) -> None:
    config = {"base_url": "http://192.168.1.7:8000/v1", **config}
    if not is_refused:
        settings_of(config, OWN)
        return
    with pytest.raises(QuestionFailed, match="allow_insecure=True") as caught:
        settings_of(config, OWN)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.9.9.9", "[::1]", "0.0.0.0"])
def test_this_machine(host: str) -> None:
    assert is_this_machine(host)


@pytest.mark.parametrize("host", ["evil.localhost", "10.0.0.1", "example.com", "127.0.0.1.example", ""])
def test_other_machines(host: str) -> None:
    assert not is_this_machine(host)


def test_an_address_is_shown_without_user_password_and_query() -> None:
    settings = settings_of(
        {"base_url": "https://me:secret-word@host.example/v1?key=secret-key", "api_key": "k" * 9}, OWN
    )
    assert settings.address == "https://host.example/v1"
    assert settings.url == "https://host.example/v1/chat/completions"
    assert settings.query == {"key": "secret-key"}
    assert {"secret-word", "secret-key", "k" * 9} <= set(settings.secrets)
    assert "secret" not in repr(settings)


@pytest.mark.parametrize(
    "config",
    [
        {"base_url": "host.example/v1"},
        {"base_url": "ftp://host.example"},
        {"base_url": "http://"},
        {"base_url": "http://host:99999/v1"},
        {"base_url": "http://[::1/v1"},
        {"base_url": 7},
        {"api_key": ["k"]},
        {"api_key": "sk-a b"},
        {"api_key": "sk-a\nb"},
        {"api_key": "sk-é"},
        {"default_headers": "x"},
        {"default_headers": {"a": "b\r\nc"}},
        {"default_headers": {"a": ["b"]}},
        {"timeout": 0},
        {"timeout": "5"},
        {"timeout": True},
        {"max_retries": -1},
        {"max_concurrency": 0},
        {"requests_per_minute": float("nan")},
    ],
)
def test_settings_that_cannot_work_are_named(config: dict[str, Any]) -> None:
    with pytest.raises(QuestionFailed) as caught:
        settings_of(config, OWN)
    assert caught.value.kind == "settings"
    assert next(iter(config)).replace("api_key", "key") in caught.value.text.replace("api_key", "key")


def test_secrets_are_blotted_out_in_every_form() -> None:
    args = {"extra_headers": {"A": "Token abcdef1"}, "extra_body": {"api_key": "body-key", "top_k": 5}}
    secrets = ["pass word/1", "short", *secrets_among(args)]
    text = "pass word/1, pass%20word%2F1, pass%20word/1, short, Token abcdef1, abcdef1, body-key, 5"
    assert blotted(text, secrets) == "***, ***, ***, short, ***, ***, ***, 5"


@pytest.mark.parametrize(
    ("base_url", "environment", "proxy"),
    [
        (LOCAL, {"http_proxy": "http://proxy:1"}, None),
        ("http://host.example/v1", {"http_proxy": "http://proxy:1"}, "http://proxy:1"),
        ("https://host.example/v1", {"https_proxy": "proxy:1"}, "http://proxy:1"),
        ("https://host.example/v1", {"all_proxy": "http://proxy:1"}, "http://proxy:1"),
        ("https://host.example/v1", {"https_proxy": "http://proxy:1", "no_proxy": "host.example"}, None),
        ("https://host.example/v1", {}, None),
    ],
)
def test_proxies(
    base_url: str, environment: dict[str, str], proxy: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert proxy_for(settings_of({"base_url": base_url, "api_key": "none"}, OWN)) == proxy


# --- pace -------------------------------------------------------------------------------------------


def test_no_more_at_once_than_allowed_and_in_the_order_in_which_they_came() -> None:
    async def main() -> tuple[int, list[int]]:
        pace, busy, most, order = Pace(2), 0, 0, []

        async def one(number: int) -> None:
            nonlocal busy, most
            async with pace.turn():
                order.append(number)
                busy += 1
                most = max(most, busy)
                await asyncio.sleep(0)
                busy -= 1

        await asyncio.gather(*(one(number) for number in range(9)))
        return most, order

    assert run(main()) == (2, list(range(9)))


def test_whoever_gives_up_waiting_keeps_no_turn() -> None:
    async def main() -> None:
        pace = Pace(1)
        entered = asyncio.Event()
        leave = asyncio.Event()

        async def holder() -> None:
            async with pace.turn():
                entered.set()
                await leave.wait()

        async def waiter() -> None:
            async with pace.turn():
                pass

        first = asyncio.ensure_future(holder())
        await entered.wait()
        second, third = asyncio.ensure_future(waiter()), asyncio.ensure_future(waiter())
        await asyncio.sleep(0)
        second.cancel()
        leave.set()
        await asyncio.wait_for(asyncio.gather(first, third), 30)
        # Given up at the very moment when the turn came: it had it already, and passes it on.
        leave.clear()
        entered.clear()
        first = asyncio.ensure_future(holder())
        await entered.wait()
        second, third = asyncio.ensure_future(waiter()), asyncio.ensure_future(waiter())
        await asyncio.sleep(0)
        leave.set()
        while not first.done():
            await asyncio.sleep(0)
            if pace._waiting and len(pace._waiting) == 1:
                second.cancel()
        second.cancel()
        await asyncio.wait_for(third, 30)
        assert second.cancelled() or second.done()

    run(main())


def test_an_endpoint_that_says_it_is_too_much_is_asked_by_fewer_and_then_by_more_again() -> None:
    async def main() -> list[int]:
        pace, limits = Pace(8), []

        async def too_many(number: int) -> None:
            async with pace.turn():
                await asyncio.sleep(0)
                pace.too_many()
                limits.append(pace.limit)

        await asyncio.gather(*(too_many(number) for number in range(8)))
        for _ in range(80):
            pace.answered()
        return [*limits, pace.limit]

    limits = run(main())
    assert limits[0] == 4
    assert limits[7] == 1
    assert limits[-1] == 8


# --- what is learnt -----------------------------------------------------------------------------------

SYSTEM = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
TURNS = [{"role": "user", "content": "s\n\nu"}]


def refused(said: str, **more: Any) -> Problem:
    return Problem("refused", "", said, **more)


@pytest.mark.parametrize(
    ("said", "args", "after"),
    [
        (
            "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens'.",
            {"max_tokens": 5},
            {"max_completion_tokens": 5},
        ),
        ("Unrecognized request argument: 'max_completion_tokens'", {"max_completion_tokens": 5}, {"max_tokens": 5}),
        (
            "Unsupported value: 'temperature' does not support 0 with this model. Only the default (1) is.",
            {"temperature": 0, "seed": 1},
            {"seed": 1},
        ),
    ],
)
def test_arguments_that_an_endpoint_does_not_take(said: str, args: dict[str, Any], after: dict[str, Any]) -> None:
    learnt = Learnt()
    body = learnt.body(SYSTEM, args, None, "plain")
    assert learnt.learn(400, refused(said), body)
    assert learnt.body(SYSTEM, args, None, "plain") == {**after, "messages": SYSTEM}
    assert not learnt.learn(400, refused(said), learnt.body(SYSTEM, args, None, "plain"))


@pytest.mark.parametrize(
    "said",
    [
        "System role not supported",
        "Conversation roles must alternate user/assistant/user/assistant/...",
        "This chat template wants user and assistant in turns, beginning with user.",
        "Developer instruction is not enabled; system message unsupported",
    ],
)
def test_templates_without_a_system_role(said: str) -> None:
    learnt = Learnt()
    assert learnt.learn(400, refused(said), learnt.body(SYSTEM, {}, None, "plain"))
    assert learnt.body(SYSTEM, {}, None, "plain")["messages"] == TURNS
    assert not learnt.learn(400, refused(said), learnt.body(SYSTEM, {}, None, "plain"))


@pytest.mark.parametrize(
    "said",
    [
        "This model does not take max_tokens; say max_completion_tokens.",
        "Too long: 9100 tokens.",
        "There is no model x here.",
        "",
    ],
)
def test_nothing_is_guessed(said: str) -> None:
    learnt = Learnt()
    body = learnt.body(SYSTEM, {"max_tokens": 1, "temperature": 0}, None, "plain")
    assert not learnt.learn(400, refused(said), body)
    assert not learnt.learn(500, refused("System role not supported"), body)


def test_the_forms_in_which_an_object_is_asked_for() -> None:
    schema = {"type": "object"}
    learnt = Learnt()
    assert learnt.body(SYSTEM, {}, schema, "json_schema")["response_format"]["json_schema"]["schema"] == schema
    assert learnt.body(SYSTEM, {}, schema, "tool")["tools"][0]["function"]["parameters"] == schema
    assert learnt.body(SYSTEM, {}, schema, "plain") == {"messages": SYSTEM}
    assert next_form("json_schema", 400, refused("")) == "tool"
    assert next_form("tool", 422, refused("")) == "plain"
    assert next_form("plain", 400, refused("")) is None
    assert next_form("json_schema", 404, refused("no such model")) is None
    assert next_form("json_schema", 404, refused("No endpoints support response_format")) == "tool"
    assert next_form("json_schema", 400, refused("The context is too long.")) is None
    assert next_form("json_schema", 401, refused("json")) is None


def test_a_conversation_in_turns() -> None:
    messages = [*SYSTEM, {"role": "assistant", "content": "a"}, {"role": "user", "content": "b"}]
    assert in_turns(messages) == [*TURNS, {"role": "assistant", "content": "a"}, {"role": "user", "content": "b"}]
    assert messages[0]["role"] == "system", "the question stays as it was"


# --- responses ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "milliseconds", "wait"),
    [
        ("2", None, 2.0),
        ("2", "150", 0.15),
        (None, None, None),
        ("soon", None, None),
        ("-1", None, None),
        ("nan", None, None),
    ],
)
def test_retry_after(seconds: str | None, milliseconds: str | None, wait: float | None) -> None:
    assert retry_after(seconds, milliseconds) == wait


def test_retry_after_a_date_that_is_past() -> None:
    assert retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0.0


def test_a_body_is_unpacked_up_to_the_limit_and_not_further() -> None:
    import gzip

    packed = gzip.compress(b"x" * 10_000_000)
    decoder = Decoder("gzip", 1000)
    assert not decoder.feed(packed)
    assert decoder.is_over
    assert decoder.body() == b"x" * 1000
    decoder = Decoder("gzip", 1000)
    packed = gzip.compress(b"y" * 1000)
    assert all(decoder.feed(packed[i : i + 1]) for i in range(len(packed)))
    assert decoder.body() == b"y" * 1000
    with pytest.raises(QuestionFailed, match="not asked for"):
        Decoder("br", 1000)
    with pytest.raises(QuestionFailed, match="is not"):
        Decoder("gzip", 1000).feed(b"no gzip at all")


# --- prices -------------------------------------------------------------------------------------------

TOKENS = {"prompt_tokens": 1_000_000, "completion_tokens": 100_000, "total_tokens": 1_100_000}


def test_prices_of_the_protocol_need_no_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prices, "_table", lambda: None)
    assert prices.price(TOKENS, "gpt-4o-2024-08-06") == pytest.approx(3.5)
    assert prices.price({**TOKENS, "prompt_tokens_details": {"cached_tokens": 1_000_000}}, "gpt-4o") == pytest.approx(
        2.25
    )


@pytest.mark.parametrize("name", ["gpt-4.1", "openai/gpt-4.1", "openai/gpt-4o"])
def test_other_prices_come_from_the_maintained_table(name: str) -> None:
    cost = prices.price(TOKENS, name)
    assert cost is not None
    assert cost > 0.1


@pytest.mark.parametrize("name", ["my-own-model", "nobody/gpt-4.1-of-ours", ""])
def test_an_unknown_price_is_not_none_at_all(name: str) -> None:
    assert prices.price(TOKENS, name) is None


def test_without_the_table_prices_are_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "genai_prices", None)
    prices._table.cache_clear()
    try:
        assert prices.price(TOKENS, "gpt-4.1") is None
    finally:
        prices._table.cache_clear()


def test_a_table_that_fails_is_a_price_that_is_not_known(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*args: Any, **kwargs: Any) -> Any:
        raise TypeError("another interface")

    monkeypatch.setattr(prices, "_table", lambda: types.SimpleNamespace(Usage=dict, calc_price=fail))
    assert prices.price(TOKENS, "gpt-4.1") is None
    assert "another interface" in caplog.text


def test_what_is_not_known_is_counted_apart() -> None:
    total = usage.zero_usage()
    assert usage.add(total, TOKENS, "my-own-model", None) is None
    assert total["cost"] == {"amount": 0.0, "currency": "USD"}, "other clients know no more members"
    total = usage.taken_over({"cost": {"unpriced_tokens": 0}})
    assert usage.add(total, TOKENS, "my-own-model", None) is None
    assert usage.add(total, TOKENS, "my-own-model", 0.25) == 0.25
    assert usage.add(total, {"prompt_tokens": None, "completion_tokens": "x"}, "gpt-4o", None) == 0.0
    assert total["cost"] == {"amount": 0.25, "currency": "USD", "unpriced_tokens": 1_100_000}
    assert usage.cleared(total)["cost"] == {"amount": 0.0, "currency": "USD", "unpriced_tokens": 0}
