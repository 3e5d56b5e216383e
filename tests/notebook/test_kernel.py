"""In a real kernel: interrupts in each part of a batch, a restart, and outputs without a stray line."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import tellurio_sync

from ..conftest import FAILSAFE

pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")

ROOT = Path(tellurio_sync.__file__).parents[1]

LOGIN = """%load_ext tellurio_sync
import tellurio_sync as te
te.login(mode="local")
run = te.init(project_display_name="Kernel", name="first kernel")"""

BATCH = """
import os, signal, threading
stop_in, go_on = [], threading.Event()
def model(messages, **options):
    first = messages[0]["content"]
    in_backward = "pass feedback" in first or "critic" in first
    part = "step" if "the optimizer" in first else "backward" if in_backward else "forward"
    try:
        stop_in.remove(part)  # one interrupt, though several questions are asked at once
    except ValueError:
        pass
    else:
        os.kill(os.getpid(), signal.SIGINT)
        go_on.wait(20)
    return {"step": f"<IMPROVED>version {len(messages[-1]['content'])}</IMPROVED>",
            "backward": '{"variable_1": "Be brief."}', "forward": "answer"}[part]
lm = te.CallableModel(model)
te.set_backward_model_client(lm)
prompt = te.Parameter("Answer.", role="system prompt")
chat = [{"role": "system", "content": [prompt]}, {"role": "user", "content": [te.Variable("{q}", role="question")]}]
optimizer = te.TGD([prompt], model_client=lm, momentum=2)
def batch():
    optimizer.clear_grad()
    answer = te.functional.chat_completion(lm, chat, inputs={"q": ["a", "b"]})
    te.functional.exact_match_evaluator(answer, ["x", "y"])[1].backward(feedback="critic")
    optimizer.step()
