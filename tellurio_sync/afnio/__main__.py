"""``python -m tellurio_sync.afnio``: run a program for afnio over this package's client, or convert a checkpoint."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Sequence
from pathlib import Path

from ..errors import UsageError
from .convert import convert
from .install import AfnioVersionError, install

_USAGE = """usage: python -m tellurio_sync.afnio SCRIPT [ARGUMENT ...]    run a program
       python -m tellurio_sync.afnio -m MODULE [ARGUMENT ...] run a module
       python -m tellurio_sync.afnio --metrics ...            the same, and what it logs waits for nothing
       python -m tellurio_sync.afnio convert OLD NEW          write a file of afnio's save() for te.load()"""


def main(arguments: Sequence[str]) -> int:
    """Run the program named first, with the other arguments as its own; the exit code is the program's."""
    if arguments and arguments[0] in ("-h", "--help"):
        print(_USAGE)
        return 0
    takes_metrics = list(arguments[:1]) == ["--metrics"]
    arguments = arguments[1:] if takes_metrics else arguments
    if list(arguments) in ([], ["-m"]):
        print(_USAGE, file=sys.stderr)
        return 2
    if arguments[0] == "convert":
        return _convert(arguments[1:])
    try:
        install(metrics=takes_metrics)
    except AfnioVersionError as exc:
        print(f"tellurio_sync.afnio: {exc}", file=sys.stderr)
        return 1
    if arguments[0] == "-m":
        sys.argv = list(arguments[1:])
        sys.path.insert(0, "")
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
        return 0
    script = Path(arguments[0])
    if not script.exists():
        print(f"tellurio_sync.afnio: there is no program {script}.", file=sys.stderr)
        return 2
    sys.argv = list(arguments)
    # As `python script.py` does: the folder of the program comes first.
    sys.path.insert(0, str(script.resolve().parent))
    runpy.run_path(str(script), run_name="__main__")
    return 0


def _convert(files: Sequence[str]) -> int:
    if len(files) != 2:
        print(_USAGE, file=sys.stderr)
        return 2
    try:
        left = convert(*files)
    except (OSError, UsageError) as exc:
        print(f"tellurio_sync.afnio: {exc}", file=sys.stderr)
        return 1
    for place in left:
        print(f"left out, the program makes it: {place}")
    print(f"written: {files[1]}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
