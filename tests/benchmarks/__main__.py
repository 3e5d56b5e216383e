"""``python -m tests.benchmarks``: this package beside its peers, in one interleaved run.

All on 127.0.0.1: a server in a process of its own, each client in a process of its own, all on one core.
The rounds of the peers alternate; a ratio is the median over the rounds of ratios inside a round, so a load that
comes and goes strikes both sides. Single absolute times mean little; they are shown for orientation.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from . import rows
from .compiled import compiled_server
from .processes import ROOT, START_TIMEOUT, Failed, Worker, afnio_python, cores, running
from .rows import AFNIO, FLOOR, OTHER, OURS, RAW_TCP, ROUND_TRIPS, SPEED, UNDER, Row
from .series import SERIES, Operation, measure
from .table import Values, lines

QUICK_ROUNDS = 2
SCALE = "scale: the same operation beside this many others"

HOW_TO_READ = f"""
How to read this. Under each row stand the medians of all rounds, then for each target a ratio: the median over the
rounds of (this package / the peer) inside one round, ± half the distance of the quartiles; in brackets is what is to be
reached. Less is better, of calls/s more. Ratios carry from one machine to another, single times do not.
"{OURS}" runs on the standard library's json, "{SPEED}" on orjson (the extra `speed`).
"{RAW_TCP}" sends ready-made frames and decodes nothing: the floor that network and server set.
Under "scale" the columns are sizes and the ratio is to the smallest; up to 1.5 it is the processor's caches, which do
not hold a million objects. The rows with a delay count round trips of their link.
A MISSED on a busy machine, or by less than its ±, wants a second look: ARGS="--only 'calls/s' --rounds 30".
Clients and server share one core, which never sleeps: a round trip is work alone. With ARGS="--pin apart" they have one
each; a round trip is then mostly the waking of the other core."""


class Benchmark:
    """One run: which peers there are, and what was measured."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._core, self._server_core = cores(options.pin)
        self._rounds = QUICK_ROUNDS if options.quick else options.rounds
        self.results: dict[str, dict[str, Values]] = {}
        self.missing: dict[str, str] = {}
        self._server, self._tls_server, self._server_kind = self._choose_servers()
        self._pythons = dict.fromkeys((*rows.EVERYBODY, UNDER, FLOOR), sys.executable)
        self._trees = dict.fromkeys(self._pythons, ROOT)
        if options.other is None:
            del self._pythons[OTHER]
        else:
            self._trees[OTHER] = options.other.resolve()
            self._pythons[OTHER] = options.other_python or sys.executable
        if importlib.util.find_spec("orjson") is None:
            del self._pythons[SPEED]
            self.missing[SPEED] = "orjson is not installed"
        try:
            python = options.afnio_python or afnio_python(may_install=not options.quick)
            self._pythons.update(dict.fromkeys((AFNIO, UNDER, FLOOR), python))
        except Failed as exc:
            for peer in (AFNIO, UNDER, FLOOR):
                del self._pythons[peer]
            self.missing[AFNIO] = str(exc)

    @staticmethod
    def _choose_servers() -> tuple[str | Path, str | Path, str]:
        """The server of the rows without TLS, that of those with TLS, and what is to be said of them."""
        try:
            program, has_tls = compiled_server()
        except Failed as exc:
            return "server.py", "server.py", f"server.py ({exc})"
        if has_tls:
            return program, program, "server.c, compiled"
        return program, "server.py", "server.c, compiled; over TLS server.py (no OpenSSL to compile server.c with)"

    def run(self) -> None:
        """Measure everything, and print each row when it is known."""
        with running(self._server, self._server_core) as ports:
            port = ports["port"]
            self._run_phase("ws:// on loopback", rows.local_rows(tls=False), "connect", port, False)
            self._run_phase("a program for afnio on loopback", rows.ways_rows(), "login", port, port)
            self._run_tls()
            with running("delay.py", self._server_core, port, rows.ROUND_TRIP_S) as link:
                far = f"over a link of {rows.ROUND_TRIP_S * 1000:g} ms"
                self._run_phase(f"ws:// {far}", rows.delayed_rows(), "connect", link["port"], False, 2)
                self._run_phase(f"a session {far}", rows.making_rows(), "login", port, link["port"])
            self._run_scale(port)
        self._run_imports()

    def _run_tls(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            certificate = self._make_certificate(folder)
            if certificate is None:
                return
            ca = {"SSL_CERT_FILE": str(Path(folder) / "ca.pem")}
            with running(self._tls_server, self._server_core, certificate) as ports:
                connect = ("connect", ports["tls_port"], True)
                self._run_phase("wss:// on loopback", rows.local_rows(tls=True), *connect, env=ca)

    def _make_certificate(self, folder: str) -> str | None:
        try:
            import trustme
        except ImportError:
            self.missing["wss://"] = "trustme is not installed"
            return None
        ca = trustme.CA()
        ca.cert_pem.write_to_path(str(Path(folder) / "ca.pem"))
        path = str(Path(folder) / "server.pem")
        ca.issue_cert("localhost", "127.0.0.1").private_key_and_cert_chain_pem.write_to_path(path)
        return path

    def _run_phase(self, title: str, phase_rows: list[Row], *connect: Any, env: dict[str, str] | None = None) -> None:
        """Measure rows with workers that have done this command first."""
        wanted = [row for row in phase_rows if self._is_wanted(title, row)]
        if not wanted:
            return
        self._print(f"\n== {title}")
        with contextlib.ExitStack() as stack:
            peers = {peer for row in wanted for peer in row.peers}
            if any(row.unit == ROUND_TRIPS for row in wanted):
                peers.add(RAW_TCP)
            workers = self._start_workers(stack, title, peers, env or {}, connect)
            measured: dict[Any, dict[str, list[Any]]] = {}
            for row in wanted:
                args = row.quick if self._options.quick and row.quick is not None else row.args
                key = (row.command, args)
                if key not in measured:
                    measured[key] = self._measure(row, args, workers)
                values: Values = {
                    peer: [number[row.field] if row.field else number for number in numbers]
                    for peer, numbers in measured[key].items()
                }
                self.results.setdefault(title, {})[row.title] = values
                self._print_row(row, values)

    def _start_workers(
        self, stack: contextlib.ExitStack, title: str, peers: set[str], env: dict[str, str], connect: tuple[Any, ...]
    ) -> list[Worker]:
        workers = []
        home = stack.enter_context(tempfile.TemporaryDirectory())
        env = {"HOME": home, "PYTHON_KEYRING_BACKEND": "keyring.backends.fail.Keyring", **env}
        for peer, python in self._pythons.items():
            if peer not in peers:
                continue
            try:
                worker = Worker(python, self._core, peer, {**env, "PYTHONPATH": str(self._trees[peer])})
                stack.callback(worker.stop)
                worker.tell(*connect)
                worker.value(START_TIMEOUT)
            except Failed as exc:
                self.missing[f"{peer}, {title}"] = str(exc)
            else:
                workers.append(worker)
        return workers

    def _measure(self, row: Row, args: tuple[Any, ...], workers: list[Worker]) -> dict[str, list[Any]]:
        """Let the workers measure in turn, round by round; a worker that fails is missing from then on."""
        raw_tcp = next((worker for worker in workers if worker.peer == RAW_TCP), None)
        workers = [worker for worker in workers if worker.peer in row.peers]
        values: dict[str, list[Any]] = {worker.peer: [] for worker in workers}
        if row.command == "idle":  # all at once: nobody does anything
            for worker in workers:
                worker.tell(row.command, *args)
            return {worker.peer: [worker.value()] for worker in workers}
        failed = set()
        for round_ in range(min(self._rounds, row.rounds)):
            start = round_ % max(1, len(workers))
            in_round_trips = row.unit == ROUND_TRIPS and raw_tcp is not None
            link = raw_tcp.ask("round_trip", 5)["p50"] if in_round_trips else 1.0
            for worker in workers[start:] + workers[:start]:
                if worker.peer in failed:
                    continue
                try:
                    value = worker.ask(row.command, *args)
                except Failed as exc:
                    failed.add(worker.peer)
                    self.missing[f"{worker.peer}, {row.title}"] = str(exc)
                    continue
                if in_round_trips:
                    value = {row.field: value[row.field] / link} if row.field else value / link
                values[worker.peer].append(value)
        return values

    def _run_scale(self, port: int) -> None:
        wanted = [
            series for series in SERIES if any(self._is_wanted(SCALE, operation) for operation in series.operations)
        ]
        if wanted:
            self._print(f"\n== {SCALE}")
        for series in wanted:
            sizes, rounds = (series.quick, 1) if self._options.quick else (series.sizes, self._rounds)
            try:
                for row, values in measure(series, sizes, self._core, port, rounds):
                    if self._is_wanted(SCALE, row):
                        self.results.setdefault(SCALE, {})[row.title] = values
                        self._print_row(row, values)
            except Failed as exc:
                self.missing[f"{series.command}, scale"] = str(exc)
                self.results.setdefault(SCALE, {})[series.command] = {}

    def _is_wanted(self, title: str, row: Row | Operation) -> bool:
        return self._options.only in f"{title} {row.title}"

    def _run_imports(self) -> None:
        row = rows.IMPORT
        if self._options.only not in row.title:
            return
        self._print("\n== import")
        statements = dict.fromkeys(rows.PACKAGE, "import sys; sys.modules['orjson'] = None; import tellurio_sync")
        statements |= {SPEED: "import tellurio_sync", AFNIO: "import afnio"}
        values: Values = {peer: [] for peer in row.peers if peer in self._pythons}
        with tempfile.TemporaryDirectory() as folder:
            # Bytecode for everybody, whatever the environment and the package's installer have done about it.
            cache = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": folder}
            for peer in values:
                self._import_seconds(peer, statements[peer], cache)
            for _ in range(min(self._rounds, 10)):
                for peer, seconds in values.items():
                    bare = self._import_seconds(peer, "pass", cache)
                    seconds.append(self._import_seconds(peer, statements[peer], cache) - bare)
        self.results["import"] = {row.title: values}
        self._print_row(row, values)

    def _import_seconds(self, peer: str, statement: str, cache: dict[str, str]) -> float:
        command = [self._pythons[peer], "-c", statement]
        env = {**os.environ, **cache, "PYTHONPATH": str(self._trees[peer])}
        start = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True, env=env, timeout=60, cwd="/")
        return time.perf_counter() - start

    def print_head(self) -> None:
        pinned = "not pinned" if self._core < 0 else f"clients on core {self._core}, server on core {self._server_core}"
        load = f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores" if hasattr(os, "getloadavg") else ""
        self._print(f"Python {platform.python_version()}, {platform.system()}; {pinned}; {load}; {self._rounds} rounds")
        self._print(f"server: {self._server_kind}")
        if self._options.quick:
            self._print("quick: smaller messages and fewer calls than the rows say; shows that they run, not how fast")

    def print_missing(self) -> None:
        for peer, reason in self.missing.items():
            self._print(f"missing: {peer}: {reason}")

    def check_complete(self) -> list[str]:
        """The rows without a number of this package, with either json, or of a size."""
        variants = [peer for peer in (OURS, SPEED) if peer in self._pythons]
        if not self.results:
            return [f"anything: no row's link and title hold {self._options.only!r}"]
        problems = []
        for phase, results in self.results.items():
            for title, values in results.items():
                judged = values if phase == SCALE else variants
                series = [values.get(peer, []) for peer in judged]
                if not (series and all(series)) or any(number != number for numbers in series for number in numbers):
                    problems.append(f"{phase}: {title}")
        return problems

    def _print_row(self, row: Row, values: Values) -> None:
        self._print(*lines(row, values, is_judged=not self._options.quick))

    @staticmethod
    def _print(*text: str) -> None:
        print(*text, sep="\n", flush=True)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__.split("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="under a minute: only shows that every row still runs")
    parser.add_argument("--rounds", type=int, default=15, help="how often each peer is measured (default: %(default)s)")
    parser.add_argument("--only", default="", metavar="TEXT", help="only rows whose link and title hold this text")
    parser.add_argument("--other", type=Path, metavar="FOLDER", help="measure the package in this tree, too")
    parser.add_argument(
        "--other-python", metavar="PATH", help="an interpreter that has the other tree installed; default: this one"
    )
    parser.add_argument("--afnio-python", metavar="PATH", help="an interpreter that has afnio; default: one is made")
    parser.add_argument(
        "--pin",
        choices=("apart", "together", "none"),
        default="together",
        help="clients and server on two cores, on one, or where the system puts them (default: %(default)s)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all values there")
    return parser.parse_args()


def main() -> int:
    options = parse()
    started = time.monotonic()
    benchmark = Benchmark(options)
    benchmark.print_head()
    benchmark.run()
    benchmark.print_missing()
    if not options.quick:
        print(HOW_TO_READ)
    print(f"took {time.monotonic() - started:.0f} s")
    if options.json is not None:
        options.json.write_text(json.dumps(benchmark.results))
    incomplete = benchmark.check_complete()
    for row in incomplete:
        print(f"FAILED: no number for {row}", file=sys.stderr)
    return 1 if incomplete else 0


if __name__ == "__main__":
    sys.exit(main())