batch()
print(prompt.data.startswith("version"))"""


TOGETHER = """%load_ext autoreload
%autoreload 2
%load_ext tellurio_sync
import time
import tellurio_sync as te
te.login(mode="local")
run = te.init(project_display_name="Together", name=MINE)
def names(): return {one.name for one in te.runs(project_display_name="Together")}
end = time.monotonic() + 60
while OTHER not in names(): assert time.monotonic() < end, "the other notebook did not come"
"""


def outputs_of(cells: list[str]) -> list[list[dict[str, Any]]]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.notebook.run_cells"],
        input=json.dumps(cells),
        capture_output=True,
        text=True,
        timeout=FAILSAFE * 4,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    outputs: list[list[dict[str, Any]]] = json.loads(done.stdout)
    return outputs


def text_of(outputs: list[dict[str, Any]]) -> str:
    return "".join(output.get("text", "") or "\n".join(output.get("traceback", [])) for output in outputs)


@pytest.fixture(autouse=True)
def loud(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TELLURIO_QUIET")


@pytest.mark.slow
def test_interrupts_in_each_part_of_a_batch_and_then_it_goes_on() -> None:
    cells = [LOGIN, BATCH]
    for part in ("forward", "backward", "step"):
        cells += [
            f"stop_in.append({part!r})\nbatch()",
            "go_on.set()\nbatch()\nbatch()\ngo_on.clear()\nprint('on')",
        ]
    cells += ["prompt", "run.log('right', 1)\nrun", "%tellurio status", "run.finish()"]
    login, first, *parts, variable, run, status, end = outputs_of(cells)
    assert re.fullmatch(
        r"run first kernel: http://127\.0\.0\.1:\d+/\S+/runs/first-kernel/ \(run\.open\(\) opens it\)\n", text_of(login)
    )
    assert text_of(first) == "True\n"
    for interrupted, goes_on in zip(parts[::2], parts[1::2]):
        assert [output.get("ename") for output in interrupted] == ["KeyboardInterrupt"], interrupted
        assert "tellurio_sync/" not in text_of(interrupted)
        assert text_of(goes_on) == "on\n"
    assert "text/html" in variable[0]["data"]
    assert "<svg" in run[0]["data"]["text/html"]
    assert "/runs/first-kernel/" in run[0]["data"]["text/html"]
    assert re.search(r"page +http://\S+/ \(%tellurio open opens it\)\n", text_of(status))
    assert "token=" not in json.dumps([login, *parts, variable, run, status])  # a notebook is kept, and published
    assert end == []


@pytest.mark.slow
def test_after_a_restart_the_runs_of_the_former_kernel_are_there() -> None:
    outputs_of([LOGIN, "run.log('loss', 0.5)\nrun.finish()"])
    again = outputs_of(
        [LOGIN, "print([(one.name, one.metrics('loss')) for one in te.runs(project_display_name='Kernel')][0])"]
    )
    assert text_of(again[1]) == "('first kernel', [{'name': 'loss', 'step': 0, 'value': 0.5}])\n"


STILL = "print([one.status.value for one in te.runs(project_display_name='Kernel') if one.uuid == run.uuid])"
INTERRUPT = "import os, signal, threading\nos.kill(os.getpid(), signal.SIGINT)\nthreading.Event().wait(20)"
ENDINGS = {
    "raises": ([INTERRUPT, "raise ValueError('the data are odd')"], "CRASHED", "ValueError: the data are odd"),
    "goes on": ([INTERRUPT, STILL, "run.log('loss', 0.25)"], "COMPLETED", None),
}


@pytest.mark.slow
def test_a_kernel_whose_last_cell_failed_has_crashed_and_its_values_are_kept(tmp_path: Path) -> None:
    """Not before the kernel ends: a user who mends the cell goes on with the same run."""
    data = str(tmp_path / "data")

    def train(name: str) -> list[list[dict[str, Any]]]:
        login = LOGIN.replace('"local"', f'"local", data_dir={data!r}').replace("first kernel", name)
        return outputs_of([login, "run.log('loss', 0.5)\nrun.log('loss', 0.75)", *ENDINGS[name][0]])

    def shown(name: str) -> dict[str, Any]:
        command = [sys.executable, "-m", "tellurio_sync", "show", name, "--json", "--data-dir", data]
        found: dict[str, Any] = json.loads(subprocess.check_output(command, timeout=FAILSAFE))
        return found

    with ThreadPoolExecutor(len(ENDINGS)) as pool:
        outputs = dict(zip(ENDINGS, pool.map(train, ENDINGS)))
        found = dict(zip(ENDINGS, pool.map(shown, ENDINGS)))
    assert text_of(outputs["goes on"][3]) == "['RUNNING']\n"
    for name, (_, status, reason) in ENDINGS.items():
        assert (found[name]["status"], found[name]["reason"]) == (status, reason), name
        assert found[name]["metrics"]["loss"]["count"] == (3 if name == "goes on" else 2)


@pytest.mark.slow
def test_two_notebooks_at_once_on_the_same_data_with_autoreload(tmp_path: Path) -> None:
    """Each sees the run of the other while both are open, and finishes a batch; a module of the user is reloaded."""

    def cells(mine: str, other: str) -> list[str]:
        own = tmp_path / mine / "mine.py"
        own.parent.mkdir()
        own.write_text("ANSWER = 'one'\n", encoding="utf-8")
        return [
            f"MINE, OTHER = {mine!r}, {other!r}",
            TOGETHER,
            f"import sys; sys.path.insert(0, {str(own.parent)!r})\nimport mine\nprint(mine.ANSWER)",
            f"n = open({str(own)!r}, 'w').write('ANSWER = \"another\"\\n')",
            "print(mine.ANSWER)",
            BATCH,
            "batch()\nrun.log('right', 1)\nprint(sorted(run.metrics('right')[0].items()))",
            "run.finish()",
        ]

    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(outputs_of, [cells("left", "right"), cells("right", "left")]))
    for _, login, first, changed, second, batch, logged, end in both:
        assert re.fullmatch(r"run (left|right): http://\S+ \(run\.open\(\) opens it\)\n", text_of(login)), login
        assert (text_of(first), changed, text_of(second)) == ("one\n", [], "another\n")
        assert text_of(batch) == "True\n"
        assert text_of(logged) == "[('name', 'right'), ('step', 0), ('value', 1)]\n"
        assert end == []
