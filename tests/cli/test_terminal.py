"""The command in front of a person: in a real terminal, with keys that are pressed one after the other."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import tellurio_sync as te

from .conftest import KEY

if sys.platform == "win32":
    pytest.skip("there are no pseudo-terminals", allow_module_level=True)

from ..screen import Screen  # below the skip: it needs pseudo-terminals

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("settings")]

PROMPT = "or press ctrl+c to quit: "


Open = Callable[..., Screen]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Iterator[Open]:
    monkeypatch.setenv("PYTHON_KEYRING_BACKEND", "keyring.backends.null.Keyring")
    opened: list[Screen] = []

    def begin(*arguments: str, columns: int = 100) -> Screen:
        opened.append(Screen(("-m", "tellurio_sync", *arguments), columns))
        return opened[-1]

    yield begin
    for screen in opened:
        screen.close()


# --- login --------------------------------------------------------------------------------------------


@pytest.fixture
def login(command: Open, monkeypatch: pytest.MonkeyPatch) -> Screen:
    """One that asks for the key."""
    monkeypatch.delenv("TELLURIO_API_KEY")
    screen = command("login")
    screen.wait_for(PROMPT)
    assert not screen.echoes
    return screen


def test_a_key_is_typed_and_not_shown(login: Screen) -> None:
    login.type(f"{KEY}\n")
    assert login.end() == 0
    assert "The API key is valid but was not stored" in login.text
    assert "programs are logged in as 'local' to 'http://127.0.0.1" in login.text
    assert KEY not in login.text
    assert login.echoes


def test_who_mistypes_the_key_is_asked_again(login: Screen) -> None:
    login.type("te-mistyped\n")
    login.wait_for(PROMPT, times=2)
    assert login.text.count("Invalid API key. Please try again.") == 1
    login.type(f"{KEY}\n")
    assert login.end() == 0
    assert "The API key is valid" in login.text
    assert "mistyped" not in login.text
    assert KEY not in login.text


def test_ctrl_c_ends_it_and_leaves_the_terminal_as_it_was(login: Screen) -> None:
    login.type("te-01\x03")
    assert login.end() == 130
    assert "Traceback" not in login.text
    assert "te-01" not in login.text
    assert login.echoes


# --- looking at runs ----------------------------------------------------------------------------------


@pytest.fixture
def logged(settings: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run with more metrics than a narrow terminal has room for."""
    monkeypatch.setenv("TELLURIO_JOURNAL_DIR", str(tmp_path / "journals"))
    with te.Session() as session:
        session.login()
        with session.init(None, "Mails", name="first try", config={"lr": 0.1}) as run:
            for step in range(30):
                run.log(dict.fromkeys(("loss", "accuracy", "learning rate", "tokens"), step / 7), step=step)


@pytest.mark.usefixtures("logged")
def test_runs_and_one_of_them(command: Open) -> None:
    runs = command("runs", "mails")
    assert runs.end() == 0
    assert runs.lines[0].split() == ["id", "status", "project", "name", "begun"]
    assert re.search(r" COMPLETED +(?i:mails) +first try ", runs.lines[1])
    show = command("show", "first try", "--project", "mails")
    assert show.end() == 0
    assert re.search(r"^status +COMPLETED$", "\n".join(show.lines), re.MULTILINE)
    assert re.search(r"^loss +30 +4.14286 +[▁▂▃▄▅▆▇█]+$", "\n".join(show.lines), re.MULTILINE)


@pytest.mark.usefixtures("logged")
@pytest.mark.parametrize(
    ("columns", "heads"),
    [
        (20, ["step", "loss"]),
        (30, ["step", "loss", "accuracy"]),
        (100, ["step", "loss", "accuracy", "learning", "rate", "tokens"]),
    ],
)
def test_metrics_fit_into_the_terminal(command: Open, columns: int, heads: list[str]) -> None:
    table = command("metrics", "latest", "--last", "3", "--project", "mails", columns=columns)
    assert table.end() == 0
    assert table.lines[0].split() == heads
    assert max(map(len, table.lines[:4])) <= columns
    assert ("more metrics: " in table.text) == (columns < 100)
    plots = command("metrics", "latest", "loss", "--plot", "--project", "mails", columns=columns)
    assert plots.end() == 0
    assert min(columns, 74) - 4 <= max(map(len, plots.lines)) <= columns
    assert plots.lines[-1].split() == ["step", "0", "29"]


# --- what is wrong --------------------------------------------------------------------------------------


def test_the_doctor_finds_nothing(command: Open) -> None:
    doctor = command("doctor")
    assert doctor.end() == 0
    assert KEY not in doctor.text
    for stage in ("DNS", "TCP", "REST", "key", "handshake", "greeting", "round trip"):
        assert re.search(rf"^ok +{stage}\b", "\n".join(doctor.lines), re.MULTILINE), doctor.text


def test_the_doctor_is_told_of_another_key(command: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TELLURIO_API_KEY", "te-another-key")
    doctor = command("doctor", columns=40)
    assert doctor.end() == 4
    assert "te-another-key" not in doctor.text
    assert re.search(r"^FAILED +key\b", "\n".join(doctor.lines), re.MULTILINE), doctor.text
