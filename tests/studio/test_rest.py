from __future__ import annotations

import functools
import http.client
import json
import logging
import math
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import traceback
from weakref import WeakKeyDictionary

import pytest
import responses

from tellurio_sync.errors import (
    ConnectFailed,
    HttpError,
    HttpStatusError,
    HttpUnreachable,
    InvalidAPIKeyError,
    LocalProtocolError,
)
from tellurio_sync.studio import StudioRest, http_session
from tellurio_sync.studio.http_session import post_json

from ..conftest import FAILSAFE
from ..interrupts import strikes
from .conftest import KEY

BASE = "http://127.0.0.1:8000/api/v0"
PROJECT = f"{BASE}/acme/projects/my-project/"
RUN = f"{PROJECT}runs/r1/"

# What is called, what goes out (verb, address, body), the status that counts as success, what is returned for "{}".
ENDPOINTS = [
    (lambda r: r.verify_api_key(), "GET", f"{BASE}/verify-api-key/", None, 200),
    (lambda r: r.get_project("acme", "my-project"), "GET", PROJECT, None, 200),
    (
        lambda r: r.create_project("acme", "My Project"),
        "POST",
        f"{BASE}/acme/projects/",
        {"display_name": "My Project", "visibility": "TEAM"},
        201,
    ),
    (lambda r: r.delete_project("acme", "my-project"), "DELETE", PROJECT, None, 204),
    (lambda r: r.create_run("acme", "my-project"), "POST", f"{PROJECT}runs/", {}, 201),
    (
        lambda r: r.create_run("acme", "my-project", "n", "d", "RUNNING"),
        "POST",
        f"{PROJECT}runs/",
        {"name": "n", "description": "d", "status": "RUNNING"},
        201,
    ),
    (lambda r: r.list_runs("acme", "my-project"), "GET", f"{PROJECT}runs/", None, 200),
    (lambda r: r.update_run("acme", "my-project", "r1", "FAILED"), "PATCH", RUN, {"status": "FAILED"}, 200),
    (
        lambda r: r.log_metric("acme", "my-project", "r1", "loss", 0.5),
        "POST",
        f"{RUN}metrics/",
        {"name": "loss", "value": 0.5},
        201,
    ),
    (
        lambda r: r.log_metric("acme", "my-project", "r1", "loss", None, 0),
        "POST",
        f"{RUN}metrics/",
        {"name": "loss", "value": None, "step": 0},
        201,
    ),
    (lambda r: r.list_metrics("acme", "my-project", "r1"), "GET", f"{RUN}metrics/", None, 200),
    (lambda r: r.list_questions("acme", "my-project", "r1"), "GET", f"{RUN}questions/", None, 200),
]
each_endpoint = pytest.mark.parametrize(("call", "verb", "url", "body", "success"), ENDPOINTS)


def answer_for(url: str, verb: str) -> object:
    return [{"uuid": "x"}] if verb == "GET" and url.endswith(("/runs/", "/metrics/")) else {"uuid": "x"}


@each_endpoint
@responses.activate
def test_each_endpoint(call, verb, url, body, success, rest):
    answer = answer_for(url, verb)
    sent = responses.add(verb, url, **({} if success == 204 else {"json": answer}), status=success)
    result = call(rest)
    request = sent.calls[0].request
    assert request.headers["Authorization"] == f"Api-Key {KEY}"
    if body is None:
        assert request.body is None
        assert request.headers["Accept"] == "*/*"
    else:
        assert json.loads(request.body) == body
        assert request.headers["Content-Type"] == "application/json"
    assert result == (None if verb == "DELETE" or (url.endswith("/metrics/") and verb == "POST") else answer)


@each_endpoint
@responses.activate
@pytest.mark.parametrize("status", [202, 302, 400, 409, 500])
def test_every_other_status_is_an_error(call, verb, url, body, success, rest, status):
    """Other successes and redirects included: nobody knows what they mean here."""
    responses.add(verb, url, json={"detail": "that went wrong"}, status=status)
    with pytest.raises(HttpStatusError, match=f"{verb} {url} failed with status {status}: that went wrong") as caught:
        call(rest)
    assert caught.value.status == status
    assert caught.value.url == url


