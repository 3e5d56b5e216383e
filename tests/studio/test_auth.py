from __future__ import annotations

import json
import threading

import pytest
import responses

from tellurio_sync.errors import HttpStatusError, HttpUnreachable, InvalidAPIKeyError
from tellurio_sync.studio import Account, KeySource, config, find_api_key, keystore, remember, verify
from tellurio_sync.studio.auth import forget

from .conftest import KEY

VERIFY = "http://127.0.0.1:8000/api/v0/verify-api-key/"


@pytest.fixture
def stored(home, keyring):
    """A key is in the keyring, and it is known whose."""
    (home / ".tellurio_config.json").write_text('{"username": "me"}')
    keyring.secrets["Tellurio", "me"] = "from-keyring"
    return keyring


@pytest.mark.parametrize(
    ("argument", "variable", "relogin", "expected"),
    [
        ("from-argument", "from-env", False, ("from-argument", KeySource.ARGUMENT)),
        (" from-argument\n", None, True, ("from-argument", KeySource.ARGUMENT)),
        (None, "from-env", False, ("from-env", KeySource.ENVIRONMENT)),
        ("", " from-env ", True, ("from-env", KeySource.ENVIRONMENT)),
        (None, None, False, ("from-keyring", KeySource.KEYRING)),
        ("", "", False, ("from-keyring", KeySource.KEYRING)),
    ],
)
def test_where_the_key_comes_from(argument, variable, relogin, expected, stored, monkeypatch):
    if variable is not None:
        monkeypatch.setenv("TELLURIO_API_KEY", variable)
    assert find_api_key(argument, relogin) == expected


def test_a_service_of_another_name(stored, monkeypatch):
    monkeypatch.setenv("KEYRING_SERVICE_NAME", "Other")
    stored.secrets["Other", "me"] = "other"
    assert find_api_key() == ("other", KeySource.KEYRING)


def test_a_relogin_does_not_look_into_the_keyring(stored):
    with pytest.raises(ValueError, match=r"^API key is required for re-login\."):
        find_api_key(relogin=True)


def no_key_error() -> str:
    with pytest.raises(ValueError, match=r"^API key is required for the first login\.") as caught:
        find_api_key()
    assert "TELLURIO_API_KEY" in str(caught.value)
    return str(caught.value)


def test_nobody_logged_in_yet(keyring):
    assert "no user has logged in" in no_key_error()


def test_the_keyring_package_is_not_installed(home, no_keyring):
    (home / ".tellurio_config.json").write_text('{"username": "me"}')
    assert 'pip install "tellurio_sync[keyring]"' in no_key_error()


def test_the_keyring_holds_nothing(stored):
    stored.secrets.clear()
    assert "no key of 'me'" in no_key_error()


@pytest.mark.parametrize("module", ["keyring.backends.fail", "keyring.backends.null", "keyrings.gauth"])
def test_a_machine_without_a_keyring(module, stored):
    stored.backend = type("Keyring", (), {"__module__": module})()
    assert "no keyring" in no_key_error()
    assert remember(KEY, "me", KeySource.ARGUMENT) == (False, "this machine has no keyring")


@pytest.mark.parametrize("name", ["get_keyring", "get_password"])
def test_a_keyring_that_fails(name, stored, monkeypatch):
    def fail(*args: object) -> None:
        raise RuntimeError("it is locked")

    monkeypatch.setattr(stored, name, fail)
    assert "it is locked" in no_key_error()


@pytest.mark.parametrize(("relogin", "text"), [(False, "Login failed"), (True, "Re-login failed")])
def test_a_key_with_impossible_characters(relogin, text):
    with pytest.raises(InvalidAPIKeyError, match=f"^{text} due to invalid API key.") as caught:
        find_api_key("my secret", relogin)
    assert "secret" not in str(caught.value)


# --- verify -------------------------------------------------------------------------------------


@responses.activate
@pytest.mark.parametrize(
    ("answer", "account"),
    [
        ({"email": "me@example.org", "username": "me"}, Account("me@example.org", "me")),
        ({"username": "me"}, Account("unknown user", "me")),
    ],
)
def test_a_valid_key(rest, answer, account):
    responses.add("GET", VERIFY, json=answer)
    assert verify(rest) == account


@responses.activate
@pytest.mark.parametrize("status", [200, 401, 403])
@pytest.mark.parametrize(("relogin", "text"), [(False, "Login failed"), (True, "Re-login failed")])
def test_an_invalid_key(rest, status, relogin, text):
    responses.add("GET", VERIFY, json={}, status=status)
    with pytest.raises(InvalidAPIKeyError, match=rf"^{text} due to invalid API key\.") as caught:
        verify(rest, relogin)
    assert caught.value.url == rest.url


@responses.activate
def test_a_server_in_trouble_says_nothing_about_the_key(rest):
    responses.add("GET", VERIFY, status=500)
    with pytest.raises(HttpStatusError):
        verify(rest)
    responses.reset()
    with pytest.raises(HttpUnreachable, match=r"^Network error occurred\. Please check your connection\."):
        verify(rest)


