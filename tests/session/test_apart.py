"""Two sessions at one backend, and sessions in processes of their own: what is whose."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

import tellurio_sync as te
from tellurio_sync.session.restore import Restored

from ..backend.conftest import RunningBackend
from ..backend.lm_endpoint import LmEndpoint
from ..backend_process import KEY as PROCESS_KEY
from ..backend_process import BackendProcess, Cable
from ..conftest import FAILSAFE
from .conftest import KEY, MakeSession

PROGRAM = """
import sys
import tellurio_sync as te

own, port, key = sys.argv[1], int(sys.argv[2]), sys.argv[3]
session = te.Session(http_base_url="http://127.0.0.1", http_port=port, ws_base_url="ws://127.0.0.1", ws_port=port)
session.login(key)
seen = set()

def answer(messages, **arguments):
    text = " ".join(message["content"] for message in messages)
    seen.update(name for name in ("job-%d" % i for i in range(8)) if name + "." in text)
    if "pass feedback back" in messages[0]["content"]:
        return '{"variable_1": "of %s."}' % own
    if "optimizer" in messages[0]["content"].splitlines()[0]:
        return "<IMPROVED>%s. improved</IMPROVED>" % own
    return "answer of %s." % own

with session.use(), session.init(None, "Sweep"):
    model = te.CallableModel(answer)
    te.set_backward_model_client(model)
    prompt = te.Parameter(own + ". at first", role="prompt")
    optimizer = te.TGD([prompt], model_client=model)
    for step in range(5):
        output = te.functional.chat_completion(model, [{"role": "system", "content": [prompt]}], inputs={})
        output.backward(te.Variable("bad, " + own + ".", role="feedback"), feedback="critic")
        assert [gradient.data for gradient in prompt.grad] == ["of %s." % own], [g.data for g in prompt.grad]
        optimizer.step()
        optimizer.clear_grad()
        assert prompt.data == own + ". improved", prompt.data
assert seen == {own}, seen
session.close()
print("right")
"""


def feedback(session: te.Session, says: str) -> list[str]:
    """The gradient of a prompt, after this session has named its backward model."""
    with session.use():
        prompt = te.Parameter("p", role="system prompt")
        model = te.CallableModel(answering(says))
        if session.registries.backward_model is None:
            te.set_backward_model_client(model)
        output = te.functional.chat_completion(model, [{"role": "system", "content": [prompt]}], inputs={})
        output.backward(te.Variable("bad", role="feedback"), feedback="critic")
        return [gradient.data for gradient in prompt.grad]


def answering(says: str) -> Any:
    return lambda messages, **arguments: (
        f'{{"variable_1": "{says}"}}' if "pass feedback back" in messages[0]["content"] else "answer"
    )


class TestTwoSessions:
    def test_each_has_its_own_backward_model(self, make_session: MakeSession) -> None:
        one, two = make_session(), make_session()
        for session in (one, two):
            session.login(KEY)
            session.init(None, "Apart")
        told = [feedback(one, "one"), feedback(two, "two"), feedback(one, "not asked"), feedback(two, "not asked")]
        assert told == [["one"], ["two"], ["one"], ["two"]]

    def test_it_is_still_there_after_a_reconnect(self, make_session: MakeSession, backend: RunningBackend) -> None:
        restored: list[Restored] = []
        done = threading.Event()

        def on_restored(report: Restored) -> None:
            restored.append(report)
            done.set()

        with Cable(backend.port) as cable:
            session = make_session(ws_port=cable.port, on_restored=on_restored)
            session_id = session.login(KEY)["session_id"]
            other = make_session()
            other.login(KEY)
            with other.use(), other.init(None, "Apart"):
                assert feedback(other, "other") == ["other"]
            with session.use(), session.init(None, "Apart"):
                prompt = te.Parameter("p", role="prompt")
                assert feedback(session, "own") == ["own"]
                joined = prompt + te.Variable("x", role="rest")
                cable.cut()
                assert done.wait(FAILSAFE)
                assert feedback(session, "not asked") == ["own"]
                # Not made again: the session has gone on, so even what was computed is there.
                joined.backward(te.Variable("bad", role="feedback"), feedback="critic")
                assert len(prompt.grad) == 1
            session.close()
        assert (restored[0].session_id, restored[0].renewed, restored[0].lost) == (session_id, (), ())

    def test_what_was_computed_outlives_a_second_login(self, make_session: MakeSession) -> None:
        session = make_session()
        first = session.login(KEY)
        with session.use(), session.init(None, "Again"):
            prompt = te.Parameter("p", role="prompt")
            joined = prompt + te.Variable("x", role="rest")
            assert session.login(KEY) == first
            joined.backward(te.Variable("bad", role="feedback"), feedback="critic")
            assert len(prompt.grad) == 1


@pytest.mark.slow
def test_a_sweep_of_eight_processes_does_not_cross(tmp_path: Path) -> None:
    """Each with its own function as language model: what one of them is asked must never be another's business."""
    with BackendProcess(tmp_path) as backend:
        processes = [
            subprocess.Popen(
                [sys.executable, "-W", "error", "-c", PROGRAM, f"job-{i}", str(backend.port), PROCESS_KEY],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env={**os.environ, "PYTHONPATH": str(Path(te.__file__).parents[1])},
            )
            for i in range(8)
        ]
        try:
            outcomes = [process.communicate(timeout=120) for process in processes]
        finally:
            for process in processes:
                process.kill()
    assert outcomes == [("right\n", "")] * 8


def test_each_session_asks_where_its_own_environment_says(
    make_session: MakeSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two programs, say, with a ``.env`` file each, at the backend that the first one has started."""
    with LmEndpoint(lambda request: "of one") as one, LmEndpoint(lambda request: "of two") as two:
        answers = {}
        for name, endpoint in (("one", one), ("two", two), ("one again", one)):
            session = make_session()
            session.login(KEY)
            monkeypatch.setenv("OPENAI_BASE_URL", endpoint.url)
            monkeypatch.setenv("OPENAI_API_KEY", f"sk-of-{name.split()[0]}")
            with session.use(), session.init(None, "Apart"):
                lm = te.OpenAI()
                chat = [{"role": "user", "content": [te.Variable("Hello", role="question")]}]
                answers[name] = te.functional.chat_completion(lm, chat, inputs={}, model="m").data
        assert answers == {"one": "of one", "two": "of two", "one again": "of one"}
        assert {sent["authorization"] for sent in one.headers} == {"Bearer sk-of-one"}
        assert {sent["authorization"] for sent in two.headers} == {"Bearer sk-of-two"}
