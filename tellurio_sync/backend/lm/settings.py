"""What a client configures of a language model (protocol §H.2), checked; and which key goes to which address.

A key goes only where it belongs: the model's key to the model's address, the backend's key to the backend's address.
If a client names another address and no key, none is sent there.
"""

from __future__ import annotations

import base64
import ipaddress
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from ...addresses import is_loopback
from ...secret import Secret, hidden
from ..questions import QuestionFailed

OPENAI_URL = "https://api.openai.com/v1"

DEFAULT_TIMEOUT = 600.0
DEFAULT_MAX_RETRIES = 2

# Not secrets: texts that stand for "no key", where a program demands a key and the server needs none.
NO_KEYS = frozenset({"", "none", "null", "no", "no-key", "nokey", "empty", "dummy", "fake", "x", "xxx", "ollama"})
NO_KEYS |= {"lm-studio", "llama.cpp", "vllm", "sk-no-key-required", "not-needed", "sk-xxx", "any", "local"}

# Shorter texts are not keys, and to blot them out would make a text unreadable.
_SECRET_CHARS = 6


@dataclass(frozen=True)
class Own:
    """The backend's own address and key, for models that name none."""

    base_url: str | None = None
    api_key: str | None = field(default=None, repr=False)

    def pair(self) -> tuple[str, str | None]:
        """The address, and the key that belongs to it; what is not given comes from the environment."""
        base_url = self.base_url or os.environ.get("OPENAI_BASE_URL") or OPENAI_URL
        return base_url, hidden(self.api_key or os.environ.get("OPENAI_API_KEY"))


@dataclass(frozen=True)
class Settings:
    """How one model is asked.

    Attributes:
        url: of the requests, without user and password.
        address: of the endpoint, without anything that may be a secret: for texts.
        headers, query: sent with each request, the key among them.
        timeout: seconds for one question, from its turn to its end, tries and pauses included.
        max_retries: how often it is asked again after a failure that may pass.
        max_concurrency: questions at once; None: as many as the endpoint bears.
        per_minute: questions a minute; None: any number.
        ca_bundle: a file of certificates that are trusted in addition to the usual ones.
        is_local: the address is on this machine.
        cache: whether answers are kept on disk; None: as the backend's options say.
        secrets: texts that no message or record may show.
    """

    url: str
    address: str
    headers: Mapping[str, str] = field(repr=False)
    query: Mapping[str, str] = field(repr=False)
    timeout: float
    max_retries: int
    max_concurrency: int | None
    per_minute: float | None
    ca_bundle: str | None
    is_local: bool
    cache: bool | None
    secrets: tuple[str, ...] = field(repr=False)


def settings_of(config: Mapping[str, Any], own: Own) -> Settings:
    """The settings in a model's ``config``.

    Raises:
        QuestionFailed: one of the wrong type, an address that is not valid, no key, or a key that would cross a
            network unencrypted. No text shows a key.
    """
    own_url, own_key = own.pair()
    base_url = _text(config, "base_url") or own_url
    parts = _split(base_url)
    key = clean_key(_text(config, "api_key"))
    if key is None and _same_place(base_url, own_url):
        key = clean_key(own_key)
    if key is None and _same_place(base_url, OPENAI_URL):
        raise _wrong("No API key for the language model: neither the model nor the backend has one.")
    given_headers = _pairs(config, "default_headers")
    query = _pairs(config, "default_query")
    userinfo = _userinfo(parts.username, parts.password)
    headers = _headers(config, key, userinfo)
    is_local = is_this_machine(parts.hostname or "")
    has_secret = (key or "").lower() not in NO_KEYS or userinfo is not None or _hold_keys(given_headers, query)
    address = _without_userinfo(parts)
    if parts.scheme == "http" and has_secret and not is_local and not _flag(config, "allow_insecure"):
        raise _wrong(
            f"The key is not sent to {address}: without encryption, everybody on the way could read it. Use https://, "
            "or pass allow_insecure=True to the model if you trust this network."
        )
    return Settings(
        url=f"{address.rstrip('/')}/chat/completions",
        address=address,
        headers={**headers, **given_headers},
        query={**dict(_query_of(parts.query)), **query},
        timeout=_number(config, "timeout", DEFAULT_TIMEOUT),
        max_retries=int(_number(config, "max_retries", DEFAULT_MAX_RETRIES, least=0)),
        max_concurrency=_count(config, "max_concurrency"),
        per_minute=_optional_number(config, "requests_per_minute"),
        ca_bundle=_text(config, "ca_bundle"),
        is_local=is_local,
        cache=config["cache"] if isinstance(config.get("cache"), bool) else None,
        secrets=_secrets(key, parts.password, given_headers.values(), query.values(), parts.query),
    )


def clean_key(key: str | None) -> str | None:
    """A key without the white space around it that files and clipboards add; None if there is none.

    Raises:
        QuestionFailed: it has characters that a header cannot have.
    """
    if key is None:
        return None
    stripped = key.strip()
    if not all("!" <= char <= "~" for char in stripped):
        raise _wrong(
            "The API key of the language model cannot be sent: it holds a blank, a line break or a letter of no key."
        )
    return Secret(stripped) if stripped else None


