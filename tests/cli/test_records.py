"""The commands that show runs: from a server, from a backend's data while none runs, and from what is kept here."""

from __future__ import annotations

import csv
import io
import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest

import tellurio_sync as te
from tellurio_sync.backend import snapshot

from ..backend.conftest import RunningBackend
from .conftest import Run

Place = list[str]


def log(run: Any) -> None:
    for step in range(30):
        run.log({"loss": 1 / (step + 1), "accuracy": math.nan if step == 3 else step / 30}, step=step)
    run.log("note", {"a": 1}, step=29)


@pytest.fixture(params=["server", "data", "kept"])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """The options that lead to two runs of a project, with a configuration, values and NaN."""
    kind = request.param
    monkeypatch.setenv("TELLURIO_JOURNAL_DIR", str(tmp_path / "journals"))
    config = {"lr": 0.1, "model": "gpt"}
    if kind == "kept":
        with te.Session() as session:
            for name in ("first", "second"):
                with session.init(None, "Mails", name=name, mode="offline", config=config) as run:
                    log(run)
        return ["--kept"]
    backend: RunningBackend = request.getfixturevalue("backend")
    request.getfixturevalue("settings")
    with te.Session() as session:
        session.login()
        for name in ("first", "second"):
            with session.init(None, "Mails", name=name, config=config) as run:
                log(run)
    if kind == "server":
        return ["--project", "Mails"]
    backend.stop()
    for variable in ("TELLURIO_API_KEY", "TELLURIO_BACKEND_HTTP_PORT", "TELLURIO_BACKEND_HTTP_BASE_URL"):
        monkeypatch.delenv(variable)
    return ["--data-dir", str(tmp_path / "data")]


@pytest.mark.usefixtures("settings")
@pytest.mark.parametrize("arguments", [["runs"], ["show", "latest"], ["metrics", "latest"]])
def test_without_the_project_default_it_says_how_to_name_another(arguments: list[str], run: Run) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (1, "")
    assert "There is no project 'Default' in 'local'. Name another one: --project NAME (with `runs`: just NAME)." in err
    assert "Name another one" not in run("runs", "Other")[2]


def test_runs_are_listed_oldest_first(place: Place, run: Run) -> None:
    options = [] if place[0] == "--project" else place
    code, out, err = run("runs", "Mails", *options)
    assert (code, err) == (0, "")
    heads, *lines = out.splitlines()
    assert heads.split() == ["id", "status", "project", "name", "begun"]
    assert [line.split()[1:4] for line in lines] == [["COMPLETED", "Mails", "first"], ["COMPLETED", "Mails", "second"]]

    code, out, _ = run("runs", "Mails", "--json", *options)
    first, second = json.loads(out)
    assert code == 0
    assert (first["name"], second["name"], first["config"]) == ("first", "second", {"lr": 0.1, "model": "gpt"})


def test_a_run_is_shown_by_name_id_or_beginning(place: Place, run: Run) -> None:
    code, out, err = run("show", "latest", *place)
    assert (code, err) == (0, "")
    lines = [line.split() for line in out.splitlines()]
    assert ["run", "second"] in lines
    assert ["status", "COMPLETED"] in lines
    assert ["lr", "0.1"] in lines
    assert next(line for line in lines if line[:1] == ["loss"])[:3] == ["loss", "30", "0.0333333"]
    uuid = next(line[1] for line in lines if line[:1] == ["id"])
    for which in ("second", uuid, uuid[:8]):
        assert run("show", which, *place)[1] == out
    shown = json.loads(run("show", "second", "--json", *place)[1])
    assert shown["metrics"]["loss"] == {"count": 30, "last": 1 / 30}


def test_a_run_that_is_not_there(place: Place, run: Run) -> None:
    for command in ("show", "metrics"):
        code, out, err = run(command, "third", *place)
        assert (code, out) == (1, "")
        assert err == "[tellurio-sync] There is no run 'third'. The latest runs: second, first.\n"


def test_metrics_as_a_table(place: Place, run: Run) -> None:
    code, out, err = run("metrics", "first", "--last", "2", *place)
    assert (code, err) == (0, "")
    lines = [line.split() for line in out.splitlines()]
    assert lines[:3] == [
        ["step", "loss", "accuracy", "note"],
        ["28", "0.0344828", "0.933333"],
        ["29", "0.0333333", "0.966667", '{"a":', "1}"],
    ]
    assert out.splitlines()[3].startswith("[tellurio-sync] the last 2 of 30 steps;")
    code, out, _ = run("metrics", "first", "accuracy", "--all", *place)
    assert len(out.splitlines()) == 31
    assert out.splitlines()[4].split() == ["3", "nan"]


