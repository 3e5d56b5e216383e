"""A version of a prompt stands behind what was logged before the step that made it, however fast the loop is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tellurio_sync as te
from tellurio_sync.backend.snapshot import records_of
from tellurio_sync.studio import Run


def places(tmp_path: Path, run: Run) -> list[int]:
    """How many values there were before each version of the run's only parameter but the first."""
    with records_of(tmp_path / "data") as records:
        rows = records.read(
            "SELECT value_count FROM causes JOIN parameters ON parameter = number WHERE run_uuid = ? AND version > 1"
            " ORDER BY version",
            run.uuid,
        )
    return [row["value_count"] for row in rows]


def test_a_version_stands_behind_what_was_logged_before_its_step(session: te.Session, tmp_path: Path) -> None:
    count = iter(range(100))

    def model(messages: list[dict[str, Any]], **options: object) -> str:
        return f"<IMPROVED>Answer {next(count)}.</IMPROVED>"

    lm = te.CallableModel(model)
    te.set_backward_model_client(lm)
    with session.init(None, "Marks") as run:
        prompt = te.Parameter("Answer.", role="system prompt")
        optimizer = te.TGD([prompt], model_client=lm)
        for step in range(6):
            if step == 4:
                # From here on each step sends all it needs: another method of the wire.
                optimizer.param_groups[0]["constraints"] = ["Be brief."]
            run.log("loss", float(step), step=step)
            run.log({"accuracy": 0.5, "cost": 1.0}, step=step)
            optimizer.clear_grad()
            output = te.functional.add(prompt, te.Variable(" Now.", role="ending"))
            output.backward(te.Variable("Be polite.", role="feedback"))
            optimizer.step()
        assert run.flush()
        assert places(tmp_path, run) == [3, 6, 9, 12, 15, 18]


def test_without_a_value_there_is_nothing_to_stand_behind(session: te.Session, tmp_path: Path) -> None:
    lm = te.CallableModel(lambda messages, **options: "<IMPROVED>Better.</IMPROVED>")
    te.set_backward_model_client(lm)
    with session.init(None, "Marks") as run:
        prompt = te.Parameter("Answer.", role="system prompt")
        optimizer = te.TGD([prompt], model_client=lm)
        te.functional.add(prompt, te.Variable(" Now.", role="ending")).backward(te.Variable("Be.", role="feedback"))
        optimizer.step()
        assert places(tmp_path, run) == [0]
