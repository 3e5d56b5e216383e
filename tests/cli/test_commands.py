from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
import types

import pytest
import responses

from tellurio_sync import __version__, local
from tellurio_sync.cli import main
from tellurio_sync.errors import TellurioError

from ..studio.conftest import FakeKeyring
from .conftest import KEY

VERIFY = "http://127.0.0.1:8000/api/v0/verify-api-key/"


@pytest.fixture(autouse=True)
def address(home, monkeypatch):
    """A local address."""
    monkeypatch.setenv("TELLURIO_BACKEND_HTTP_BASE_URL", "http://127.0.0.1")
    monkeypatch.setenv("TELLURIO_BACKEND_HTTP_PORT", "8000")


@pytest.fixture
def keyring(monkeypatch) -> FakeKeyring:
    fake = FakeKeyring()
    monkeypatch.setitem(sys.modules, "keyring", fake)
    return fake


@pytest.fixture
def backend(keyring):
    """A backend that knows the key, and a keyring."""

    def verify(request: object) -> tuple[int, dict[str, str], str]:
        if request.headers.get("Authorization") == f"Api-Key {KEY}":
            return 200, {}, json.dumps({"email": "me@example.org", "username": "me"})
        return 401, {}, json.dumps({"detail": "Invalid API key"})

    with responses.RequestsMock(assert_all_requests_are_fired=False) as mock:
        mock.add_callback("GET", VERIFY, verify)
        yield mock


def run(capsys, *arguments: str) -> tuple[int, str, str]:
    code = main(arguments)
    captured = capsys.readouterr()
    assert KEY not in captured.out + captured.err
    assert "afnio" not in captured.out + captured.err
    return code, captured.out, captured.err


CURRENTLY = (
    "[tellurio-sync] Currently logged in as 'me' to 'http://127.0.0.1:8000'. Use `tellurio-sync login --relogin`"
)


# --- login --------------------------------------------------------------------------------------


def test_login_with_a_given_key(backend, keyring, capsys, home):
    code, out, err = run(capsys, "login", "--api-key", KEY)
    assert (code, err) == (0, "")
    assert "API key provided and stored securely in local keyring." in out
    assert CURRENTLY in out
    assert keyring.secrets == {("Tellurio", "me"): KEY}
    assert json.loads((home / ".tellurio_config.json").read_text()) == {
        "username": "me",
        "server": "http://127.0.0.1:8000",
    }

    code, out, err = run(capsys, "login")
    assert (code, err) == (0, "")
    assert "Using stored API key from local keyring." in out
    assert "API key provided" not in out
    assert CURRENTLY in out


def test_login_with_the_key_of_the_environment(backend, keyring, capsys, monkeypatch):
    monkeypatch.setenv("TELLURIO_API_KEY", KEY)
    assert run(capsys, "login")[0] == 0
    assert keyring.secrets == {("Tellurio", "me"): KEY}


def test_login_asks_at_a_terminal_without_showing_what_is_typed(backend, capsys, monkeypatch):
    prompts = []
    monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(isatty=lambda: True))
    monkeypatch.setattr("getpass.getpass", lambda prompt: prompts.append(prompt) or KEY)
    code, out, _ = run(capsys, "login", "--relogin")
    assert code == 0
    assert "Please enter your Tellurio API key and hit enter, or press ctrl+c to quit" in prompts[0]
    assert CURRENTLY in out


@pytest.mark.parametrize(
    ("typed", "code"),
    [
        (["wrong", KEY], 0),
        (["with blank", "wrong", KEY], 0),
        (["wrong", "wrong", "wrong", KEY], 4),
        (["wrong", ""], 4),
    ],
)
def test_who_mistypes_it_is_asked_again(typed, code, backend, keyring, capsys, monkeypatch):
    asked = iter(typed)
    monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(isatty=lambda: True))
    monkeypatch.setattr("getpass.getpass", lambda prompt: next(asked))
    got, _, err = run(capsys, "login")
    assert got == code
    assert err.count("Login failed: Invalid API key. Please try again.") == min(
        3, typed.count("wrong") + ("with blank" in typed)
    )
    assert "Login failed due to" not in err, "it is said once"
    assert bool(keyring.secrets) is (code == 0)
    assert list(asked) == ([KEY] if len(typed) == 4 else [])


def test_a_wrong_key_of_a_pipe_or_the_environment_is_tried_once(backend, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"wrong\n{KEY}\n"))
    code, _, err = run(capsys, "login")
    assert (code, err.count("Invalid API key")) == (4, 1)
    monkeypatch.setenv("TELLURIO_API_KEY", "wrong")
    monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(isatty=lambda: True))
    assert run(capsys, "login")[0] == 4


