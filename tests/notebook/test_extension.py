"""``%load_ext tellurio_sync`` in a shell of IPython: the magic, and tracebacks that end in a line of the user."""

from __future__ import annotations

import atexit
import re
import sys
from collections.abc import Iterator
from typing import Any

import pytest

import tellurio_sync as te
from tellurio_sync import console, notebook
from tellurio_sync.errors import UsageError

pytest.importorskip("IPython")


@pytest.fixture(scope="module")
def plain_shell() -> Iterator[Any]:
    from IPython.core.interactiveshell import InteractiveShell
    from traitlets.config import Config

    config = Config()
    config.HistoryManager.enabled = False
    with pytest.MonkeyPatch.context() as patch:
        for name in ("displayhook", "excepthook"):
            patch.setattr(sys, name, getattr(sys, name))
        made = InteractiveShell(config=config)
        yield made
        made.atexit_operations()
        atexit.unregister(made.atexit_operations)


@pytest.fixture
def shell(plain_shell: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setattr(console, "_is_quiet", None)
    plain_shell.run_line_magic("load_ext", "tellurio_sync")
    yield plain_shell
    plain_shell.run_line_magic("unload_ext", "tellurio_sync")
    for name in ("last_type", "last_value", "last_traceback", "last_exc"):
        if hasattr(sys, name):
            delattr(sys, name)


def shown(shell: Any, code: str, capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    shell.run_cell(code)
    return re.sub(r"\x1b\[[\d;]*m", "", capsys.readouterr().out)


def test_a_traceback_has_no_frames_of_the_package(
    shell: Any, session: te.Session, capsys: pytest.CaptureFixture[str]
) -> None:
    text = shown(shell, "import tellurio_sync as te\ndef mine():\n    te.Variable({})\nmine()", capsys)
    assert "te.Variable({})" in text
    assert "tellurio_sync/" not in text
    assert text.rstrip().splitlines()[-1].startswith("TypeError")
    full = shown(shell, "%tellurio traceback", capsys)
    assert "tellurio_sync/model/variable.py" in full


def test_the_cause_of_an_error_is_folded_to_the_line_of_the_user(
    shell: Any, session: te.Session, capsys: pytest.CaptureFixture[str]
) -> None:
    code = """
import tellurio_sync as te
def judge(answer, target):
    return answer["a"]
te.functional.deterministic_evaluator(te.Variable("x"), te.Variable("y"), judge, "a judge")
"""
    text = shown(shell, code, capsys)
    assert 'return answer["a"]' in text
    assert "tellurio_sync/" not in text


def test_an_error_that_has_nothing_to_do_with_the_package_is_shown_as_before(
    shell: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    text = shown(shell, "import json\njson.loads('{')", capsys)
    assert "json/decoder.py" in text
    assert "JSONDecodeError" in text


def test_the_tracebacks_of_the_exceptions_themselves_stay_whole(shell: Any, session: te.Session) -> None:
    result = shell.run_cell("import tellurio_sync as te\nte.Variable({})")
    frames, files = result.error_in_exec.__traceback__, []
    while frames is not None:
        files.append(frames.tb_frame.f_code.co_filename)
        frames = frames.tb_next
    assert any("tellurio_sync" in file for file in files)
    assert sys.last_traceback is not None


def test_a_traceback_of_the_package_alone_is_kept() -> None:
    with pytest.raises(UsageError) as raised:
        notebook.magic("nonsense")
    whole = raised.value.__traceback__
    assert whole is not None
    assert notebook.folded(whole.tb_next) is whole.tb_next
    folded = notebook.folded(whole)
    assert folded is not None
    assert folded.tb_next is None
    assert notebook.folded(None) is None


def test_status_tells_what_there_is(session: te.Session, monkeypatch: pytest.MonkeyPatch) -> None:
    te.CallableModel(lambda messages, **options: "")
    model = te.CallableModel(lambda messages, **options: "")
    text = notebook.status()
    assert re.search(r"^server +ws://127\.0\.0\.1:\d+/\S*, open$", text, re.MULTILINE)
    assert re.search(r"^waiting +0 calls$", text, re.MULTILINE)
    assert text.count("CallableModel: 0 tokens, $0.0000") == 1
    del model
    te.set_active_run(None)
    assert "te.init(...) starts one" in notebook.status()


def test_status_before_a_login_says_how(make_session: Any) -> None:
    with make_session().use():
        assert 'te.login(mode="local")' in notebook.status()


def test_the_magic(shell: Any, session: te.Session, capsys: pytest.CaptureFixture[str]) -> None:
    assert "server " in shown(shell, "%tellurio", capsys)
    assert "%tellurio traceback" in shown(shell, "%tellurio help", capsys)
    assert "There is no %tellurio statsu" in shown(shell, "%tellurio statsu", capsys)
    shown(shell, "%tellurio quiet", capsys)
    assert console.is_quiet()
    shown(shell, "%tellurio loud", capsys)
    assert not console.is_quiet()


def test_there_was_no_error(shell: Any, capsys: pytest.CaptureFixture[str]) -> None:
    if hasattr(sys, "last_value"):
        del sys.last_value
    assert shown(shell, "%tellurio traceback", capsys) == "There was no error.\n"


def test_the_handler_of_somebody_else_stays(shell: Any) -> None:
    shell.run_line_magic("unload_ext", "tellurio_sync")
    assert shell.custom_exceptions == ()

    def theirs(*arguments: object) -> None:
        """Theirs."""

    shell.set_custom_exc((ValueError,), theirs)
    shell.run_line_magic("load_ext", "tellurio_sync")
    shell.run_line_magic("unload_ext", "tellurio_sync")
    assert shell.custom_exceptions == (ValueError,)
    shell.set_custom_exc((), None)
    shell.run_line_magic("load_ext", "tellurio_sync")
