"""What a program shows in a terminal when its run begins and ends."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

if sys.platform == "win32":
    pytest.skip("there are no pseudo-terminals", allow_module_level=True)

from tellurio_sync.journal.folder import RunFolder
from tellurio_sync.studio import sparklines
from tellurio_sync.studio.sparklines import sparkline, summary

from ..screen import Screen

PROGRAM = """
import math
import tellurio_sync as te
te.login(mode="local", ephemeral=True)
run = te.init(project_display_name="P", name="seen\\x1b[2J")
for step in range(200):
    gaps = math.nan if step % 7 else step
    run.log({"loss": 1 / (step + 1), "a/long/name/of/a/metric/in/a/framework/val/epoch": gaps}, step=step)
run.log("evil\\x1b[31mred\\nline", 5.0)
run.log("text", "no curve")
run.finish()
"""
Show = Callable[..., list[str]]


@pytest.fixture
def show(monkeypatch: pytest.MonkeyPatch) -> Iterator[Show]:
    monkeypatch.delenv("TELLURIO_QUIET", raising=False)
    opened: list[Screen] = []

    def run(columns: int) -> list[str]:
        opened.append(Screen(("-c", PROGRAM), columns))
        assert opened[-1].end() == 0, opened[-1].text
        return opened[-1].lines

    yield run
    for screen in opened:
        screen.close()


@pytest.mark.slow
@pytest.mark.parametrize("columns", [100, 60])
def test_an_end_shows_a_line_per_metric_that_fits_and_the_address(columns: int, show: Show) -> None:
    begin, status, loss, long, evil, address = show(columns)
    link = re.fullmatch(r"run seen\?\[2J: (http://127\.0\.0\.1:\d+/local/projects/p/runs/[^/]+/\?token=\w+)", begin)
    assert link is not None, begin
    assert status == "run seen?[2J: COMPLETED"
    assert address == link[1]
    assert max(map(len, (loss, long, evil))) <= columns
    assert re.fullmatch(r"  loss +█[▁▂▃▄▅▆▇]+▁  0\.005", loss)
    name = r"a/long/name/of/a/metric/in/a/framework/val/epoch"
    assert re.fullmatch(rf"  ({name}|a/long\S*…\S*epoch)  [▁▂▃▄▅▆▇█ ]+  nan", long)
    assert re.fullmatch(r"  evil\?\[31(m?r?|…)ed\?line +▁  5", evil)
    widths = {len(line.rsplit("  ", 1)[0]) for line in (loss, long)}
    assert len(widths) == 1, "one below the other"


def test_an_end_does_not_wait_for_the_curves_of_a_huge_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.create({})
    writer = folder.new_writer()
    for step in range(1000):
        writer.number("loss", float(step), step)
    writer.close()
    assert summary(folder.path, 80) == [f"  loss  {sparkline([*map(float, range(1000))])}  999"]
    monkeypatch.setattr(sparklines, "_MOST_BYTES", 11_000)
    assert summary(folder.path, 80) == ["  (too many values to draw here; `tellurio-sync show` draws them)"]