# --- remember -----------------------------------------------------------------------------------


@pytest.mark.parametrize("source", [KeySource.ARGUMENT, KeySource.ENVIRONMENT])
def test_a_key_is_kept(source, keyring, home):
    assert remember(KEY, "me", source).is_stored
    assert keyring.secrets == {("Tellurio", "me"): KEY}
    file = home / ".tellurio_config.json"
    assert json.loads(file.read_text()) == {"username": "me"}
    assert find_api_key() == (KEY, KeySource.KEYRING)


def test_a_key_of_the_keyring_is_not_stored_again(keyring):
    assert not remember(KEY, "me", KeySource.KEYRING).is_stored
    assert keyring.secrets == {}


def test_without_keyring_nothing_is_written(home, no_keyring):
    stored = remember(KEY, "me", KeySource.ARGUMENT)
    assert (stored.is_stored, "tellurio_sync[keyring]" in stored.reason) == (False, True)
    assert list(home.iterdir()) == []


def test_a_keyring_that_refuses_is_reported_without_the_key(keyring, monkeypatch):
    def refuse(service: str, username: str, password: str) -> None:
        raise RuntimeError(f"cannot store {password}")

    monkeypatch.setattr(keyring, "set_password", refuse)
    stored = remember(KEY, "me", KeySource.ARGUMENT)
    assert stored == (False, "the key could not be stored: cannot store ***")


# --- several servers ----------------------------------------------------------------------------

PLATFORM, OWN = "https://platform.tellurio.ai:443", "http://127.0.0.1:8000"
# On a hub, the path says whose server it is.
MINE, YOURS = "https://hub.example:443/user/me/proxy/8000", "https://hub.example:443/user/you/proxy/8000"


def test_a_login_to_another_server_leaves_the_first_one(keyring, home):
    remember("platform-key", "me", KeySource.ARGUMENT, PLATFORM)
    config.save_consent()
    remember("own-key", "local", KeySource.ARGUMENT, OWN)
    assert find_api_key(server=PLATFORM) == ("platform-key", KeySource.KEYRING)
    assert find_api_key(server=OWN) == ("own-key", KeySource.KEYRING)
    assert (config.username(), config.consent()) == ("me", True)
    with pytest.raises(ValueError, match=r"no user has logged in to https://elsewhere:1"):
        find_api_key(server="https://elsewhere:1")


@pytest.mark.parametrize(("server", "other"), [(PLATFORM, OWN), (MINE, YOURS), (MINE, "https://hub.example:443")])
def test_a_key_goes_to_no_other_server(keyring, home, server, other):
    remember("a-key", "me", KeySource.ARGUMENT, server)
    assert find_api_key(server=server) == ("a-key", KeySource.KEYRING)
    with pytest.raises(ValueError, match="API key is required"):
        find_api_key(server=other)


def test_what_another_client_has_stored_is_used(stored):
    assert find_api_key(server=OWN) == ("from-keyring", KeySource.KEYRING)


@pytest.mark.parametrize("server", [PLATFORM, OWN, MINE, YOURS])
def test_a_logout_forgets_the_key_of_one_server(keyring, home, server):
    keys = {PLATFORM: "platform-key", OWN: "own-key", MINE: "my-key", YOURS: "your-key"}
    for one, key in keys.items():
        remember(key, "me", KeySource.ARGUMENT, one)
    assert not forget(server).is_stored
    assert list(keyring.secrets.values()) == [key for one, key in keys.items() if one != server]
    with pytest.raises(ValueError, match="API key is required"):
        find_api_key(server=server)
    assert not forget(server).is_stored


# --- keyrings that misbehave --------------------------------------------------------------------


def test_a_keyring_that_forgets_is_not_believed(keyring, home, monkeypatch):
    monkeypatch.setattr(keyring, "set_password", lambda *args: None)
    stored = remember(KEY, "me", KeySource.ARGUMENT)
    assert (stored.is_stored, "does not have it" in stored.reason) == (False, True)
    assert list(home.iterdir()) == []


def test_a_keyring_that_gives_no_text(stored, monkeypatch):
    monkeypatch.setattr(stored, "get_password", lambda *args: b"bytes")
    assert "holds no key of 'me'" in no_key_error()


@pytest.mark.parametrize("method", ["get_password", "set_password", "get_keyring"])
def test_a_keyring_that_hangs_is_not_waited_for(stored, monkeypatch, method):
    release = threading.Event()
    monkeypatch.setattr(keystore, "KEYRING_TIMEOUT", 0.05)
    monkeypatch.setattr(stored, method, lambda *args: release.wait(30))
    try:
        kept = remember(KEY, "me", KeySource.ARGUMENT)
        assert (kept.is_stored, "did not answer within 0.05 s" in kept.reason) == (False, True)
        if method != "set_password":
            assert "did not answer within 0.05 s" in no_key_error()
    finally:
        release.set()