def blotted(text: str, secrets: Iterable[str]) -> str:
    """``text`` with every secret in it, also as it stands in an address or in a header, replaced."""
    forms = {form for secret in secrets for form in (secret, quote(secret), quote(secret, safe=""), unquote(secret))}
    for form in sorted(forms, key=len, reverse=True):
        if len(form) >= _SECRET_CHARS:
            text = text.replace(form, "***")
    return text


def secrets_among(completion_args: Mapping[str, Any]) -> list[str]:
    """What may be a key among the arguments of a question: in its headers, its query and its further body."""
    found: list[str] = []
    for name in ("extra_headers", "extra_query"):
        value = completion_args.get(name)
        if isinstance(value, Mapping):
            found += [word for item in value.values() for word in (str(item), *str(item).split())]
    body = completion_args.get("extra_body")
    if isinstance(body, Mapping):
        found += [item for name, item in body.items() if isinstance(item, str) and names_key(str(name))]
    return found


def is_this_machine(host: str) -> bool:
    """Whether a host is certainly this machine. ``x.localhost`` is not: DNS says where it is."""
    name = host.strip("[]").rstrip(".").lower()
    if name.endswith(".localhost"):
        return False
    try:
        return is_loopback(name) or ipaddress.ip_address(name).is_unspecified
    except ValueError:
        return False


# --- parts --------------------------------------------------------------------------------------


def _wrong(text: str) -> QuestionFailed:
    return QuestionFailed("settings", text)


def _split(base_url: str) -> Any:
    try:
        parts = urlsplit(base_url.strip())
        port_is_right = parts.port is None or parts.port > 0
    except ValueError:
        port_is_right = False
    if not port_is_right or parts.scheme not in ("http", "https") or not parts.hostname:
        raise _wrong("`base_url` is no address of a language model: it must be like https://host/v1.")
    return parts


def _without_userinfo(parts: Any) -> str:
    host = parts.netloc.rpartition("@")[2]
    return str(urlunsplit((parts.scheme, host, parts.path.rstrip("/"), "", "")))


def _same_place(one: str, other: str) -> bool:
    def place(url: str) -> tuple[str, str, int | None, str]:
        parts = urlsplit(url.strip())
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
        return parts.scheme, (parts.hostname or "").lower(), port, parts.path.rstrip("/")

    return place(one) == place(other)


def _userinfo(username: str | None, password: str | None) -> str | None:
    if not username and not password:
        return None
    pair = f"{unquote(username or '')}:{unquote(password or '')}"
    return "Basic " + base64.b64encode(pair.encode()).decode()


def _headers(config: Mapping[str, Any], key: str | None, userinfo: str | None) -> dict[str, str]:
    headers = {"Content-Type": "application/json", "Accept": "application/json"}
    if key is not None:
        headers["Authorization"] = f"Bearer {key}"
    elif userinfo is not None:
        headers["Authorization"] = userinfo
    for name, header in (("organization", "OpenAI-Organization"), ("project", "OpenAI-Project")):
        value = _text(config, name)
        if value:
            headers[header] = value
    return headers


def _query_of(query: str) -> list[tuple[str, str]]:
    pairs = (item.partition("=") for item in query.split("&") if item)
    return [(unquote(name), unquote(value)) for name, _, value in pairs]


def _secrets(key: str | None, password: str | None, *more: Any) -> tuple[str, ...]:
    headers, query, in_url = more
    found = [key or "", password or "", *(value for _, value in _query_of(in_url))]
    for value in [*headers, *query]:
        found += [value, *value.split()]
    return tuple(dict.fromkeys(value for value in found if len(value) >= _SECRET_CHARS))


def _hold_keys(headers: Mapping[str, str], query: Mapping[str, str]) -> bool:
    return any(names_key(name) for name in [*headers, *query])


def names_key(name: str) -> bool:
    """Whether the value of a header or of a part of a query is a key, as far as its name tells."""
    return any(word in name.lower() for word in ("key", "token", "auth", "secret", "password", "cookie"))


def _text(config: Mapping[str, Any], name: str) -> str | None:
    value = config.get(name)
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        raise _wrong(f"`{name}` of the language model must be a text, not {type(value).__name__}.")
    return value


def _pairs(config: Mapping[str, Any], name: str) -> dict[str, str]:
    value = config.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise _wrong(f"`{name}` of the language model must be an object, not {type(value).__name__}.")
    found = {}
    for key, item in value.items():
        text = str(item).lower() if isinstance(item, bool) else str(item)
        if item is None:
            continue
        if not isinstance(item, (str, int, float)) or any(char in f"{key}{text}" for char in "\r\n\0"):
            raise _wrong(
                f"`{name}` of the language model cannot be sent: the value of {key[:50]!r} is no line of text."
            )
        found[key] = text
    return found


def _flag(config: Mapping[str, Any], name: str) -> bool:
    return config.get(name) is True


def _number(config: Mapping[str, Any], name: str, default: float, *, least: float | None = None) -> float:
    value = config.get(name)
    if value is None:
        return default
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not is_number or (value <= 0 if least is None else value < least):
        wanted = "a positive number" if least is None else f"a number of at least {least:g}"
        raise _wrong(f"`{name}` of the language model must be {wanted}, not {str(value)[:50]!r}.")
    return float(value)


def _optional_number(config: Mapping[str, Any], name: str) -> float | None:
    return None if config.get(name) is None else _number(config, name, 0)


def _count(config: Mapping[str, Any], name: str) -> int | None:
    value = _optional_number(config, name)
    return None if value is None else max(1, int(value))