@each_endpoint
@responses.activate
@pytest.mark.parametrize("content", [b"<html>", b'"text"', b"", b"\xff"])
def test_an_answer_that_is_not_the_json_expected_is_an_error(call, verb, url, body, success, rest, content):
    responses.add(verb, url, body=b"" if success == 204 else content, status=success)
    if verb == "DELETE" or (verb == "POST" and url.endswith("metrics/")):
        assert call(rest) is None
    else:
        with pytest.raises(HttpError, match="Is this the address of a Tellurio backend"):
            call(rest)


@responses.activate
def test_what_is_not_there_is_none(rest):
    responses.add("GET", PROJECT, status=404)
    assert rest.get_project("acme", "my-project") is None


@responses.activate
@pytest.mark.parametrize(("status", "account"), [(401, {}), (403, {"detail": "no"}), (200, {})])
def test_a_refused_key_has_no_account(rest, status, account):
    responses.add("GET", f"{BASE}/verify-api-key/", json=account, status=status)
    assert rest.verify_api_key() is None


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        (b'{"detail": "d"}', ": d"),
        (b'{"message": "m"}', ": m"),
        (b'{"error": "e"}', ": e"),
        (b'{"name": ["taken"]}', ': {"name": ["taken"]}'),
        (b"plain words", ": plain words"),
        (b"<html>a page</html>", ": Bad Request"),
        (b"", ": Bad Request"),
        (b'{"detail": "' + b"x" * 1000 + b'"}', "(1000 characters)"),
        (f'{{"detail": "your key {KEY}"}}'.encode(), ": your key ***"),
    ],
)
@responses.activate
def test_an_error_says_what_the_server_said(rest, body, shown):
    responses.add("POST", f"{BASE}/acme/projects/", body=body, status=400)
    with pytest.raises(HttpStatusError) as caught:
        rest.create_project("acme", "x")
    assert shown in str(caught.value)
    assert KEY not in str(caught.value)


@responses.activate
def test_a_401_says_whether_a_key_was_sent(rest):
    responses.add("DELETE", PROJECT, status=401)
    with pytest.raises(HttpStatusError, match="The API key is not valid"):
        rest.delete_project("acme", "my-project")
    rest.set_api_key(None)
    with pytest.raises(HttpStatusError, match="log in first"):
        rest.delete_project("acme", "my-project")


@pytest.mark.parametrize("slug", ["", " ", ".", "..", None])
def test_what_would_make_another_path_is_refused(rest, slug):
    with pytest.raises(ValueError, match="namespace_slug"):
        rest.get_project(slug, "p")


@responses.activate
def test_slugs_are_quoted(rest):
    responses.add("GET", f"{BASE}/a%2Fb/projects/%C3%BC%3F/", status=404)
    assert rest.get_project("a/b", "ü?") is None


@pytest.mark.parametrize("value", [[math.nan], object(), {1, 2}])
def test_a_value_without_json_form_is_refused_before_it_is_sent(rest, value):
    with pytest.raises(LocalProtocolError, match="cannot be sent as JSON"):
        rest.log_metric("acme", "p", "r", "loss", value)


@responses.activate
@pytest.mark.parametrize(("value", "sent"), [(math.nan, "nan"), (math.inf, "inf"), (-math.inf, "-inf")])
def test_what_is_not_finite_is_sent_as_null_with_a_note(rest, value, sent):
    responses.add("POST", f"{RUN}metrics/", json={}, status=201)
    rest.log_metric("acme", "my-project", "r1", "loss", value)
    assert json.loads(responses.calls[0].request.body) == {"name": "loss", "value": None, "not_finite": sent}


# --- over a real socket -------------------------------------------------------------------------


def client_of(port: int, **options: object) -> StudioRest:
    return StudioRest("http://127.0.0.1", port, KEY, **options)


def test_nobody_there(rest):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound, not listening: refused, and nobody else can take it
        port = unused.getsockname()[1]
        with pytest.raises(HttpUnreachable) as caught:
            client_of(port).verify_api_key()
    text = str(caught.value)
    assert text.startswith("Network error occurred. Please check your connection.")
    assert f"http://127.0.0.1:{port}" in text
    assert "tellurio-sync backend" in text
    assert isinstance(caught.value, (ConnectionError, ValueError))
    assert isinstance(caught.value.__cause__, ConnectionRefusedError)
    assert_holds_no_key(caught.value)


