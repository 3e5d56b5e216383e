"""A program for afnio three ways: over afnio's client, over ours under it, and with its import lines changed.

``make bench-afnio``: on loopback and over a link of 50 ms, each way in turn, for some rounds; prints medians of the
ratios inside a round.  afnio is in an environment of its own (``--environment``, made on first use).
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import venv
from importlib import metadata
from pathlib import Path
from typing import Any

from tellurio_sync.examples.data import load_mails
from tellurio_sync.examples.facility_support import START_PROMPT
from tellurio_sync.examples.stand_in import stand_in
from tellurio_sync.testing import ScriptedBackend
from tests.interop.moving import DRIVERS, PACKAGE_ROOT, run_natively

AFNIO, UNDER, NATIVE = "afnio", "afnio over tellurio_sync", "natively"
LINKS = {"loopback": 0.0, "link of 50 ms": 0.025}
"""Name to the delay of each direction, in seconds."""
TIMEOUT = 300.0


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.ways", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="rounds on each link (%(default)s)")
    parser.add_argument("--mails", type=int, default=24, metavar="N", help="mails of the epoch (%(default)s)")
    parser.add_argument("--count", type=int, default=50, metavar="N", help="Variables, and functions (%(default)s)")
    parser.add_argument("--environment", type=Path, default=Path(".cache/afnio"), metavar="DIR")
    options = parser.parse_args()
    python = _afnio_python(options.environment)
    for link, delay in LINKS.items():
        rounds = [_round(python, delay, options) for _ in range(options.rounds)]
        print(f"{link}, {options.rounds} rounds: median seconds; ratio to {AFNIO} inside a round")
        for what in ("Variable", "Add", "epoch"):
            cells = []
            for way in (AFNIO, UNDER, NATIVE):
                seconds = statistics.median(each[way][what] for each in rounds)
                ratio = statistics.median(each[way][what] / each[AFNIO][what] for each in rounds)
                cells.append(f"{way} {seconds:.4g} s ({ratio:.2f})")
            print(f"    {what:<10} {' · '.join(cells)}", flush=True)


def _round(python: Path, delay: float, options: argparse.Namespace) -> dict[str, dict[str, float]]:
    return {way: _measured(way, python, delay, options) for way in (AFNIO, UNDER, NATIVE)}


def _measured(way: str, python: Path, delay: float, options: argparse.Namespace) -> dict[str, float]:
    with ScriptedBackend(username="alice", namespaces=["alice"]) as backend, tempfile.TemporaryDirectory() as directory:
        backend.lm.always(stand_in)
        arguments: dict[str, Any] = {
            "namespace": backend.namespace,
            "base_url": backend.lm.base_url,
            "prompt": START_PROMPT,
            "mails": [[mail.text, mail.sentiment] for mail in load_mails()[: options.mails]],
            "batch_size": 8,
            "count": options.count,
        }
        # Metrics and logins cost all ways the same: only the WebSocket goes through the slow link.
        ports = {"TELLURIO_BACKEND_HTTP_PORT": str(backend.direct_port), "TELLURIO_BACKEND_WS_PORT": str(backend.port)}
        with backend.delay(delay):
            if way == NATIVE:
                return run_natively("speed", backend, Path(directory), TIMEOUT, ports, **arguments)  # type: ignore[no-any-return]
            under = ["-m", "tellurio_sync.afnio"] if way == UNDER else []
            done = subprocess.run(
                [str(python), *under, str(DRIVERS / "speed.py"), json.dumps(arguments)],
                env={
                    **backend.environment(),
                    **ports,
                    "HOME": directory,
                    "PATH": "/usr/bin:/bin",
                    "PYTHON_KEYRING_BACKEND": "keyring.backends.fail.Keyring",
                    "PYTHONPATH": str(PACKAGE_ROOT),
                    "NO_PROXY": "127.0.0.1,localhost",
                },
                cwd=directory,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                timeout=TIMEOUT,
            )
    outcome = json.loads(done.stdout)
    if "failed" in outcome:
        raise SystemExit(f"{way}: {outcome['failed']}")
    return outcome["observed"]  # type: ignore[no-any-return]


def _afnio_python(environment: Path) -> Path:
    python = environment / "bin" / "python"
    done = environment / "installed"
    if not done.exists():
        venv.create(environment, with_pip=True, clear=True)
        core = [each for each in metadata.requires("tellurio_sync") or [] if "extra ==" not in each]
        install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*install, "afnio==0.3.7", *core], check=True, timeout=TIMEOUT)
        done.touch()
    return python.absolute()


if __name__ == "__main__":
    sys.exit(main())
