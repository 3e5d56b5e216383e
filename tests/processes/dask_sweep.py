"""A sweep over a Dask cluster of two worker processes, one of which is killed: ``python -m ... FOLDER``."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import tellurio_sync as te


def train(work: tuple[int, str]) -> int:
    """A run of its own, from a worker's own connection to the backend that all share; seed 2 dies once."""
    seed, folder = work
    te.login(mode="local")
    with te.init(project_display_name="Sweep", name=f"seed {seed}") as run:
        te.Parameter(f"Prompt {seed}", role="prompt")
        run.log("seed", seed)
    te.close()
    mark = Path(folder, f"died-{seed}")
    if seed == 2 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return seed


def main(folder: str) -> None:
    from distributed import Client, LocalCluster

    te.login(mode="local")  # keeps the backend up between the workers
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None, local_directory=folder) as cluster,
        Client(cluster) as client,
    ):
        print(te.map(train, [(seed, folder) for seed in range(4)], executor=client.get_executor()))
    runs = te.runs(project_display_name="Sweep")
    print(sorted({row["value"] for run in runs for row in run.metrics("seed")}))


if __name__ == "__main__":
    main(sys.argv[1])