def test_an_answer_that_does_not_come_in_time(server):
    may_answer = threading.Event()
    server.before_answer = lambda: may_answer.wait(30)
    client = client_of(server.port, timeout=0.05)
    try:
        with pytest.raises(HttpUnreachable, match=r"no whole answer within 0\.05 s") as caught:
            client.verify_api_key()
    finally:
        may_answer.set()
        client.close()
    assert_holds_no_key(caught.value)


def test_an_answer_that_breaks_off(server):
    server.headers = {"Transfer-Encoding": "chunked"}
    client = client_of(server.port)
    with pytest.raises(HttpUnreachable) as caught:
        client.verify_api_key()
    client.close()
    assert_holds_no_key(caught.value)


def assert_holds_no_key(error: BaseException) -> None:
    """Neither the chain of errors nor the local variables of their tracebacks, except for this test's own."""
    seen = error
    while seen is not None:
        lines = traceback.TracebackException.from_exception(seen, capture_locals=True)
        own = [frame for frame in lines.stack if frame.filename != __file__]
        assert KEY not in repr(seen.__dict__) + str(seen) + repr([frame.locals for frame in own])
        seen = seen.__cause__ or seen.__context__


@pytest.mark.parametrize("before", range(180, 201, 5))
@pytest.mark.parametrize("form", ['{{"detail": "{}"}}', '{{"message": "{}"}}', '{{"other": "{}"}}', "{}", '["{}"]'])
def test_a_key_that_is_said_back_is_not_shown_in_part_where_a_text_is_shortened(server, form, before):
    server.status = 400
    server.body = form.format("x" * before + KEY + "y" * 100).encode()
    client = client_of(server.port)
    with pytest.raises(HttpStatusError) as caught:
        client.list_runs("a", "b")
    client.close()
    assert "xxx" in str(caught.value)
    assert KEY[:3] not in str(caught.value)


@pytest.mark.parametrize("path", ["", "/user/me/proxy/7862"])
def test_redirects_are_not_followed(server, path):
    """And a person is told what it is that answers so, where a hub or a proxy may be in front."""
    server.status = 302
    server.headers = {"Location": "/elsewhere"}
    client = StudioRest(f"http://127.0.0.1:{server.port}{path}", api_key=KEY)
    with pytest.raises(HttpStatusError, match="Redirects are not followed") as caught:
        client.list_runs("a", "b")
    client.close()
    assert len(server.requests) == 1
    assert ("A hub or proxy with a login of its own" in str(caught.value)) is bool(path)