def test_metrics_as_json(place: Place, run: Run) -> None:
    code, out, _ = run("metrics", "first", "accuracy", "--json", *place)
    rows = json.loads(out)
    assert code == 0
    assert rows[3] == {"name": "accuracy", "step": 3, "value": "nan"}
    assert len(rows) == 30


def test_metrics_as_plots_in_the_terminal(place: Place, run: Run) -> None:
    code, out, _ = run("metrics", "first", "loss", "--plot", *place)
    lines = out.splitlines()
    assert code == 0
    assert lines[0] == "loss  (30 values)"
    assert lines[1].startswith("        1 |")
    assert lines[-2].startswith("0.0333333 |")
    assert lines[-1].split() == ["step", "0", "29"]
    assert all(len(line) <= 80 for line in lines)


def test_at_a_narrow_terminal_metrics_are_left_out_and_plots_are_narrower(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TELLURIO_JOURNAL_DIR", str(tmp_path / "journals"))
    with te.Session() as session, session.init(None, "Mails", name="first", mode="offline") as made:
        log(made)
    wide = run("metrics", "first", "--kept")[1].splitlines()
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "24")
    _, out, _ = run("metrics", "first", "--kept")
    assert [line.split()[:3] for line in out.splitlines()[:21]] == [line.split()[:2] for line in wide[:21]]
    assert "and 2 more metrics: accuracy, note" in out
    asked_for = run("metrics", "first", "loss", "accuracy", "--kept")[1].splitlines()
    assert [line.split() for line in asked_for[:21]] == [line.split()[:3] for line in wide[:21]]
    _, out, _ = run("metrics", "first", "loss", "--plot", "--kept")
    assert max(map(len, out.splitlines())) == 24


