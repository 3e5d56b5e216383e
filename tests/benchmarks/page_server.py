"""One other tracker's page: logs a run of many values, then serves its page; runs in an environment of its own.

usage: python page_server.py TRACKER FOLDER STEPS METRICS PORT

Prints the address when it serves, and serves until its standard input ends.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
import time
from pathlib import Path

TRACKER, FOLDER = sys.argv[1], sys.argv[2]
STEPS, METRICS, PORT = map(int, sys.argv[3:])


def values(step: int) -> dict[str, float]:
    return {f"metric_{metric:02}": math.sin(step / 50 + metric) for metric in range(METRICS)}


def trackio() -> str:
    os.environ["TRACKIO_DIR"] = FOLDER
    import trackio  # type: ignore[import-not-found]

    trackio.init(project="bench", embed=False)
    for step in range(STEPS):
        trackio.log(values(step), step=step)
    trackio.finish()
    trackio.show(project="bench", open_browser=False, block_thread=False, server_port=PORT)
    return f"http://127.0.0.1:{PORT}/?project=bench"


def mlflow() -> str:
    import mlflow  # type: ignore[import-not-found]
    from mlflow.entities import Metric  # type: ignore[import-not-found]

    store = f"sqlite:///{FOLDER}/mlflow.db"
    mlflow.set_tracking_uri(store)
    client = mlflow.MlflowClient()
    run = client.create_run("0").info.run_id
    now = int(time.time() * 1000)
    for first in range(0, STEPS, 1000 // METRICS):
        steps = range(first, min(STEPS, first + 1000 // METRICS))
        client.log_batch(
            run, [Metric(name, value, now, step) for step in steps for name, value in values(step).items()]
        )
    program = str(Path(sys.executable).with_name("mlflow"))
    subprocess.Popen([program, "ui", "--backend-store-uri", store, "--port", str(PORT), "--workers", "1"])
    return f"http://127.0.0.1:{PORT}/#/experiments/0/runs/{run}/model-metrics"


print({"trackio": trackio, "mlflow": mlflow}[TRACKER](), flush=True)
sys.stdin.read()
