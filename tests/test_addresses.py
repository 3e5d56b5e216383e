from __future__ import annotations

import pytest

from tellurio_sync import addresses
from tellurio_sync.addresses import check_may_send_key, http_address, hub_url, is_loopback, of_one_server, ws_address
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
        # With a path it is an address as a browser shows it.
        (("https://hub.example/user/me/proxy/7862/",), {}, "https://hub.example:443/user/me/proxy/7862"),
        (("http://hub.example/tellurio",), {}, "http://hub.example:80/tellurio"),
        (("http://hub.example/tellurio", 8080), {}, "http://hub.example:8080/tellurio"),
        ((), {"BASE_URL": "http://[::1]:8080/tellurio/", "PORT": ""}, "http://[::1]:8080/tellurio"),
        ((), {"BASE_URL": "http://localhost/tellurio", "PORT": "8080"}, "http://localhost:8080/tellurio"),
        (("https://a/user/me%40example.org/x",), {}, "https://a:443/user/me%40example.org/x"),
        (("https://a/Jörg/~x-1.2_3",), {}, "https://a:443/J%C3%B6rg/~x-1.2_3"),
        (("https://a//",), {}, "https://a:443"),
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
        ("http://a?b", 1, r"'http://a' must end where its \? or # stands"),
        ("http://a/x/#b", 1, "'http://a/x/' must end where"),
        ("http://a/x//y", 1, "because of '' in it; an example: https://hub.example/user/me/proxy/7862"),
        ("http://a//x", 1, "because of '' in it"),
        ("http://a/x/../y", 1, "because of '..' in it"),
        ("http://a/x/%2E%2e/y", 1, "because of '%2E%2e' in it"),
        ("http://a/x/.", 1, "because of '.' in it"),
        ("http://a/x y", 1, "because of 'x y' in it"),
        ("http://a/x\x01", 1, "because of 'x.x01' in it"),
        ("http://a/x\\y", 1, "because of"),
        ("http://a/<x>", 1, "because of '<x>' in it"),
        ("http://a/{x}", 1, "because of '{x}' in it"),
        ("http://a/100%", 1, "because of '100%' in it"),
        ("http://a/\ud800", 1, "because of"),
        ("http://a/x/api/v0/verify-api-key/", 1, "give what stands before '/api/v0/verify-api-key' in it"),
        ("http://a/x/ws/v0/rpc/", 1, "give what stands before '/ws/v0/rpc' in it"),
        ("http://a/x/me/projects/p/runs/r/", 1, "give what stands before '/me/projects/p/runs/r' in it"),
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


@pytest.mark.parametrize(
    ("base_url", "http", "ws"),
    [
        ("https://hub.example/tellurio/", "https://hub.example:443/tellurio", "wss://hub.example:443/tellurio"),
        ("http://127.0.0.1:7862", "http://127.0.0.1:7862", "ws://127.0.0.1:7862"),
        ("http://[::1]/x", "http://[::1]:80/x", "ws://[::1]:80/x"),
    ],
)
def test_both_ends_at_one_address(base_url, http, ws, monkeypatch):
    for channel in ("HTTP", "WS"):
        monkeypatch.setenv(f"TELLURIO_BACKEND_{channel}_BASE_URL", "https://elsewhere.example")
        monkeypatch.setenv(f"TELLURIO_BACKEND_{channel}_PORT", "9")
    assert tuple(address.url for address in of_one_server(base_url)) == (http, ws)


@pytest.mark.parametrize("base_url", ["wss://a", "a", "", "http://a?x", "http://a/..", "http://a:0x"])
def test_what_is_no_address_of_a_server_is_refused(base_url):
    with pytest.raises(ValueError, match="address"):
        of_one_server(base_url)


@pytest.mark.parametrize("make", [http_address, of_one_server])
@pytest.mark.parametrize("rest", ["?token=hunter2", "#hunter2", "local/projects/p/runs/r/?token=hunter2"])
def test_the_token_in_the_link_of_a_page_is_not_shown(make, rest):
    with pytest.raises(ValueError) as caught:
        make(f"http://127.0.0.1:7862/{rest}")
    assert "hunter2" not in str(caught.value)


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


@pytest.mark.parametrize(
    ("environment", "has_proxy", "url"),
    [
        ({}, True, None),
        ({"SERVICE_PREFIX": ""}, True, None),
        ({"SERVICE_PREFIX": "/user/me/"}, False, None),
        ({"SERVICE_PREFIX": "/user/me/"}, True, "/user/me/proxy/7862"),
        ({"SERVICE_PREFIX": "/user/me/", "PUBLIC_URL": ""}, True, "/user/me/proxy/7862"),
        (
            {"SERVICE_PREFIX": "/user/me/", "PUBLIC_URL": "https://hub.example/user/me/"},
            True,
            "https://hub.example/user/me/proxy/7862",
        ),
    ],
)
def test_the_address_of_a_port_through_a_hub(environment, has_proxy, url, monkeypatch):
    for name in ("SERVICE_PREFIX", "PUBLIC_URL"):
        monkeypatch.delenv(f"JUPYTERHUB_{name}", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(f"JUPYTERHUB_{name}", value)
    asked = []
    monkeypatch.setattr(addresses, "find_spec", lambda name: asked.append(name) or (object() if has_proxy else None))
    assert hub_url(7862) == url
    assert {*asked} <= {"jupyter_server_proxy"}
    assert addresses.is_on_hub() == bool(environment.get("SERVICE_PREFIX"))


def test_the_port_is_left_out_for_people_where_it_is_the_usual_one():
    assert http_address("https://a", 443).short_url == "https://a"
    assert http_address("http://a", 443).short_url == "http://a:443"
    assert http_address("https://a/x/y/").short_url == "https://a/x/y"
    assert http_address("https://a/x/y/", 8443).short_url == "https://a:8443/x/y"
