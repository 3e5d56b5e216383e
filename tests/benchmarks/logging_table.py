"""``make bench-log``: the cost of logging beside the trackers that people know, each in an environment of its own.

Bounded: VALUES single values and as many in records of twenty, one round per tracker, each ended after ``--timeout``
seconds (the first time also ten minutes to install each). Then ``--million`` values from ``log`` into the backend's
database; then how long a new program takes to its first log at a local backend that it starts, beside what loading the
backend's web framework takes. The figures are of the machine as it is: look at ratios, and run it where nothing else
runs.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

WORKER = Path(__file__).with_name("log_worker.py")
PEERS = {"trackio": "trackio", "wandb": "wandb", "mlflow": "mlflow", "tensorboardX": "tensorboardX"}
_SLOW = {"mlflow": 50, "wandb": 5}  # of those, so many times fewer values


def environment(name: str, cache: Path) -> Path:
    """The interpreter of an environment that holds this tracker; made at the first use."""
    python = cache / name / "bin" / "python"
    if not (cache / name / "ready").exists():
        subprocess.run([sys.executable, "-m", "venv", str(cache / name)], check=True)
        # Twice: without warnings, too.
        command = [str(python), "-m", "pip", "install", "--quiet", "--quiet", PEERS[name]]
        subprocess.run(command, check=True, timeout=600)
        (cache / name / "ready").touch()
    return python


def run(name: str, python: Path, values: int, timeout: float) -> dict[str, Any]:
    """What the worker of one tracker measured; ``error`` where it did not end well."""
    with tempfile.TemporaryDirectory(prefix=f"bench-log-{name}-") as folder:
        command = [str(python), str(WORKER), name, folder, str(values)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, cwd=folder)
        except subprocess.TimeoutExpired:
            return {"error": f"not within {timeout:g} s"}
    for line in done.stdout.splitlines():
        if line.startswith("RESULT "):
            result: dict[str, Any] = json.loads(line.removeprefix("RESULT "))
            return result
    return {"error": (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1][:100]}


def line(name: str, values: int, result: dict[str, Any]) -> str:
    """One row of the table."""
    if "error" in result:
        return f"{name:<15} {result['error']}"
    one, twenty = result["one"], result["twenty"]
    return (
        f"{name:<15} {values:>8} {result['start_s']:>8.2f} {one['p50_us']:>9.1f} {one['p99_us']:>9.1f}"
        f" {twenty['p50_us']:>9.1f} {twenty['p99_us']:>9.1f} {result['cpu_us_per_value']:>9.1f}"
        f" {result['stored_bytes_per_value']:>9.1f} {result['all_s']:>8.2f} {result['rss_mb']:>7.0f}"
    )


def all_the_way(values: int, timeout: float) -> bool:
    """Print how long it takes until so many values are stored. Returns False if that could not be measured."""
    result = run("--all-the-way", Path(sys.executable), values, timeout)
    if "error" in result:
        print(f"{values:,} values could not be stored: {result['error']}")
        return False
    print(
        f"{values:,} values, one by one: logged in {result['logged_s']:.1f} s,"
        f" all stored after {result['stored_s']:.1f} s ({result['missing']} missing),"
        f" {result['cpu_us_per_value']:.2f} us of the program's CPU and"
        f" {result['stored_bytes_per_value']:.1f} bytes a value"
    )
    return not result["missing"]


# Seconds for the import, the login, the run and the first log; then the program ends, which sends what was logged.
FIRST_LOG = """
import time
times = [time.perf_counter()]
import tellurio_sync as te
times.append(time.perf_counter())
te.login(mode="local")
times.append(time.perf_counter())
te.init("me", "First log")
times.append(time.perf_counter())
te.log("x", 1.0)
times.append(time.perf_counter())
print(*times)
"""
FRAMEWORK = "import aiohttp.web"


def starts(rounds: int) -> str:
    """Lines with the medians of so many programs each, taken in turn."""
    parts, logged_in, framework = [], [], []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory(prefix="bench-start-") as folder:
            kept = dict.fromkeys(("TELLURIO_DATA_DIR", "TELLURIO_JOURNAL_DIR"), folder)
            begin = time.perf_counter()
            subprocess.run([sys.executable, "-c", FRAMEWORK], check=True)
            framework.append(time.perf_counter() - begin)
            begin = time.perf_counter()
            program = [sys.executable, "-c", FIRST_LOG]
            done = subprocess.run(program, env={**os.environ, **kept}, capture_output=True, text=True, check=True)
        # The clock of these is the same in all processes of a machine.
        times = [float(one) for one in done.stdout.split()]
        parts.append([after - before for before, after in itertools.pairwise(times)])
        logged_in.append(times[2] - begin)
    names = ("import", "login", "init", "first log")
    medians = [statistics.median(column) for column in zip(*parts)]
    base = statistics.median(framework)
    each = ", ".join(f"{name} {1000 * seconds:.0f}" for name, seconds in zip(names, medians))
    whole = statistics.median(sum(part) for part in parts)
    log_in = statistics.median(logged_in)
    return (
        f"first log at a local backend, ms, median of {rounds}: {each}; all {1000 * whole:.0f}\n"
        f"`{FRAMEWORK}` {1000 * base:.0f} ms; a new interpreter is logged in after {log_in / base:.2f} x that,"
        f" and has logged {whole / base:.2f} x that after it began to import"
    )


def main() -> int:
    """Print the table; the exit code is 1 where this package's own rows could not be measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--values", type=int, default=20_000)
    parser.add_argument("--only", action="append", help="this tracker only; may be given several times")
    parser.add_argument("--timeout", type=float, default=300.0, help="seconds per tracker")
    parser.add_argument("--million", type=int, default=1_000_000, help="values that are stored; 0: none")
    parser.add_argument("--starts", type=int, default=7, help="programs whose first log is measured; 0: none")
    parser.add_argument("--cache", type=Path, default=Path(".cache/bench-log"))
    args = parser.parse_args()
    print(f"load of the machine: {os.getloadavg()[0]:.1f}, processors: {os.cpu_count()}")
    print(
        f"{'':<15} {'values':>8} {'start s':>8} {'1: p50 us':>9} {'p99 us':>9} {'20: p50':>9} {'p99 us':>9}"
        f" {'CPU us/v':>9} {'bytes/v':>9} {'all s':>8} {'MB':>7}"
    )
    failed = 0
    for name in ["tellurio_sync", *PEERS]:
        if args.only and name not in args.only:
            continue
        values = max(100, args.values // _SLOW.get(name, 1))
        try:
            python = Path(sys.executable) if name == "tellurio_sync" else environment(name, args.cache.absolute())
            result = run(name, python, values, args.timeout)
        except (OSError, subprocess.SubprocessError) as exc:
            result = {"error": f"its environment could not be made: {exc}"}
        print(line(name, values, result), flush=True)
        failed += name == "tellurio_sync" and "error" in result
    if args.million and (not args.only or "tellurio_sync" in args.only):
        failed += not all_the_way(args.million, args.timeout)
    if args.starts:
        print(starts(args.starts))
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main())
