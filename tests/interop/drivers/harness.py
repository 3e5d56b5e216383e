"""What every driver does: run a function and print what it observed, as one JSON object and nothing else.

A driver runs in the peer's own environment, as a process of its own.  It knows the peer by the names and the behaviour
that the protocol gives; whatever the peer prints or logs by itself is discarded, so that none of its lines, which a
traceback would show, ever reaches a reader.
"""

import json
import logging
import os
import sys

sys.tracebacklimit = 0


def error_of(exc):
    """An exception as an observation: its type and its text."""
    return {"type": type(exc).__name__, "text": str(exc)}


def attempt(function, *args, **kwargs):
    """What came of a call: ``{"value": ...}`` or ``{"error": {"type", "text"}}``."""
    try:
        return {"value": function(*args, **kwargs)}
    except Exception as exc:  # noqa: BLE001 - every kind of failure is an observation
        return {"error": error_of(exc)}


def signal(path):
    """Tell the test that it may go on, and wait until it has done its part: a line in each direction."""
    with open(path + ".asked", "w") as pipe:
        pipe.write("\n")
    with open(path + ".done") as pipe:
        pipe.read()


def main(function):
    """Run ``function`` with the arguments of the command line and print what it returns, or how it failed."""
    arguments = json.loads(sys.argv[1])
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    logging.disable(logging.CRITICAL)
    try:
        observed = {"observed": function(**arguments)}
    except BaseException as exc:  # noqa: BLE001 - as in attempt
        observed = {"failed": error_of(exc)}
    # What is no JSON was not expected: its type is enough to fail a comparison.
    json.dump(observed, out, default=lambda value: f"<{type(value).__name__}>")
    out.write("\n")
    out.close()
