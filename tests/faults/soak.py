"""A client under random faults for minutes: ``python -m tests.faults.soak [--seconds 300] [--seed N] [--tls]``.

With ``--backend`` first it is another soak, of sessions and a real backend: see ``soak_backend``.

Several threads call in every way there is, their callables call the server within callables, and so does the main
thread, which a signal handler interrupts that calls, too; all while a network and a server in other processes misbehave
(``mischief``) and the main thread closes and connects now and then.  Then the faults stop, and everything must be
as if nothing had happened: see ``Soak.run``.  Exit code 1, with the seed, if it is not; and if a time-out or ``close``
came later than ``LATEST`` and ``SLOWEST_CLOSE`` say. With ``--busy`` these two are longer, by the factor ``BUSY``:
where other programs take the processor, how late something comes says little of the client.

The seed fixes what every part draws; how their threads meet is the system's, so a second run is alike, not equal.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import gc
import itertools
import logging
import math
import os
import random
import signal
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import CancelledError, Future
from concurrent.futures import wait as wait_for_futures
from typing import Any, NamedTuple

import trustme

from tellurio_sync.client import TellurioWebSocketClient
from tellurio_sync.errors import (
    CallTimeout,
    ClosedByUser,
    ConnectFailed,
    ConnectionLost,
    LocalProtocolError,
    NotConnected,
    RemoteProtocolError,
    TellurioError,
    WouldDeadlock,
)

from .ctrl_c import count_descriptors
from .mischief import ROOT
from .tally import DONE, MOST_CALLS, NETWORK_FAULTS, SERVER_FAULTS, Tally

CALLERS = 6
FAILSAFE = 60.0
"""Seconds beyond which what has not ended counts as hanging."""
MOST_GROWTH = 32 << 20
"""Bytes of resident memory that the client's process may grow after the first quarter of the time."""
LATEST = 1.5
"""Seconds by which a time-out may be late. A caller whose time is over waits for one turn of the receive thread, at
most 1 s: a reply or a heartbeat may have come that was not read yet."""
SLOWEST_CLOSE = 2.5
"""Seconds that ``close`` may take: 1 s for the server's close frame, and as long until the receive thread has ended."""
BUSY = 10.0
SIGNALS_EVERY = 0.05
"""Seconds."""
POLITE_CALLS = 100
_MOST_PROBLEMS = 20
_KINDS = (
    CallTimeout,
    CancelledError,
    ClosedByUser,
    ConnectionLost,
    LocalProtocolError,
    NotConnected,
    RemoteProtocolError,
    WouldDeadlock,  # a signal handler's, over TLS
)


INTERRUPTED = "interrupted"
"""The way of the main thread's calls: what its signal handler does meanwhile comes on top."""


class Run:
    """A stand-in for a run."""

    uuid = "run-1"


class SoakCall(NamedTuple):
    """One call: its number in the parameters lets every reply be told from every other."""

    number: int
    padding: Any
    timeout: float
    depth: int = 0

    @property
    def params(self) -> dict[str, Any]:
        return {"n": self.number, "x": self.padding, "timeout": self.timeout, "depth": self.depth}


