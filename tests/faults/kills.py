"""Trainings killed at random moments, by ``kill -9``, SIGTERM and ``os._exit``, at a server that fails at random.

What was acknowledged, that is, logged before the end, must be stored once each and in order, after the journals that
the dead processes have left are sent. ``make soak ARGS="--trainings --kills N --seed N"`` runs it.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from tellurio_sync.backend.options import BackendOptions
from tellurio_sync.studio import StudioRest
from tellurio_sync.studio.sync import sync

from ..backend.conftest import KEY, RunningBackend
from ..studio.flaky import FlakyServer

FAILSAFE = 60.0
NAMES = ("loss", "a", "b")

TRAINING = f"""
import os, random, signal, sys
from tellurio_sync.studio import StudioRest, start_run
from tellurio_sync.studio.runs import RunGuard
rest = StudioRest("http://127.0.0.1", int(sys.argv[1]), {KEY!r})
run = start_run(rest, "local", "P")
guard = RunGuard()
guard.watch(run)
run.begin()
done = os.open(sys.argv[2], os.O_WRONLY | os.O_CREAT)
print(run.uuid, flush=True)
steps, step = int(sys.argv[3]), 0
while step != steps:
    run.log("loss", step / 3, step=step)
    run.log({{"a": step, "b": step / 7}}, step=step)
    os.pwrite(done, b"%012d" % step, 0)  # acknowledged
    step += 1
os._exit(3)
"""

Say = Callable[[str], None]


class Kills:
    """So many killed trainings, one after another."""

    def __init__(self, kills: int, seed: int, say: Say = print) -> None:
        self._kills, self._say = kills, say
        self._chance = random.Random(seed)
        self._faults = random.Random(seed + 1)
        self._lock = threading.Lock()
        self.ends: Counter[str] = Counter()
        self.wrong: Counter[str] = Counter({"lost": 0, "doubled": 0, "torn": 0, "status": 0})
        self.values = 0
        say(f"seed {seed}")

    def run(self) -> bool:
        """Whether nothing was lost, doubled or torn."""
        began = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="kills-") as folder:
            os.environ["TELLURIO_JOURNAL_DIR"] = str(Path(folder, "journals"))
            backend = RunningBackend(BackendOptions(api_key=KEY, data_dir=Path(folder, "data")))
            flaky = FlakyServer(backend.port)
            through, direct = (
                StudioRest("http://127.0.0.1", port, KEY, timeout=FAILSAFE) for port in (flaky.port, backend.port)
            )
            try:
                for number in range(self._kills):
                    self._one(Path(folder, f"done-{number}"), flaky, through, direct)
            finally:
                through.close()
                direct.close()
                flaky.close()
                backend.stop()
        ends = ", ".join(f"{count} by {end}" for end, count in sorted(self.ends.items()))
        wrong = ", ".join(f"{count} {what}" for what, count in self.wrong.items())
        self._say(
            f"{self._kills} trainings ended: {ends}; {self.values} values; {wrong}; {time.monotonic() - began:.0f} s"
        )
        return not any(self.wrong.values())

    def _one(self, done: Path, flaky: FlakyServer, through: StudioRest, direct: StudioRest) -> None:
        end = self._chance.choice(["kill -9", "SIGTERM", "os._exit"])
        steps = self._chance.choice([1, 7, 400, 5000]) if end == "os._exit" else -1
        command = [sys.executable, "-c", TRAINING, str(flaky.port), str(done), str(steps)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as training:
            assert training.stdout is not None
            uuid = training.stdout.readline().strip()
            flaky.fail = self._fault
            if end != "os._exit":
                with contextlib.suppress(subprocess.TimeoutExpired):
                    training.wait(self._chance.random() * 0.4)  # at any moment of it
                training.send_signal(signal.SIGKILL if end == "kill -9" else signal.SIGTERM)
            code = training.wait(FAILSAFE)
        assert code == {"kill -9": -signal.SIGKILL, "SIGTERM": -signal.SIGTERM, "os._exit": 3}[end], (end, code)
        flaky.fail = lambda method, path: "ok"
        self.ends[end] += 1
        acknowledged = int(done.read_bytes() or b"-1") + 1 if done.exists() else 0
        for sent in sync(through):
            if sent.outcome != "sent":
                self._found("lost", f"{uuid} after {end}: {sent.why}")
        self._look(uuid, end, acknowledged, direct)

    def _fault(self, method: str, path: str) -> str:
        with self._lock:
            return self._faults.choice(["ok", "ok", "ok", "500", "lose", "refuse"])

    def _look(self, uuid: str, end: str, acknowledged: int, direct: StudioRest) -> None:
        found = direct.list_metrics("local", "p", uuid)
        self.values += len(found)
        whole = {}
        for name, scale in zip(NAMES, (1 / 3, 1, 1 / 7)):
            rows = [(row["step"], row["value"]) for row in found if row["name"] == name]
            counted = Counter(step for step, _ in rows)
            whole[name] = len(rows)
            if lost := set(range(acknowledged)) - counted.keys():
                self._found("lost", f"{uuid} after {end}: {len(lost)} of {acknowledged} {name}, such as {min(lost)}")
            if any(count > 1 for count in counted.values()):
                self._found("doubled", f"{uuid} after {end}: {name} {counted.most_common(3)}")
            in_order = all(one[0] < two[0] for one, two in itertools.pairwise(rows))
            if not in_order or any(abs(value - step * scale) > 1e-9 * (step + 1) for step, value in rows):
                self._found("torn", f"{uuid} after {end}: {name}")
        # At most one record more was written than acknowledged, and each with all that is in it.
        if whole["a"] != whole["b"] or not acknowledged <= whole["a"] <= whole["loss"] <= acknowledged + 1:
            self._found("torn", f"{uuid} after {end}: {acknowledged} acknowledged, {whole}")
        status = next(run["status"] for run in direct.list_runs("local", "p") if run["uuid"] == uuid)
        if end == "SIGTERM" and status != "CRASHED":
            self._found("status", f"{uuid} after {end}: {status}")

    def _found(self, what: str, text: str) -> None:
        self.wrong[what] += 1
        self._say(f"{what.upper()}: {text}")


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=None)
    options = parser.parse_args(arguments)
    seed = random.SystemRandom().randrange(1_000_000) if options.seed is None else options.seed
    sys.exit(0 if Kills(options.kills, seed).run() else 1)