def test_metrics_as_a_picture(place: Place, run: Run, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is the extra `plot`")
    file = tmp_path / "plot.png"
    code, out, _ = run("metrics", "first", "--png", str(file), *place)
    assert (code, out) == (0, f"[tellurio-sync] Wrote the plot to {file}.\n")
    assert file.read_bytes().startswith(b"\x89PNG")


def test_a_metric_that_is_not_there(place: Place, run: Run) -> None:
    code, out, err = run("metrics", "first", "los", *place)
    assert (code, out) == (1, "")
    assert err == "[tellurio-sync] The run 'first' has no metric 'los'.\n"


def test_export_to_files_and_to_standard_output(place: Place, run: Run, tmp_path: Path) -> None:
    table, lines = tmp_path / "a.csv", tmp_path / "a.jsonl"
    code, out, err = run("export", "first", "--csv", str(table), "--json", str(lines), *place)
    assert (code, err) == (0, "")
    assert out.splitlines() == [f"[tellurio-sync] Wrote 61 values to {file}." for file in (table, lines)]
    with open(table, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 61
    assert rows[0] == {"name": "loss", "step": "0", "value": "1.0"}
    values = [json.loads(line) for line in lines.read_text(encoding="utf-8").splitlines()]
    assert {"name": "accuracy", "step": 3, "value": None, "not_finite": "nan"} in values

    code, out, _ = run("export", "first", "accuracy", "--csv", "-", *place)
    assert code == 0
    assert len(list(csv.reader(io.StringIO(out)))) == 31


def test_export_without_a_file(run: Run) -> None:
    code, _, err = run("export", "first", "--kept")
    assert code == 2
    assert "--csv FILE, or --json FILE" in err


# --- what goes wrong ----------------------------------------------------------------------------


def test_no_data_in_the_folder(run: Run, tmp_path: Path) -> None:
    code, out, err = run("runs", "--data-dir", str(tmp_path))
    assert (code, out) == (1, "")
    assert f"There is no tellurio.sqlite3 in {tmp_path}" in err


def test_data_of_a_later_version(
    backend: RunningBackend, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend.stop()
    monkeypatch.setattr(snapshot, "VERSION", snapshot.VERSION - 1)
    code, _, err = run("runs", "--data-dir", str(tmp_path / "data"))
    assert code == 1
    assert "written by a later version of this package" in err
    assert "Update the package" in err


def test_data_that_is_no_database(run: Run, tmp_path: Path) -> None:
    (tmp_path / snapshot.DATABASE).write_bytes(b"x" * 5000)
    code, _, err = run("runs", "--data-dir", str(tmp_path))
    assert code == 1
    assert "cannot be read: file is not a database" in err


def test_two_places_at_once(run: Run, tmp_path: Path) -> None:
    code, _, err = run("runs", "--kept", "--data-dir", str(tmp_path))
    assert code == 2
    assert "name one of them" in err


def test_several_runs_of_one_name(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TELLURIO_JOURNAL_DIR", str(tmp_path / "journals"))
    with te.Session() as session:
        for _ in range(2):
            session.init(None, "Mails", name="same", mode="offline").finish()
    code, _, err = run("show", "same", "--kept")
    assert code == 1
    ids = [one["uuid"] for one in json.loads(run("runs", "--kept", "--json")[1])]
    assert all(uuid in err for uuid in ids)


def test_names_of_other_people_do_not_move_the_cursor(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TELLURIO_JOURNAL_DIR", str(tmp_path / "journals"))
    with te.Session() as session, session.init(None, "P", name="a\x1b[31mred", mode="offline") as evil:
        evil.log("m\x1b]0;title\x07\r", 1.0)
    for arguments in (["runs"], ["show", "latest"], ["metrics", "latest"], ["metrics", "latest", "--plot"]):
        code, out, _ = run(*arguments, "--kept")
        assert code == 0
        assert out
        assert not set(out) & {"\x1b", "\x07", "\r"}


@pytest.mark.parametrize(
    ("variable", "value", "code", "says"),
    [
        ("TELLURIO_API_KEY", "te-another-key", 4, "due to invalid API key"),
        ("TELLURIO_BACKEND_HTTP_PORT", "1", 5, "could not be reached"),
        ("TELLURIO_BACKEND_HTTP_PORT", "x", 1, "must be a number from 1 to 65535"),
    ],
)
@pytest.mark.usefixtures("settings")
def test_what_a_server_does_not_give_has_an_exit_code(
    variable: str, value: str, code: int, says: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    for arguments in (["runs"], ["whoami"], ["sync"], ["call", "x"]):
        found, out, err = run(*arguments)
        assert (found, out) == (code, "")
        assert says in err
        assert value == "x" or value == "1" or value not in err


@pytest.mark.usefixtures("settings")
def test_without_a_key(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TELLURIO_API_KEY")
    code, out, err = run("runs")
    assert (code, out) == (4, "")
    assert "set TELLURIO_API_KEY, or run `tellurio-sync login`" in err


# --- sync, call, whoami -------------------------------------------------------------------------


def test_what_would_be_sent_is_shown_without_a_server(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TELLURIO_JOURNAL_DIR", str(tmp_path / "journals"))
    with te.Session() as session, session.init(None, "Mails", name="away", mode="offline") as made:
        made.log("loss", 1.0)
    code, out, err = run("sync", "--dry-run")
    assert (code, err) == (0, "")
    assert out.startswith("to send   away of Mails, ")
    (entry,) = json.loads(run("sync", "--dry-run", "--json")[1])
    assert (entry["run"], entry["outcome"], entry["server"]) == ("away", "to send", None)


@pytest.mark.usefixtures("settings")
def test_a_call(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    code, out, err = run("call", "create_variable", '{"data": "hi", "role": "r", "requires_grad": false}')
    assert (code, err) == (0, "")
    assert set(json.loads(out)) == {"message", "variable_id"}
    code, out, err = run("call", "get_variable", '{"variable_id": "x"}', "--timeout", "30")
    assert code == 1
    assert json.loads(out)["error"]["code"] == -32603
    assert err == "[tellurio-sync] get_variable: Variable with variable_id 'x' not found\n"
    monkeypatch.setattr("sys.stdin", io.StringIO('{"variable_id": "y"}'))
    assert "'y' not found" in run("call", "get_variable", "-")[2]
    assert "nonsense" in run("call", "nonsense")[2]


@pytest.mark.parametrize("params", ["{", "[1]", "7"])
def test_a_call_with_parameters_that_are_none(params: str, run: Run) -> None:
    code, out, err = run("call", "m", params)
    assert (code, out) == (2, "")
    assert "JSON" in err


@pytest.mark.usefixtures("settings")
def test_who_is_logged_in(run: Run, backend: RunningBackend) -> None:
    code, out, _ = run("whoami")
    assert code == 0
    assert out.splitlines() == [
        "username   local",
        "email      local@localhost",
        f"server     http://127.0.0.1:{backend.port}",
    ]
    assert json.loads(run("whoami", "--json")[1])["username"] == "local"