class Ledger(logging.Handler):
    """Which calls were begun, and how each ended. Thread-safe. Every error that is logged is a problem."""

    def __init__(self, tally: Tally, latest: float) -> None:
        super().__init__(logging.ERROR)
        self._tally = tally
        self._latest = latest
        self._numbers = itertools.count(1)
        self._guard = threading.RLock()  # the signal handler notes calls, too
        self._open: set[int] = set()
        self.outcomes: Counter[str] = Counter()
        self.problems: list[str] = []
        self.applied: dict[str, int] = {}  # the last push of each connection; written on the receive thread
        self.worst_overshoot = {"waited for": 0.0, "submitted": 0.0, INTERRUPTED: 0.0}  # seconds

    def emit(self, record: logging.LogRecord) -> None:
        self.problem(f"logged: {self.format(record)}")

    def problem(self, text: str) -> None:
        with self._guard:
            if len(self.problems) < _MOST_PROBLEMS:
                self.problems.append(text)

    def begin(self, padding: Any, timeout: float) -> SoakCall:
        with self._guard:
            number = next(self._numbers)
            self._open.add(number)
        return SoakCall(number, padding, timeout)

    def open_calls(self) -> list[int]:
        with self._guard:
            return sorted(self._open)

    @property
    def ended(self) -> int:
        return self.outcomes.total()

    def end(self, call: SoakCall, outcome: Any, way: str = "waited for") -> None:
        """Note the one outcome of a call: its reply, its error, or None for a notification that was queued."""
        if isinstance(outcome, CallTimeout):
            self._check_time(call, outcome, way)
        kind = self._kind(call, outcome)
        with self._guard:
            is_first = call.number in self._open
            self._open.discard(call.number)
            self.outcomes[kind] += 1
        if not is_first:
            self.problem(f"{call} ended twice, now with {outcome!r}")
        arrivals = self._tally.arrivals(call.number)
        if arrivals > 1:
            self.problem(f"{call} reached the server {arrivals} times")
        if arrivals and getattr(outcome, "was_sent", None) is False:
            self.problem(f"{call} reached the server, but {outcome!r} says that it was not sent")

    def end_future(self, call: SoakCall, future: Future[dict[str, Any]], way: str = "submitted") -> None:
        if future.cancelled():
            self.end(call, CancelledError())
        else:
            self.end(call, future.exception() or future.result(), way)

    def apply_push(self, epoch: str, number: int) -> None:
        if number != self.applied.get(epoch, 0) + 1:
            self.problem(f"push {number} of {epoch} came after {self.applied.get(epoch, 0)}")
        self.applied[epoch] = number

    def _kind(self, call: SoakCall, outcome: Any) -> str:
        if outcome is None:
            return "notification queued"
        if isinstance(outcome, dict):
            return self._kind_of_reply(call, outcome)
        if not isinstance(outcome, _KINDS):
            self.problem(f"{call} ended with an unexpected {outcome!r}")
        return type(outcome).__name__ + (", not sent" if getattr(outcome, "was_sent", None) is False else "")

    def _kind_of_reply(self, call: SoakCall, reply: dict[str, Any]) -> str:
        if "error" in reply:
            if reply["error"]["data"] != {"n": call.number}:
                self.problem(f"{call} got the error of another: {str(reply)[:200]}")
            return "error reply"
        result = reply["result"]
        if (result["n"], result["x"]) != (call.number, call.padding):
            self.problem(f"{call} got the reply of another: {str(reply)[:200]}")
        if self.applied.get(result["epoch"], 0) < result["pushed"]:
            self.problem(f"the reply to {call} overtook pushes sent before it")
        return "reply"

    def _check_time(self, call: SoakCall, error: CallTimeout, way: str) -> None:
        last = error.last_heartbeat_age_s
        overshoot = (error.waited_s if last is None else last) - call.timeout
        if overshoot < 0:
            self.problem(f"{call} timed out {-overshoot} s too early: {error!r}")
        if overshoot > self._latest and way != INTERRUPTED:
            self.problem(f"{call}, {way}, timed out {overshoot:.3f} s too late: {error!r}")
        with self._guard:
            self.worst_overshoot[way] = max(self.worst_overshoot[way], overshoot)


class SoakClient(TellurioWebSocketClient):
    """Notes pushes; its callable calls the server."""

    def __init__(self, ledger: Ledger, **options: Any) -> None:
        super().__init__(active_run=Run, **options)
        self._ledger = ledger

    def rpc_push(self, params: dict[str, Any]) -> Any:
        self._ledger.apply_push(params["epoch"], params["n"])
        return {"message": "Ok"}

    def rpc_run_callable(self, params: dict[str, Any]) -> Any:
        """Call back; that may fail as every call may, and the failure is the answer."""
        call = self._ledger.begin("called back", 1.0)._replace(depth=params["depth"])
        make_call(self, self._ledger, "work", call, is_raised=True)
        return {"message": "Ok", "data": params["n"]}


def make_call(
    client: SoakClient,
    ledger: Ledger,
    method: str,
    call: SoakCall,
    *,
    is_raised: bool = False,
    way: str = "waited for",
) -> dict[str, Any] | None:
    """Make the call and note how it ended; None if with an error, unless that is to be raised."""
    try:
        reply = client.call(method, call.params, call.timeout)
    except Exception as exc:
        ledger.end(call, exc, way)
        if is_raised:
            raise
        return None
    ledger.end(call, reply)
    return reply


