"""A whole program in Python's development mode, with each warning an error: nothing is said, and nothing left open."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import tellurio_sync as te
from tellurio_sync.examples.data import load_mails
from tellurio_sync.examples.stand_in import stand_in

mails = load_mails()[:12]
events = []
stop = te.on_event(events.append)
te.login(mode="local", data_dir="data")
with te.init(project_display_name="Warnings", config={"batch": 6}) as run:
    lm = te.CallableModel(stand_in)
    te.set_backward_model_client(lm)
    prompt = te.Parameter("Tell the sentiment. When in doubt, answer neutral.", role="system prompt")
    question = te.Variable("{message}", role="message")
    chat = [{"role": "system", "content": [prompt]}, {"role": "user", "content": [question]}]
    optimizer = te.TGD([prompt], model_client=lm, momentum=1)
    loader = te.DataLoader([(mail.text, mail.sentiment) for mail in mails], batch_size=6)
    for texts, labels in te.progress(loader):
        optimizer.clear_grad()
        answer = te.functional.chat_completion(lm, chat, inputs={"message": texts})
        score, explanation = te.functional.exact_match_evaluator(answer, labels)
        explanation.backward()
        optimizer.step()
        run.log("right", score.data)
    te.save({"prompt": prompt, "optimizer": optimizer.state_dict()}, "checkpoint")
    with te.batch():
        prompt.role = "learnt prompt"
    future = te.default_session().client.submit("get_variable", {"variable_id": prompt.variable_id})
    assert future.result(30)["result"]
    print(len(run.metrics("right")), "steps;", te.default_session().client.stats().errors, "errors")
stop()
te.close()
"""


@pytest.mark.slow
@pytest.mark.parametrize("end", ["", "del run, lm, prompt, optimizer, loader\n", "raise SystemExit(0)\n"])
def test_a_whole_program_in_development_mode_says_nothing(end: str, tmp_path: Path) -> None:
    command = [sys.executable, "-X", "dev", "-W", "error", "-c", PROGRAM + end]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "2 steps; 0 errors\n"


@pytest.mark.slow
def test_a_program_that_closes_nothing_says_nothing_either(tmp_path: Path) -> None:
    """As in a script that just ends: the backend, the connection and the run are closed for it."""
    code = PROGRAM.replace("te.close()\n", "").replace("stop()\n", "")
    command = [sys.executable, "-X", "dev", "-W", "error", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
