"""What is said at the screen, and where it is not."""

from __future__ import annotations

import io
import sys
from types import SimpleNamespace

import pytest

from tellurio_sync import console


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def undecided(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "_is_quiet", None)
    monkeypatch.delenv("TELLURIO_QUIET", raising=False)
    monkeypatch.delitem(sys.modules, "IPython", raising=False)


def in_a_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    shell = SimpleNamespace(kernel=object())
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))


def said(monkeypatch: pytest.MonkeyPatch, out: object, err: object) -> None:
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    console.say("hello")


def test_in_a_terminal_it_goes_to_the_error_output(monkeypatch: pytest.MonkeyPatch) -> None:
    out, err = Terminal(), Terminal()
    said(monkeypatch, out, err)
    assert (out.getvalue(), err.getvalue()) == ("", "hello\n")


def test_in_a_notebook_it_goes_to_the_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    in_a_notebook(monkeypatch)
    out, err = io.StringIO(), io.StringIO()
    said(monkeypatch, out, err)
    assert (out.getvalue(), err.getvalue()) == ("hello\n", "")


def test_a_pipe_is_told_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    out, err = io.StringIO(), io.StringIO()
    said(monkeypatch, out, err)
    assert out.getvalue() + err.getvalue() == ""


@pytest.mark.parametrize("quiet", ["environment", "call"])
def test_quiet_mode(quiet: str, monkeypatch: pytest.MonkeyPatch) -> None:
    in_a_notebook(monkeypatch)
    monkeypatch.setenv("TELLURIO_QUIET", "1" if quiet == "environment" else "")
    if quiet == "call":
        console.set_quiet()
    out = io.StringIO()
    said(monkeypatch, out, Terminal())
    assert out.getvalue() == ""
    console.set_quiet(False)  # what is said in the program counts more than the environment
    said(monkeypatch, out, Terminal())
    assert out.getvalue() == "hello\n"


@pytest.mark.parametrize("value", ["", "0"])
def test_an_empty_variable_is_not_quiet(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TELLURIO_QUIET", value)
    assert not console.is_quiet()


def test_what_is_no_truth_value_is_refused() -> None:
    with pytest.raises(TypeError, match="set_quiet takes True or False, not 'no'"):
        console.set_quiet("no")  # type: ignore[arg-type]


@pytest.mark.parametrize("screen", [None, object(), "closed", "full"])
def test_no_screen_is_an_error(screen: object, monkeypatch: pytest.MonkeyPatch) -> None:
    if screen == "closed":
        screen = Terminal()
        screen.close()
    elif screen == "full":

        class Full(Terminal):
            def write(self, text: str) -> int:
                raise OSError(28, "No space left on device")

        screen = Full()
    said(monkeypatch, None, screen)
