"""``make bench-questions``: how many questions trainings ask, here and with textgrad and gepa, for which accuracy.

The model is scripted and learns only from what it is shown (``learning_model.py`` has its rules), so the table is the
same each time: it counts, and does not measure time.  All get the same mails, the same batches in the same order, and
the same words about a wrong answer.  The peers come from the package index, each into an environment of its own, once.

Bounded: SEEDS trainings of each way, of EPOCHS passes over half of the mails, in batches of ten.  "step" counts the
questions of training steps, by kind; "validation" those that looked how good a prompt was; "until best": all questions
until the best accuracy on the validation mails was reached for the first time; "test": the accuracy of that prompt on
mails that were not used before, mean and range over the seeds.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

from tellurio_sync.examples.data import SHIPPED_MAILS, load_mails, shuffled_batches, split_mails
from tellurio_sync.examples.facility_support import START_PROMPT

from .learning_model import Endpoint

WORKER = Path(__file__).with_name("learning_worker.py")
HERE = {"records": "tellurio_sync", "accept": '  accept="batch"', "critic": '  feedback="critic"'}
PEERS = ("textgrad", "gepa")
BATCH = 10
KINDS = ("forward", "critic", "propagator", "optimizer")


class Row(NamedTuple):
    """One training."""

    steps: int
    questions: dict[str, int]
    words: int
    validation: int
    until_best: int
    best: float
    test: float


def environment(name: str, cache: Path) -> Path:
    """The interpreter of an environment that holds this peer; made at the first use."""
    python = cache / name / "bin" / "python"
    if not (cache / name / "ready").exists():
        subprocess.run([sys.executable, "-m", "venv", str(cache / name)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", name], check=True)
        (cache / name / "ready").touch()
    return python


def task(mails: Path, seed: int, epochs: int) -> dict[str, Any]:
    """What one training gets."""
    split = split_mails(load_mails(mails), seed)
    place = {id(mail): index for index, mail in enumerate(split.train)}
    dice, batches = random.Random(seed), []
    for _ in range(epochs):
        batches += [[place[id(mail)] for mail in batch] for batch in shuffled_batches(split.train, BATCH, dice)]
    lists = {name: [[mail.text, mail.sentiment] for mail in getattr(split, name)] for name in split._fields}
    return {"prompt": START_PROMPT, "batches": batches, "epoch": len(batches) // epochs, **lists}


def train(way: str, python: Path, given: dict[str, Any], timeout: float) -> Row:
    """One training, in a process of its own.

    Raises:
        RuntimeError: it did not end well; the text has the last line that it said.
    """
    with Endpoint() as endpoint, tempfile.TemporaryDirectory(prefix="bench-questions-") as folder:
        file = Path(folder) / "task.json"
        file.write_text(json.dumps({**given, "url": endpoint.url}), encoding="utf-8")
        plain = {name: value for name, value in os.environ.items() if not name.startswith(("TELLURIO_", "OPENAI_"))}
        env = {**plain, "HOME": folder, "NO_PROXY": "127.0.0.1", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
        command = [str(python), str(WORKER), way, str(file)]
        done = subprocess.run(
            command, env=env, cwd=folder, capture_output=True, text=True, timeout=timeout, check=False
        )
        results = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
        if not results:
            raise RuntimeError((done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1][:200])
        found = json.loads(results[0].removeprefix("RESULT "))
        curve = found["curve"]
        best = max(accuracy for _, accuracy in curve)
        return Row(
            len(given["batches"]),
            {kind: endpoint.questions["step", kind] for kind in KINDS},
            endpoint.words["step"],
            sum(count for (phase, _), count in endpoint.questions.items() if phase == "validation"),
            next(total for total, accuracy in curve if accuracy == best),
            best,
            found["test"],
        )


def line(name: str, rows: list[Row]) -> str:
    """One row of the table: means over the trainings."""
    steps = sum(row.steps for row in rows)
    by_kind = [sum(row.questions[kind] for row in rows) / steps for kind in KINDS]
    tests = [row.test for row in rows]
    return (
        f"{name:<20} {sum(by_kind):>6.1f} "
        + " ".join(f"{count:>7.1f}" for count in by_kind)
        + f" {sum(row.words for row in rows) / steps:>7.0f} {mean(row.validation for row in rows):>10.0f}"
        + f" {mean(row.until_best for row in rows):>10.0f} {mean(row.best for row in rows):>6.1%}"
        + f" {mean(tests):>6.1%} ({min(tests):.0%} to {max(tests):.0%})"
    )


def main() -> int:
    """Print the table; the exit code is 1 where one of this package's own rows is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=SHIPPED_MAILS, help="mails, in the format of the demo")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--only", action="append", choices=[*HERE, *PEERS], help="this way; may be given several times")
    parser.add_argument("--timeout", type=float, default=300.0, help="seconds for one training")
    parser.add_argument("--cache", type=Path, default=Path(".cache/bench-questions"))
    args = parser.parse_args()
    tasks = [task(args.data, seed, args.epochs) for seed in range(args.seeds)]
    one = tasks[0]
    print(
        f"{len(one['train'])} mails to train, {len(one['validation'])} to validate, {len(one['test'])} to test; "
        f"{len(one['batches'])} steps of {BATCH}, {args.seeds} seeds. Questions and words of one step:"
    )
    heads = " ".join(f"{kind[:7]:>7}" for kind in KINDS)
    print(f"{'':<20} {'all':>6} {heads} {'words':>7} {'validation':>10} {'until best':>10} {'best':>6} {'test':>6}")
    failed = 0
    for way in (*HERE, *PEERS):
        if args.only and way not in args.only:
            continue
        try:
            python = Path(sys.executable) if way in HERE else environment(way, args.cache.absolute())
            rows = [train(way, python, given, args.timeout) for given in tasks]
        except (RuntimeError, subprocess.SubprocessError) as exc:
            failed |= way in HERE
            print(f"{way:<20} {exc}")
            continue
        print(line(HERE.get(way, way), rows), flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main())
