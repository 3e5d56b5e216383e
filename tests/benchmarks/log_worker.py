"""One tracker's part of the comparison: runs in an environment of its own, prints one JSON line.

usage: python log_worker.py TRACKER FOLDER VALUES
       python log_worker.py --all-the-way FOLDER VALUES    this package, until the backend has stored them all
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

TRACKER, FOLDER, VALUES = sys.argv[1], sys.argv[2], int(sys.argv[3])
Log = Callable[[dict[str, float], int], object]


def tellurio() -> tuple[Log, Callable[[], object]]:
    os.environ["TELLURIO_JOURNAL_DIR"] = os.path.join(FOLDER, "journals")
    import tellurio_sync as te

    te.login(mode="local", data_dir=os.path.join(FOLDER, "data"))
    run = te.init(project_display_name="bench")

    def log(values: dict[str, float], step: int) -> None:
        if len(values) == 1:
            ((name, value),) = values.items()
            te.log(name, value, step)
        else:
            te.log(values, step=step)

    return log, run.finish


def trackio() -> tuple[Log, Callable[[], object]]:
    os.environ["TRACKIO_DIR"] = FOLDER
    import trackio  # type: ignore[import-not-found]

    trackio.init(project="bench", embed=False)
    return (lambda values, step: trackio.log(values, step=step)), trackio.finish


def wandb() -> tuple[Log, Callable[[], object]]:
    os.environ.update(WANDB_MODE="offline", WANDB_DIR=FOLDER, WANDB_SILENT="true")
    import wandb  # type: ignore[import-not-found]

    run = wandb.init(project="bench")
    return (lambda values, step: run.log(values, step=step)), run.finish


def mlflow() -> tuple[Log, Callable[[], object]]:
    import mlflow  # type: ignore[import-not-found]

    mlflow.set_tracking_uri(f"sqlite:///{FOLDER}/mlflow.db")
    mlflow.start_run()
    return (lambda values, step: mlflow.log_metrics(values, step=step)), mlflow.end_run


def tensorboardx() -> tuple[Log, Callable[[], object]]:
    from tensorboardX import SummaryWriter  # type: ignore[import-not-found]

    writer = SummaryWriter(FOLDER)

    def log(values: dict[str, float], step: int) -> None:
        for name, value in values.items():
            writer.add_scalar(name, value, step)

    return log, writer.close


def measure(log: Log, values: dict[str, float], count: int, begin: int) -> dict[str, float]:
    times = []
    for step in range(begin, begin + count):
        start = time.perf_counter_ns()
        log(values, step)
        times.append(time.perf_counter_ns() - start)
    times.sort()
    return {"p50_us": times[len(times) // 2] / 1e3, "p99_us": times[len(times) * 99 // 100] / 1e3}


def size_bytes(folder: str) -> int:
    return sum(os.path.getsize(os.path.join(path, name)) for path, _, names in os.walk(folder) for name in names)


def main() -> None:
    begin = time.perf_counter()
    log, finish = {
        "tellurio_sync": tellurio,
        "trackio": trackio,
        "wandb": wandb,
        "mlflow": mlflow,
        "tensorboardX": tensorboardx,
    }[TRACKER]()
    log({"first": 0.5}, 0)
    start_s = time.perf_counter() - begin
    result: dict[str, Any] = {"start_s": start_s, "before_bytes": size_bytes(FOLDER)}
    cpu = time.process_time()
    begin = time.perf_counter()
    result["one"] = measure(log, {"loss": 0.1}, VALUES, 1)
    many = max(1, VALUES // 20)
    result["twenty"] = measure(log, {f"metric {number}": number / 7 for number in range(20)}, many, VALUES + 1)
    finish()
    count = VALUES + 20 * many
    result["all_s"] = time.perf_counter() - begin
    result["cpu_us_per_value"] = (time.process_time() - cpu) * 1e6 / count
    result["stored_bytes_per_value"] = (size_bytes(FOLDER) - result.pop("before_bytes")) / count
    result["rss_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print("RESULT " + json.dumps(result), flush=True)


def all_the_way() -> None:
    os.environ["TELLURIO_JOURNAL_DIR"] = os.path.join(FOLDER, "journals")
    import tellurio_sync as te

    te.login(mode="local", data_dir=os.path.join(FOLDER, "data"))
    run = te.init(project_display_name="bench")
    cpu, begin = time.process_time(), time.perf_counter()
    for step in range(VALUES):
        run.log("loss", step / 3, step)
    logged_s = time.perf_counter() - begin
    is_stored = run.flush(600)
    result = {
        "logged_s": logged_s,
        "stored_s": time.perf_counter() - begin,
        "cpu_us_per_value": (time.process_time() - cpu) * 1e6 / VALUES,
        "missing": VALUES - len(run.metrics("loss")) if is_stored else VALUES,
    }
    run.finish()
    result["stored_bytes_per_value"] = size_bytes(os.path.join(FOLDER, "data")) / VALUES
    print("RESULT " + json.dumps(result), flush=True)


all_the_way() if TRACKER == "--all-the-way" else main()
