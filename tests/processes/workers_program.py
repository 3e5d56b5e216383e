"""A program whose worker processes use its local backend: ``python -m ... HOW HAS_DATA_DIR FOLDER``.

It prints the id of its backend's process and, for each worker, that of the one that the worker used.
"""

from __future__ import annotations

import multiprocessing
import sys
from concurrent.futures import Executor, ProcessPoolExecutor
from typing import Any

import tellurio_sync as te


def backend_pid() -> int:
    return te.local.default_local_backend().pid


def use_without_login(number: int) -> int:
    with te.init(project_display_name="Workers", name=f"worker {number}") as run:
        prompt = te.Parameter(f"Prompt {number}", role="prompt")
        assert prompt.variable_id is not None
        run.log("number", number)
    return backend_pid()


def use_after_login(number: int) -> int:
    te.login(mode="local")
    return use_without_login(number)


def use_own_session(number: int) -> int:
    with te.Session() as session:
        session.login(mode="local")
        with session.init(None, "Workers") as run:
            run.log("number", number)
    return backend_pid()


def log_given(given: tuple[Any, int]) -> int:
    run, number = given
    run.log("number", number)
    run.flush(60)
    return 0


def make_pool(how: str, folder: str) -> Executor:
    if how == "loky":
        from loky import ProcessPoolExecutor as Loky

        loky: Executor = Loky(1)
        return loky
    if how == "dask":
        from distributed import Client, LocalCluster

        cluster = LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None, local_directory=folder)
        executor: Executor = Client(cluster).get_executor()
        return executor
    return ProcessPoolExecutor(1, mp_context=multiprocessing.get_context(how))


def main(how: str, where: str, folder: str) -> None:
    pool = make_pool(how, folder)
    pool.submit(abs, 1).result()  # the worker, and a forkserver, may be there before the login
    te.login(mode="local", **({"ephemeral": True} if where == "ephemeral" else {"data_dir": f"{folder}/own"}))
    print(backend_pid())
    for number, use in enumerate((use_without_login, use_after_login, use_own_session)):
        print(pool.submit(use, number).result())
    with te.init(project_display_name="Workers", name="given") as run:
        pool.submit(log_given, (run, 3)).result()
    runs = te.runs(project_display_name="Workers")
    print(sorted(row["value"] for run in runs for row in run.metrics("number")))
    pool.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