class Caller:
    """Calls in every way there is until it is told to stop."""

    def __init__(
        self,
        client: SoakClient,
        ledger: Ledger,
        is_over: threading.Event,
        dice: random.Random,
        way: str = "waited for",
    ) -> None:
        self._client = client
        self._ledger = ledger
        self._is_over = is_over
        self._dice = dice
        self._way = way

    def run(self, until: float = math.inf) -> None:
        ways = (self._call, self._call_long, self._call_many, self._submit, self._notify, self._call_with_nan)
        while not self._is_over.is_set() and time.monotonic() < until:
            self._dice.choices(ways, (50, 3, 12, 20, 14, 1))[0]()
            if self._client.state == "closed":
                self._is_over.wait(0.02)  # the main thread is about to connect again

    def on_signal(self) -> None:
        """What a signal handler does: one call, of any kind."""
        self._dice.choice((self._call, self._notify, self._submit_and_forget))()

    def _submit_and_forget(self) -> None:
        call = self._begin()
        try:
            future = self._client.submit("work", call.params, call.timeout)
        except TellurioError as exc:
            self._ledger.end(call, exc)
        else:
            future.add_done_callback(lambda future: self._ledger.end_future(call, future))

    def _begin(self) -> SoakCall:
        size = self._dice.choices((0, 20, 200, 2000, 50_000), (30, 30, 20, 15, 5))[0]
        return self._ledger.begin("ü" * size, self._dice.choice((0.3, 1.0, 3.0)))

    def _call(self) -> None:
        make_call(self._client, self._ledger, "work", self._begin(), way=self._way)

    def _call_long(self) -> None:
        make_call(self._client, self._ledger, "run_function", self._ledger.begin("long", 0.5), way=self._way)

    def _call_with_nan(self) -> None:
        make_call(self._client, self._ledger, "work", self._ledger.begin(float("nan"), 1.0), way=self._way)

    def _call_many(self) -> None:
        calls = [self._ledger.begin(number, 2.0) for number in range(self._dice.randint(2, 30))]
        try:
            outcomes = self._client.call_many([("work", call.params) for call in calls], 2.0, return_exceptions=True)
        except TellurioError as exc:  # none of them was sent
            outcomes = [exc] * len(calls)
        if len(outcomes) != len(calls):
            self._ledger.problem(f"{len(calls)} calls in one go had {len(outcomes)} outcomes")
        for call, outcome in zip(calls, outcomes):
            self._ledger.end(call, outcome, self._way)

    def _submit(self) -> None:
        futures = []
        for _ in range(self._dice.randint(1, 20)):
            call = self._begin()
            try:
                future = self._client.submit("work", call.params, call.timeout)
            except TellurioError as exc:
                self._ledger.end(call, exc, self._way)
                continue
            way = INTERRUPTED if self._way == INTERRUPTED else "submitted"
            future.add_done_callback(lambda future, call=call, way=way: self._ledger.end_future(call, future, way))
            futures.append(future)
        if futures and self._dice.random() < 0.1:
            self._dice.choice(futures).cancel()
        if wait_for_futures(futures, FAILSAFE).not_done:
            self._ledger.problem("a future did not end")

    def _notify(self) -> None:
        call = self._begin()
        try:
            self._client.notify("work", call.params)
        except TellurioError as exc:
            self._ledger.end(call, exc, self._way)
        else:
            self._ledger.end(call, None)