def test_login_reads_a_pipe(backend, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{KEY}\n"))
    assert run(capsys, "login")[0] == 0


def test_login_without_a_keyring_works_but_says_so(backend, capsys, monkeypatch, home):
    monkeypatch.setitem(sys.modules, "keyring", None)
    code, out, _ = run(capsys, "login", "--api-key", KEY)
    assert code == 0
    assert out == (
        "[tellurio-sync] The API key is valid but was not stored: the package keyring is not installed "
        '(pip install "tellurio_sync[keyring]"). Set TELLURIO_API_KEY to use it: '
        "then programs are logged in as 'me' to 'http://127.0.0.1:8000'.\n"
    )
    assert list(home.iterdir()) == []
    monkeypatch.setenv("TELLURIO_API_KEY", KEY)
    assert "It is in TELLURIO_API_KEY: then programs" in run(capsys, "login")[1]


def test_a_relogin_does_not_use_the_stored_key(backend, keyring, capsys, home):
    (home / ".tellurio_config.json").write_text('{"username": "me"}')
    keyring.secrets["Tellurio", "me"] = KEY
    code, out, err = run(capsys, "login", "--relogin")
    assert (code, out) == (4, "")
    assert "Login failed: Missing API key. Please provide a valid API key." in err


def test_no_key_at_all(backend, capsys):
    code, out, err = run(capsys, "login")
    assert (code, out) == (4, "")
    assert err == "[tellurio-sync] Login failed: Missing API key. Please provide a valid API key.\n"


@pytest.mark.parametrize("key", ["wrong", "with blank"])
def test_an_invalid_key_is_not_stored(backend, keyring, capsys, home, key):
    code, out, err = run(capsys, "login", "--api-key", key)
    assert (code, out) == (4, "")
    assert "Login failed: Invalid API key. Please try again." in err
    assert key not in err
    assert keyring.secrets == {}
    assert list(home.iterdir()) == []


@pytest.mark.parametrize(
    ("base_url", "status", "code", "text"),
    [
        ("http://127.0.0.1", None, 5, "Login failed: Network error occurred. Please check your connection."),
        ("http://127.0.0.1", 500, 1, "Login failed: Failed to connect to the backend."),
        ("http://backend.example", None, 1, "Login failed: Failed to connect to the backend.\nThe API key is not sent"),
        ("nonsense", None, 1, "Login failed: The backend's address 'nonsense' must begin with"),
    ],
)
def test_login_fails(base_url, status, code, text, backend, capsys, monkeypatch):
    backend.remove("GET", VERIFY)
    if status is not None:
        backend.add("GET", VERIFY, status=status)
    monkeypatch.setenv("TELLURIO_BACKEND_HTTP_BASE_URL", base_url)
    found, out, err = run(capsys, "login", "--api-key", KEY)
    assert (found, out) == (code, "")
    assert text in err


def test_ctrl_c_at_the_prompt(capsys, monkeypatch):
    def interrupt(prompt: str) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(isatty=lambda: True))
    monkeypatch.setattr("getpass.getpass", interrupt)
    assert run(capsys, "login", "--relogin") == (130, "", "\n")


# --- the other commands -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [[], ["--lm-base-url", "http://x", "-v", "2"], ["--help"], ["--rounds=3", "file"], ["@x"]],
)
def test_the_demo_gets_its_arguments_untouched(arguments, monkeypatch, capsys):
    received = []
    demo = types.ModuleType("demo")
    demo.main = lambda given: received.append(given) or 7
    monkeypatch.setitem(sys.modules, "tellurio_sync.examples.facility_support", demo)
    assert main(["-v", "error", "demo", *arguments]) == 7
    assert received == [arguments]


def test_what_a_command_raises_on_purpose_is_one_line(monkeypatch, capsys):
    def fail(arguments: list[str]) -> int:
        raise TellurioError("the backend is gone")

    demo = types.ModuleType("demo")
    demo.main = fail
    monkeypatch.setitem(sys.modules, "tellurio_sync.examples.facility_support", demo)
    assert run(capsys, "demo") == (1, "", "[tellurio-sync] the backend is gone\n")


def test_the_backend_serves_with_its_options(monkeypatch, tmp_path):
    received = []
    server = types.ModuleType("server")
    server.serve = lambda options, opening: received.append((options, opening)) or 3
    monkeypatch.setitem(sys.modules, "tellurio_sync.backend.server", server)
    monkeypatch.setattr(local, "find_spec", lambda name: object())
    arguments = tmp_path / "arguments"
    arguments.write_text("--api-key=te-my-key\n--namespace=a\n--namespace=b\n")
    assert main(["backend", "--port", "8000", f"@{arguments}"]) == 3
    ((options, opening),) = received
    assert opening is None  # what nobody waits for is opened by the server
    assert (options.port, options.api_key, options.namespaces) == (8000, "te-my-key", ("a", "b"))


