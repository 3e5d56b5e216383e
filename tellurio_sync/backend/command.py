"""The command of the backend's process: what ``local`` starts, and ``tellurio-sync backend``."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence

from .options import BackendOptions, arguments_parser

PROGRAM = "tellurio-sync"


def main(arguments: Sequence[str], level: str = "info") -> int:
    """Run a backend with these arguments. Blocks. Returns its exit code: see ``server.serve``, and 2: wrong arguments.

    Args:
        level: how much to log.
    """
    try:
        options = BackendOptions.from_args(arguments_parser(f"{PROGRAM} backend").parse_args(arguments))
    except SystemExit as exc:  # it has printed what is wrong, or the help
        return int(exc.code or 0)
    logging.basicConfig(format=f"[{PROGRAM}] %(levelname)s %(name)s: %(message)s")
    logging.getLogger("tellurio_sync").setLevel(level.upper())
    opening = None
    if options.opened_file is not None:
        from ..errors import BackendError
        from ..leash import exit_code
        from .opening import Opening, new_key, write_privately

        # Before the web framework is loaded, because a program waits for it.
        try:
            opening = Opening(options, new_key(options))
            opening.announce()
            write_privately(options.opened_file, opening.address())
        except BackendError as exc:
            if opening is not None:
                opening.close()
            print(f"{PROGRAM} backend: {exc}", file=sys.stderr)
            return exit_code(exc)
    from .server import serve

    return serve(options, opening)