def test_neither_netrc_nor_a_proxy_of_the_environment_interferes(server, home, monkeypatch):
    netrc = home / ".netrc"
    netrc.write_text("machine 127.0.0.1 login me password hunter2\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    client = client_of(server.port)
    client.verify_api_key()
    client.set_api_key(None)
    client.verify_api_key()
    client.close()
    (_, _, with_key, _), (_, _, without_key, _) = server.requests
    assert with_key["Authorization"] == f"Api-Key {KEY}"
    assert with_key["User-Agent"].startswith("tellurio_sync/")
    assert "Authorization" not in without_key


def test_a_single_request_to_this_machine_takes_no_proxy_either(server, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    server.body = b"answer"
    assert post_json(f"http://127.0.0.1:{server.port}/x", {"a": 1}, {"X-Y": "z"}, FAILSAFE) == (200, b"answer")
    ((verb, path, headers, body),) = server.requests
    assert (verb, path, headers["X-Y"], json.loads(body)) == ("POST", "/x", "z", {"a": 1})
    with pytest.raises(ConnectionError, match="ProxyError"):
        post_json("http://backend.invalid/", {}, {}, FAILSAFE)


def test_each_thread_has_its_own_http_session_and_close_closes_all(server):
    server.body = b'{"username": "me"}'
    client = client_of(server.port)
    sessions, accounts = [], []

    def use() -> None:
        accounts.append(client.verify_api_key())
        sessions.append(client._session())

    threads = [threading.Thread(target=use) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert accounts == [{"username": "me"}] * 3
    assert len({id(session) for session in sessions}) == 3
    client.close()
    client.close()
    assert client.verify_api_key() == {"username": "me"}  # close() is not the end
    client.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_opens_its_own_connection(server):
    script = f"""
import os, sys
from tellurio_sync.studio import StudioRest
client = StudioRest("http://127.0.0.1", {server.port}, "k")
client.verify_api_key()
mine = client._session()
pid = os.fork()
if pid == 0:
    client.verify_api_key()
    os._exit(0 if client._session() is not mine else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", script], timeout=60, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(server.requests) == 2


# --- the key ------------------------------------------------------------------------------------


def test_the_key_is_in_no_repr_pickle_or_log(server, caplog):
    caplog.set_level(logging.DEBUG)
    client = client_of(server.port)
    client.verify_api_key()
    client.close()
    copy = pickle.loads(pickle.dumps(client))
    assert (copy.url, copy.has_api_key) == (client.url, False)
    assert client.has_api_key
    shown = repr(client) + repr(vars(client)) + repr(pickle.dumps(client)) + caplog.text
    assert KEY not in shown
    assert f"GET {client.url}/api/v0/verify-api-key/" in caplog.text


def test_a_key_is_not_sent_in_clear_text_over_a_network():
    with pytest.raises(ConnectFailed, match="allow_insecure"):
        StudioRest("http://backend.example", 80, KEY)
    client = StudioRest("http://backend.example", 80)
    with pytest.raises(ConnectFailed):
        client.set_api_key(KEY)
    assert not client.has_api_key
    assert StudioRest("http://backend.example", 80, KEY, allow_insecure=True).has_api_key
    assert StudioRest("https://backend.example", 443, KEY).has_api_key


def test_bad_arguments():
    with pytest.raises(InvalidAPIKeyError):
        StudioRest("http://localhost", 1, "a key")
    with pytest.raises(ValueError, match="timeout"):
        StudioRest("http://localhost", 1, timeout=0)


def test_importing_it_imports_neither_http_library_nor_keyring():
    script = """
import sys, tellurio_sync.studio
print(sorted({'requests', 'keyring', 'slugify', 'asyncio'} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", script], timeout=60, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_signal_handler_may_make_a_request_within_another_one(server):
    """Also within the first request of a thread, and while the client is closed: at any point of what is shared."""

    def act():
        client.verify_api_key()

    for strike in strikes(http_session.time_limit, StudioRest._session, WeakKeyDictionary, act=act):
        client = client_of(server.port)
        with strike:
            client.verify_api_key()
            client.close()
        client.close()


def test_a_request_within_another_one_leaves_that_its_own_limit():
    with http_session.time_limit(FAILSAFE):
        with http_session.time_limit(1e-9):
            assert http_session.is_time_over()
        assert not http_session.is_time_over()


@pytest.mark.skipif(not hasattr(signal, "SIGALRM"), reason="no such signal here")
@pytest.mark.parametrize(
    "kind", [TimeoutError, functools.partial(TimeoutError, 62), OSError, functools.partial(ConnectionResetError, 104)]
)
def test_what_a_signal_handler_raises_within_a_request_leaves_as_it_is(kind, server, monkeypatch):
    """The recipe with ``signal.alarm``: a library of HTTP takes it for an error of the network, and asks again."""
    raised = kind("the time is over")
    waits = []

    def handler(number, frame):
        raise raised

    def interrupted(response):
        waits.append(response)
        handler(signal.SIGALRM, None)

    monkeypatch.setattr(http.client.HTTPResponse, "begin", interrupted)
    client = client_of(server.port)
    with pytest.raises(HttpUnreachable):
        client.verify_api_key()  # nothing was installed, so this is no signal handler
    waits.clear()
    former = signal.signal(signal.SIGALRM, handler)
    try:
        with pytest.raises(type(raised)) as caught:
            client.verify_api_key()
    finally:
        signal.signal(signal.SIGALRM, former)
    assert caught.value is raised
    assert len(waits) == 1, "asked again"
    assert_holds_no_key(raised)
    client.close()


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, RuntimeError])
def test_an_interrupted_session_of_the_library_is_not_used_again(interruption, server, monkeypatch):
    """It may have kept a lock of the library's pool, for which the next request, or ``close``, would wait for ever."""
    client = client_of(server.port)
    client.verify_api_key()
    left = client._session()

    def interrupted(*args, **options):
        raise interruption

    monkeypatch.setattr(left, "request", interrupted)
    with pytest.raises(interruption):
        client.verify_api_key()
    client.verify_api_key()
    assert client._session() is not left
    assert left not in client._sessions
    client.close()
    for adapter in left.adapters.values():
        adapter.close()
