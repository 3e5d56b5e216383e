"""What a type checker says of a user's program: nothing of a right one, and each mistake where it is written."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

RIGHT = """
import tellurio_sync as te

prompt = te.Parameter("Answer.", role="system prompt")
question = te.Variable("{mail}", role="mail")
lm = te.CallableModel(lambda messages, **options: "lamp")
chat = [{"role": "system", "content": [prompt]}, {"role": "user", "content": [question]}]
answer = te.functional.chat_completion(lm, chat, inputs={"mail": ["one", "two"]}, temperature=0)
typed: list[te.Message] = [{"role": "user", "content": [question]}]
named: te.MultiTurnMessages = typed
te.functional.chat_completion(lm, named, on_error="skip")
te.functional.chat_completion(lm, [{"role": "user", "content": [question]}])
score, explanation = te.functional.exact_match_evaluator(answer, ["lamp", "leak"])
explanation.backward(feedback="batch_critic")
optimizer = te.TGD([prompt], model_client=lm, messages=typed, accept="batch", momentum=2)
stop = te.on_event(lambda event: print(event.kind, event.seconds))
with te.init(project_display_name="Types", mode="local") as run:
    run.log("right", score.data)
session: te.Session = te.default_session()
latency = session.client.stats().latency
print(latency.p99 if latency else None, session.client.recent()[-1:])
"""

WRONG = [
    'te.login(mode="ofline")',
    'typed_1: list[te.Message] = [{"role": "sys", "content": [prompt]}]',
    'typed_2: list[te.Message] = [{"role": "user", "content": "text"}]',
    'typed_3: list[te.Message] = [{"role": "user", "contents": [prompt]}]',
    'te.backward(prompt, feedback="praise")',
    'te.TGD([prompt], lm, accept="all")',
    'te.functional.chat_completion(lm, [{"role": "user", "content": [prompt]}], on_error="ignore")',
    'te.on_event("print")',
]


@pytest.mark.slow
def test_a_type_checker_finds_the_mistakes_of_a_program_and_nothing_else(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(RIGHT + "\n".join(WRONG) + "\n", encoding="utf-8")
    first = len(RIGHT.splitlines()) + 1
    command = [sys.executable, "-m", "mypy", "--strict", "--no-pretty", "--follow-imports=silent", str(program)]
    environment = {**os.environ, "MYPYPATH": str(ROOT)}  # mypy does not look into editable installations
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, cwd=tmp_path, env=environment)
    lines = {int(line) for line in re.findall(r"program\.py:(\d+): error", done.stdout)}
    assert lines == set(range(first, first + len(WRONG))), done.stdout + done.stderr