class Soak:
    """One run.

    Args:
        seconds: > 0, for which the faults last.
        seed: of everything that is drawn.
        is_tls: whether the faults befall records of TLS.
        is_busy: whether other programs take the processor.
    """

    def __init__(self, seconds: float, seed: int, is_tls: bool, is_busy: bool = False) -> None:
        self._is_tls = is_tls
        factor = BUSY if is_busy else 1.0
        self._latest, self._longest_close = LATEST * factor, SLOWEST_CLOSE * factor
        self._seconds = seconds
        self._seed = seed
        self._dice = random.Random(f"{seed}-main")
        self._closes = 0
        self._signals_handled = 0
        self._slowest_close = 0.0
        self._memory = 0

    def run(self) -> bool:
        """Whether nothing was lost."""
        # Whatever happens, this ends by itself.
        faulthandler.dump_traceback_later(self._seconds + 4 * FAILSAFE, exit=True)
        with tempfile.TemporaryDirectory() as folder:
            tally = Tally(os.path.join(folder, "tally"))
            ledger = Ledger(tally, self._latest)
            for name in ("tellurio_sync", "concurrent.futures"):
                logging.getLogger(name).addHandler(ledger)
                logging.getLogger(name).propagate = False
            threading.excepthook = lambda args: ledger.problem(f"a thread died: {args.exc_value!r}")
            command = [sys.executable, "-m", "tests.faults.mischief", "network", os.path.join(folder, "tally")]
            command.append(str(self._seed))
            context = None
            if self._is_tls:
                authority = trustme.CA()
                context = ssl.create_default_context()
                authority.configure_trust(context)
                certificate = os.path.join(folder, "server.pem")
                authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(certificate)
                command += ["--certificate", certificate]
            network = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            assert network.stdin is not None
            assert network.stdout is not None
            try:
                port = int(network.stdout.readline())
                threads, descriptors = threading.active_count(), count_descriptors()
                client = SoakClient(
                    ledger,
                    base_url="wss://localhost" if self._is_tls else "ws://127.0.0.1",
                    port=port,
                    ssl_context=context,
                    connect_timeout=5.0,
                    ping_interval=0.5,
                    ping_timeout=1.5,  # the silences are longer than both together
                )
                self._under_faults(client, ledger)
                network.stdin.write("calm\n")
                network.stdin.flush()
                network.stdout.readline()
                self._afterwards(client, ledger)
                self._check_leaks(ledger, threads, descriptors)
            finally:
                network.stdin.close()
                network.wait(FAILSAFE)
                network.stdout.close()
            ledger.problems += tally.problems()[:_MOST_PROBLEMS]
            self._report(tally, ledger)
            tally.close()
        faulthandler.cancel_dump_traceback_later()
        return not ledger.problems

    def _under_faults(self, client: SoakClient, ledger: Ledger) -> None:
        is_over = threading.Event()
        callers = [
            threading.Thread(
                target=Caller(client, ledger, is_over, random.Random(f"{self._seed}-{number}")).run,
                name=f"caller {number}",
                daemon=True,
            )
            for number in range(CALLERS)
        ]
        self._connect(client)
        for caller in callers:
            caller.start()
        own = Caller(client, ledger, is_over, random.Random(f"{self._seed}-own"), INTERRUPTED)
        handler = Caller(client, ledger, is_over, random.Random(f"{self._seed}-handler"))
        start = time.monotonic()
        end = start + self._seconds
        memory_at_first = 0
        while time.monotonic() < end and ledger.ended < MOST_CALLS - 100_000:
            with self._signals(handler):
                own.run(min(time.monotonic() + self._dice.uniform(1, 6), end))
            if not memory_at_first and time.monotonic() > start + self._seconds / 4:
                memory_at_first = resident_bytes()
            self._close(client, ledger)
            self._connect(client)
        is_over.set()
        for caller in callers:
            caller.join(FAILSAFE)
            if caller.is_alive():
                ledger.problem(f"{caller.name} hangs")
                faulthandler.dump_traceback()
        gc.collect()
        self._memory = resident_bytes() - memory_at_first if memory_at_first else 0

    @contextlib.contextmanager
    def _signals(self, handler: Caller) -> Iterator[None]:
        """Interrupts the main thread again and again; not during ``close``, whose time is taken."""
        is_in = False

        def handle(*_: object) -> None:
            nonlocal is_in
            if is_in:
                return
            is_in = True
            try:
                self._signals_handled += 1
                handler.on_signal()
            finally:
                is_in = False

        former = signal.signal(signal.SIGALRM, handle)
        signal.setitimer(signal.ITIMER_REAL, SIGNALS_EVERY, SIGNALS_EVERY)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, former)

    def _connect(self, client: SoakClient) -> None:
        end = time.monotonic() + FAILSAFE
        while True:
            try:
                client.connect(api_key="key", retries=5, delay=0.2)
                return
            except ConnectFailed:
                if time.monotonic() > end:
                    raise

    def _close(self, client: SoakClient, ledger: Ledger) -> None:
        self._closes += 1
        start = time.monotonic()
        client.close()
        seconds = time.monotonic() - start
        if seconds > self._longest_close:
            ledger.problem(f"close() took {seconds:.3f} s")
        self._slowest_close = max(self._slowest_close, seconds)

    def _afterwards(self, client: SoakClient, ledger: Ledger) -> None:
        """The faults are over: the client must work, and nothing may be left from before."""
        for _ in range(10):  # the last faults may still be on their way
            if make_call(client, ledger, "work", ledger.begin("after", 10.0)) is not None:
                break
        for _ in range(POLITE_CALLS):
            if make_call(client, ledger, "work", ledger.begin("polite", 10.0)) is None:
                ledger.problem("a call failed although the faults were over")
        if not wait_until(lambda: not client.pending and not ledger.open_calls()):
            ledger.problem(f"left in the table: {client.pending}; calls without an outcome: {ledger.open_calls()}")
        client.close()

    def _check_leaks(self, ledger: Ledger, threads: int, descriptors: int) -> None:
        if not wait_until(lambda: threading.active_count() <= threads):
            ledger.problem(f"threads left: {threading.enumerate()}")
        if not wait_until(lambda: count_descriptors() <= descriptors):
            ledger.problem(f"{count_descriptors() - descriptors} descriptors left")
        if self._memory > MOST_GROWTH:
            ledger.problem(f"memory grew by {self._memory / 2**20:.1f} MiB, allowed are {MOST_GROWTH >> 20}")

    def _report(self, tally: Tally, ledger: Ledger) -> None:
        tls = ", over TLS" if self._is_tls else ""
        print(f"soak: {self._seconds:g} s, seed {self._seed}, Python {sys.version.split()[0]}{tls}")
        for title, names in (("network", NETWORK_FAULTS), ("server", SERVER_FAULTS), ("done", DONE)):
            print(f"{title}: " + ", ".join(f"{tally.get(name):,} {name}" for name in names))
        print(
            f"user: {self._closes:,} closes, each followed by a connect; the slowest took {self._slowest_close:.3f} s "
            f"(allowed: {self._longest_close:g}); {self._signals_handled:,} signals whose handler called"
        )
        print(f"calls: {ledger.ended:,} begun and ended, each once:")
        for kind, count in ledger.outcomes.most_common():
            print(f"    {count:>9,} {kind}")
        print(f"pushes: {sum(ledger.applied.values()):,} applied, in order, over {len(ledger.applied):,} connections")
        worst = ", ".join(f"{way} at most {late * 1000:.1f} ms" for way, late in ledger.worst_overshoot.items())
        print(f"time-outs: never early; late: {worst} (allowed: {self._latest * 1000:g}, but where a handler ran)")
        print(f"memory: {self._memory / 2**20:+.1f} MiB after the first quarter (allowed: {MOST_GROWTH >> 20})")
        if ledger.problems:
            print(f"FAILED with --seed {self._seed}:")
            for problem in ledger.problems:
                print(f"    {problem}")
        else:
            print("nothing was lost: every call one outcome and its own; no thread, descriptor or pending call left")


def wait_until(is_reached: Any, seconds: float = 20.0) -> bool:
    """Look again and again, at most so long."""
    end = time.monotonic() + seconds
    pause = threading.Event()
    while not is_reached():
        if time.monotonic() > end:
            return False
        pause.wait(0.02)
    return True


def resident_bytes() -> int:
    """Of this process; 0 where the system does not tell."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def main() -> None:
    if sys.argv[1:2] == ["--backend"]:
        from . import soak_backend

        soak_backend.main(sys.argv[2:])
    if sys.argv[1:2] == ["--trainings"]:
        from . import kills

        kills.main(sys.argv[2:])
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--tls", action="store_true")
    parser.add_argument("--busy", action="store_true", help="other programs take the processor")
    options = parser.parse_args()
    seed = random.SystemRandom().randrange(1_000_000) if options.seed is None else options.seed
    sys.exit(0 if Soak(options.seconds, seed, options.tls, options.busy).run() else 1)


if __name__ == "__main__":
    main()