def test_the_backend_without_its_extra(monkeypatch, capsys):
    monkeypatch.setattr(local, "find_spec", lambda name: None)
    code, out, err = run(capsys, "backend")
    assert (code, out) == (1, "")
    assert 'pip install "tellurio_sync[local]"' in err


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([], "COMMAND"),
        (["fly"], "No such command 'fly'"),
        (["login", "--nope"], "No such option"),
        (["backend", "stray"], "unrecognized arguments: stray"),
        (["-v", "loud", "login"], "'loud' is not one of"),
        (["backend", "@/no/such/file"], "No such file"),
    ],
)
def test_wrong_arguments(arguments, text, capsys):
    assert main(arguments) == 2
    assert text in capsys.readouterr().err


@pytest.mark.parametrize("level", ["debug", "WARNING"])
def test_verbosity(level, backend, capsys):
    run(capsys, "-v", level, "login", "--api-key", KEY)
    assert logging.getLogger("tellurio_sync").level == getattr(logging, level.upper())


# --- as a process -------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_command_as_a_process():
    done = subprocess.run(
        [sys.executable, "-m", "tellurio_sync", "--version"], timeout=60, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, f"tellurio-sync {__version__}", "")
    done = subprocess.run(
        [sys.executable, "-m", "tellurio_sync", "login"], timeout=60, capture_output=True, text=True, input=""
    )
    assert (done.returncode, done.stdout) == (4, "")
    assert "Missing API key" in done.stderr


@pytest.mark.slow
def test_the_command_starts_fast():
    """By what it imports; how long that takes depends on the machine."""
    script = """
import sys
from tellurio_sync.cli import main
try:
    assert main(["--help"]) == 0
finally:
    heavy = {"aiohttp", "asyncio", "keyring", "openai", "requests", "sqlite3"}
    print(sorted(heavy & set(sys.modules)), file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", script], timeout=60, capture_output=True, text=True)
    assert done.returncode == 0
    assert all(command in done.stdout for command in ("login", "backend", "demo"))
    assert done.stderr.strip() == "[]"


@pytest.mark.slow
def test_what_was_made_offline_is_sent_and_listed(home, tmp_path, monkeypatch, capsys):
    import tellurio_sync as te

    for name in ("TELLURIO_BACKEND_HTTP_BASE_URL", "TELLURIO_BACKEND_HTTP_PORT"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("TELLURIO_JOURNAL_DIR", str(tmp_path / "journals"))
    with te.Session() as session, session.init(None, "Away", name="made offline", mode="offline") as run:
        run.log("loss", 0.5, step=0)
    data = ["--data-dir", str(tmp_path / "data")]
    assert main(["sync", "--dry-run", *data]) == 0
    assert capsys.readouterr().out.startswith("to send   made offline of Away, ")
    assert main(["sync", *data]) == 0
    assert capsys.readouterr().out.startswith("sent      made offline of Away, ")
    assert main(["sync", *data]) == 0
    assert "Nothing is left to send." in capsys.readouterr().out
    assert main(["runs", "Away", *data]) == 0
    assert "COMPLETED  Away     made offline" in capsys.readouterr().out
    assert main(["sync", str(tmp_path / "absent"), *data]) == 1
    assert "absent" in capsys.readouterr().err
    local.default_local_backend().stop()


def test_whoami_and_logout(backend, keyring, monkeypatch, capsys):
    monkeypatch.setenv("TELLURIO_API_KEY", "wrong")
    assert main(["whoami"]) == 4
    assert "wrong" not in capsys.readouterr().err
    assert main(["logout"]) == 0
    assert "is forgotten" in capsys.readouterr().out


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_of_shells(shell, capsys, monkeypatch):
    code, out, err = run(capsys, "completion", shell)
    assert (code, err) == (0, "")
    assert "_TELLURIO_SYNC_COMPLETE=" in out


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ("tellurio-sync me", {"metrics"}),
        ("tellurio-sync metrics --pl", {"--plot"}),
        ("tellurio-sync backend --lm-m", {"--lm-max-concurrency"}),
        ("tellurio-sync completion ", {"bash", "zsh", "fish"}),
    ],
)
def test_what_a_shell_completes(words, wanted, capsys, monkeypatch):
    monkeypatch.setenv("_TELLURIO_SYNC_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(words.count(" ")))
    with pytest.raises(SystemExit) as caught:
        main([])
    assert caught.value.code == 0
    assert {line.split(",")[1] for line in capsys.readouterr().out.split()} == wanted
