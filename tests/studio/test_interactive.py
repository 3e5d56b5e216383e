from __future__ import annotations

import io
import sys
from types import SimpleNamespace

import pytest

from tellurio_sync.studio.interactive import at_prompt, can_ask


@pytest.fixture(autouse=True)
def plain_script(monkeypatch):
    monkeypatch.delitem(sys.modules, "IPython", raising=False)
    monkeypatch.delattr(sys, "ps1", raising=False)
    monkeypatch.setattr(sys, "stdin", io.StringIO())


def shell(monkeypatch, **attributes: object) -> None:
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: SimpleNamespace(**attributes)))


def test_a_plain_script():
    assert (at_prompt(), can_ask()) == (False, False)


def test_ipython_is_imported_but_does_not_run(monkeypatch):
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: None))
    assert (at_prompt(), can_ask()) == (False, False)


def test_a_notebook(monkeypatch):
    shell(monkeypatch, kernel=object())
    assert (at_prompt(), can_ask()) == (True, True)


def test_ipython_fed_by_a_pipe(monkeypatch):
    shell(monkeypatch)
    assert (at_prompt(), can_ask()) == (True, False)


def test_the_python_prompt(monkeypatch):
    monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)
    assert at_prompt()


def test_a_terminal(monkeypatch):
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: True))
    assert (at_prompt(), can_ask()) == (False, True)


def test_no_standard_input(monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)
    assert not can_ask()
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(sys, "stdin", closed)
    assert not can_ask()
