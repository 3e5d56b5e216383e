"""The access to the pages; the rule is in the package's docstring."""

from __future__ import annotations

import hashlib
import hmac
import re
import time
from collections.abc import Sequence
from ipaddress import ip_address
from urllib.parse import urlsplit

from aiohttp import web

from ..opening import TOKEN_PARAMETER, page_token

ANY_HOST = "*"
PREFIX_HEADER = "X-Forwarded-Prefix"

# How long a browser that does not look at a page may look at the next one.
PASS_SECONDS = 12 * 3600

_MAX_FORM_BYTES = 4096

_NAME = re.compile(r"[a-z0-9][a-z0-9.-]*")

# Of a path that goes into a cookie (RFC 6265 §4.1.1): no semicolon, and nothing that any reader takes for an end.
_COOKIE_PATH = re.compile(r"(?:/[A-Za-z0-9._~%@+!$&'()*:=-]+)+")
_LONGEST_PATH = 1000


class Access:
    """The check of one backend's pages.

    Attributes:
        token: opens the pages, and nothing else.
    """

    def __init__(
        self,
        host: str,
        api_key: str,
        allow_hosts: Sequence[str] = (),
        *,
        is_encrypted: bool = False,
        path_prefix: str = "",
    ) -> None:
        self._allows_any = ANY_HOST in allow_hosts or not (_is_loopback(host) or allow_hosts)
        self._prefix = path_prefix
        self._allowed = {name.lower() for name in allow_hosts}
        self._is_encrypted = is_encrypted
        self._api_key = api_key
        self.token: str = page_token(api_key)
        # Browsers keep one set of cookies for all ports of a host; backends must not overwrite each other's cookies.
        self._cookie = f"tellurio_page_{hashlib.sha256(self.token.encode()).hexdigest()[:8]}"

    def host_of(self, request: web.Request) -> str:
        """The name by which the request was sent, if it looks like one: it is part of a command that people copy."""
        name = _host_name(request.host)
        return name if _NAME.fullmatch(name) else ""

    def is_expected_host(self, request: web.Request) -> bool:
        """Whether the request was sent by a name of this machine, or one that is allowed; False under DNS rebinding."""
        name = _host_name(request.host)
        return self._allows_any or _is_loopback(name) or name in self._allowed

    def is_allowed(self, request: web.Request) -> bool:
        """Whether the request brings the token, by its link or its cookie."""
        by_link = _is_same(request.query.get(TOKEN_PARAMETER, ""), self.token)
        return by_link or self._is_pass(request.cookies.get(self._cookie, ""))

    def is_from_own_page(self, request: web.Request) -> bool:
        """Whether a form was sent by one of these pages: no other site's page, on whatever port, may change anything.

        A browser's cookies go to all ports of a host, and what is on another port counts as the same site; so it is
        the origin that is looked at, which pages cannot choose.
        """
        origin = request.headers.get("Origin", "")
        return _host_and_port(origin) == request.host or request.headers.get("Sec-Fetch-Site") == "same-origin"

    async def is_key_in_form(self, request: web.Request) -> bool:
        """Whether the form that was sent holds the key."""
        if request.content_length is None or request.content_length > _MAX_FORM_BYTES:
            return False
        try:
            form = await request.post()
        except (ValueError, LookupError):
            # No form after all: a multipart body without a boundary, a charset that there is not, ...
            return False
        return _is_same(str(form.get("key", "")), self._api_key)

    def remember(self, request: web.Request, response: web.Response) -> None:
        """Let the browser that gets this response look at the pages until it is closed."""
        response.set_cookie(
            self._cookie,
            self._new_pass(),
            path=self._cookie_path(request),
            httponly=True,
            samesite="Strict",
            secure=self._is_encrypted,
        )

    def _cookie_path(self, request: web.Request) -> str:
        """The narrowest that is known: behind a proxy, other paths of the host may be other people's.

        A proxy that takes its prefix away may tell it. What it tells goes nowhere else: links are relative.
        """
        resource = request.match_info.route.resource
        is_under = bool(self._prefix) and resource is not None and resource.canonical.startswith(f"{self._prefix}/")
        path = self._prefix if is_under else request.headers.get(PREFIX_HEADER, "").rstrip("/")
        return path if len(path) <= _LONGEST_PATH and _COOKIE_PATH.fullmatch(path) else "/"

    def _new_pass(self) -> str:
        # Not the token: browsers send cookies to all ports of a host, so also to another user's server on this machine
        # that they visit. What that gets is of use for hours, not for as long as the key; each page renews it.
        until = str(int(time.time() + PASS_SECONDS))
        return f"{until}.{self._signed(until)}"

    def _is_pass(self, sent: str) -> bool:
        until, _, signature = sent.partition(".")
        is_number = until.isascii() and until.isdigit() and len(until) < 15
        return is_number and _is_same(signature, self._signed(until)) and int(until) > time.time()

    def _signed(self, until: str) -> str:
        return hmac.new(self.token.encode(), until.encode(), hashlib.sha256).hexdigest()[:32]


def _host_and_port(origin: str) -> str | None:
    """The host and port of an origin; None for "null" and what is none."""
    try:
        return urlsplit(origin).netloc or None
    except ValueError:
        return None


def _host_name(host: str) -> str:
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _is_same(sent: str, wanted: str) -> bool:
    return hmac.compare_digest(sent.encode(errors="surrogatepass"), wanted.encode())
