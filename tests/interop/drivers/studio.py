"""Projects, runs and metrics."""

import harness
from afnio.tellurio import init, log
from afnio.tellurio.project import create_project, delete_project, get_project
from afnio.tellurio.run import RunStatus
from afnio.tellurio.run_context import get_active_run


def shown(project):
    if project is None:
        return None
    keys = ("display_name", "slug", "visibility", "role", "org_slug", "last_run_date")
    return {key: getattr(project, key, "absent") for key in keys}


def run_shown(run):
    return {
        "name": run.name,
        "description": run.description,
        "status": str(getattr(run.status, "value", run.status)),
        "project": run.project.slug,
        "user": run.user.username,
        "ordered": run.date_created <= run.date_updated,
    }


def observe(namespace):
    seen = {}
    seen["created"] = shown(create_project(namespace, "Test Project", visibility="PUBLIC"))
    seen["got"] = shown(get_project(namespace, "test-project"))
    seen["default visibility"] = shown(create_project(namespace, "Another-Project"))
    seen["missing"] = shown(get_project(namespace, "no-such-project"))
    seen["missing namespace"] = shown(get_project("no-such-namespace", "test-project"))
    seen["errors"] = {
        "visibility": harness.attempt(create_project, namespace, "Bad", visibility="INVALID_VISIBILITY"),
        "namespace": harness.attempt(create_project, "no-such-namespace", "Bad"),
        "delete there": harness.attempt(delete_project, "no-such-namespace", "bad"),
        "delete nothing": harness.attempt(delete_project, namespace, "no-such-project"),
    }

    run = init(namespace, "Test Project", name="first", description="words")
    seen["run"] = run_shown(run)
    seen["is active"] = get_active_run() is run
    run.log("accuracy", 0.5)
    log("accuracy", 0.75)
    log("accuracy", 1, step=10)
    log("accuracy", 2)
    log("note", {"any": ["json", None]}, step=3)
    run.finish()
    run.finish()
    seen["finished"] = str(getattr(run.status, "value", run.status))
    seen["no active run"] = harness.attempt(get_active_run)
    seen["fresh no more"] = get_project(namespace, "test-project").last_run_date is not None

    seen["taken"] = [init(namespace, "Test Project", name="first").name for _ in range(2)]
    seen["made up"] = [init(namespace, "Test Project").name for _ in range(2)]
    with init(namespace, "Test Project", name="as a block"):
        pass
    try:
        with init(namespace, "Test Project", name="crashing"):
            raise KeyError("on purpose")
    except KeyError:
        pass
    init(namespace, "Made By Init", name="failed", status=RunStatus.FAILED).finish(status=RunStatus.FAILED)
    seen["made by init"] = shown(get_project(namespace, "made-by-init"))
    delete_project(namespace, "made-by-init")
    seen["deleted"] = shown(get_project(namespace, "made-by-init"))
    init(namespace, "Test Project", name="left open")
    return seen


harness.main(observe)
