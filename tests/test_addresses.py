from __future__ import annotations

import pytest

from tellurio_sync.addresses import check_may_send_key, http_address, is_loopback, ws_address
from tellurio_sync.errors import ConnectFailed


@pytest.mark.parametrize(
    ("arguments", "environment", "url"),
    [
        ((), {}, "https://platform.tellurio.ai:443"),
        (("http://127.0.0.1", 8000), {}, "http://127.0.0.1:8000"),
        (("http://127.0.0.1/", "8000"), {}, "http://127.0.0.1:8000"),
        (("http://127.0.0.1:8000",), {}, "http://127.0.0.1:8000"),
        (("http://127.0.0.1:8000",), {"PORT": "9"}, "http://127.0.0.1:8000"),
        (("http://127.0.0.1:8000", 8000), {}, "http://127.0.0.1:8000"),
        (("https://[::1]", 8000), {}, "https://[::1]:8000"),
        ((), {"BASE_URL": "http://localhost", "PORT": "8000"}, "http://localhost:8000"),
        (("", 0), {"BASE_URL": "http://localhost", "PORT": "8000"}, "http://localhost:8000"),
        (("http://a", 1), {"BASE_URL": "http://b", "PORT": "2"}, "http://a:1"),
        ((), {"BASE_URL": "", "PORT": ""}, "https://platform.tellurio.ai:443"),
    ],
)
def test_arguments_win_over_the_environment_over_the_defaults(arguments, environment, url, monkeypatch):
    for name, value in environment.items():
        monkeypatch.setenv(f"TELLURIO_BACKEND_HTTP_{name}", value)
        monkeypatch.setenv(f"TELLURIO_BACKEND_WS_{name}", value.replace("http", "ws"))
    assert http_address(*arguments).url == url
    base, *port = arguments or (None,)
    assert ws_address(base and base.replace("http", "ws"), *port).url == url.replace("http", "ws")


@pytest.mark.parametrize(
    ("base_url", "port", "text"),
    [
        ("127.0.0.1", 1, "must begin with https:// or http://"),
        ("ws://127.0.0.1", 1, "must begin with https:// or http://"),
        ("http://", 1, "names no host"),
        ("http://a/api", 1, "without a path"),
        ("http://a?b", 1, "without a path"),
        ("http://[::1", 1, "cannot be read"),
        ("http://a:70000", None, "not a number from 1 to 65535"),
        ("http://a", "x", "not 'x'"),
        ("http://a", 70000, "not 70000"),
        ("http://a", -1, "not -1"),
        ("http://a:1", 2, "different ports"),
    ],
)
def test_what_is_no_address_is_refused(base_url, port, text):
    with pytest.raises(ValueError, match=text):
        http_address(base_url, port)


def test_credentials_in_an_address_are_refused_and_not_shown():
    with pytest.raises(ValueError) as caught:
        http_address("https://me:hunter2@host")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST.", "127.0.0.1", "127.8.9.10", "::1", "[::1]"])
def test_loopback(host):
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host", ["a.localhost", "localhost.example.org", "127.0.0.1.example.org", "10.0.0.1", "0.0.0.0", "notlocalhost"]
)
def test_not_loopback(host):
    assert not is_loopback(host)


def test_a_key_goes_nowhere_in_clear_text():
    for allowed in (http_address("https://a"), ws_address("wss://a"), http_address("http://localhost", 1)):
        check_may_send_key(allowed)
    for address, remedy in ((http_address("http://a"), "https://"), (ws_address("ws://a"), "wss://")):
        with pytest.raises(ConnectFailed, match=remedy) as caught:
            check_may_send_key(address)
        assert caught.value.stage == "url"
        check_may_send_key(address, allow_insecure=True)


def test_the_port_is_left_out_for_people_where_it_is_the_usual_one():
    assert http_address("https://a", 443).short_url == "https://a"
    assert http_address("http://a", 443).short_url == "http://a:443"
