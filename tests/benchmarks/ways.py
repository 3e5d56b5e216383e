"""A program for afnio three ways: over afnio's client, over ours under it, and with its import lines changed.

``make bench-afnio``: on loopback and over a link of 50 ms, each way in turn, for some rounds; prints medians of the
ratios inside a round, of the time and of the program's processor time.  The backend is the local
one.  afnio is in the environment of ``make bench``, made on first use.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tellurio_sync.examples.data import load_mails
from tellurio_sync.examples.facility_support import START_PROMPT
from tellurio_sync.examples.stand_in import stand_in
from tellurio_sync.testing import ScriptedBackend
from tests.benchmarks.processes import afnio_python
from tests.interop.moving import DRIVERS, PACKAGE_ROOT, run_natively

AFNIO, UNDER, NATIVE = "afnio", "afnio over tellurio_sync", "natively"
LINKS = {"loopback": 0.0, "link of 50 ms": 0.025}
"""Name to the delay of each direction, in seconds."""
TIMEOUT = 300.0


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.ways", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="rounds on each link (%(default)s)")
    parser.add_argument("--mails", type=int, default=24, metavar="N", help="mails of the epoch (%(default)s)")
    parser.add_argument(
        "--count",
        type=int,
        default=300,
        metavar="N",
        help="Variables, and functions with a gradient, on loopback; over the link a tenth of it (%(default)s)",
    )
    parser.add_argument("--only", choices=LINKS, help="one of the links")
    options = parser.parse_args()
    python = Path(afnio_python(may_install=True)).absolute()
    for link, delay in LINKS.items():
        if options.only not in (None, link):
            continue
        count = max(1, options.count // 10) if delay else options.count
        rounds = [
            {way: _measured(way, python, delay, count, options.mails) for way in (AFNIO, UNDER, NATIVE)}
            for _ in range(options.rounds)
        ]
        print(f"{link}, {options.rounds} rounds: medians; in brackets the ratio to {AFNIO} inside a round")
        for what in ("Variable", "Add", "epoch"):
            for kind in ("time", "CPU"):
                cells = []
                for way in (AFNIO, UNDER, NATIVE):
                    number = statistics.median(each[way][what][kind] for each in rounds) * 1e3
                    ratio = statistics.median(each[way][what][kind] / each[AFNIO][what][kind] for each in rounds)
                    cells.append(f"{way} {number:.4g} ms ({ratio:.2f})")
                print(f"    {what + ', ' + kind:<16} {' · '.join(cells)}", flush=True)


def _measured(way: str, python: Path, delay: float, count: int, mails: int) -> dict[str, dict[str, float]]:
    with ScriptedBackend(username="alice", namespaces=["alice"]) as backend, tempfile.TemporaryDirectory() as directory:
        backend.lm.always(stand_in)
        arguments: dict[str, Any] = {
            "namespace": backend.namespace,
            "base_url": backend.lm.base_url,
            "prompt": START_PROMPT,
            "mails": [[mail.text, mail.sentiment] for mail in load_mails()[:mails]],
            "batch_size": 8,
            "count": count,
        }
        # Metrics and logins cost all ways the same: only the WebSocket goes through the slow link.
        port = backend.port if delay else backend.direct_port
        ports = {"TELLURIO_BACKEND_HTTP_PORT": str(backend.direct_port), "TELLURIO_BACKEND_WS_PORT": str(port)}
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


if __name__ == "__main__":
    sys.exit(main())
