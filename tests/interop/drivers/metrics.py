"""Metrics through the logging of the package under the peer: installed, removed, and left to the end of the process."""

import harness
from afnio.tellurio import init, log, login
from afnio.tellurio._client_manager import get_default_clients

import tellurio_sync.afnio


def observe(namespace, pipe):
    login()
    with tellurio_sync.afnio.install(metrics=True):
        run = init(namespace, "Metrics", name="over ours")
        harness.signal(pipe)
        # The server is away now.
        log("accuracy", 0.5)
        run.log("accuracy", 0.75)
        run.log("accuracy", 1, step=10)
        log(name="note", value={"any": ["json", None]}, step=3)
        seen = {"refused": harness.attempt(run.log, "bad", object())}
        harness.signal(pipe)
        # And back. A client that the program names is used as ever.
        run.log("client", 1, client=get_default_clients()[0])
        run.finish()
    seen["status"] = str(getattr(run.status, "value", run.status))
    login(relogin=False)
    run = init(namespace, "Metrics", name="its own")
    run.log("accuracy", 2)
    seen["its own fails"] = "error" in harness.attempt(run.log, "bad", object())
    tellurio_sync.afnio.install(metrics=True)
    run.log("accuracy", 3)
    tellurio_sync.afnio.uninstall()
    run.finish()
    tellurio_sync.afnio.install(metrics=True)
    init(namespace, "Metrics", name="left open").log("accuracy", 4)
    return seen


harness.main(observe)
