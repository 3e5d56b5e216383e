"""The cheap server, built with the system's C compiler: once for each state of its source."""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import subprocess
import sysconfig
import tempfile
from pathlib import Path

from .processes import CACHE, HERE, Failed

SOURCE = HERE / "server.c"
OPTIONS = ("-std=c11", "-O2", "-pthread")
TIMEOUT = 60.0


class NoCompiler(Failed):
    """There is none, whether by the environment's ``CC`` or as ``cc``."""


def compiled_server(folder: Path = CACHE, source: Path = SOURCE) -> Path:
    """The program, which is built if it is not in ``folder`` yet.

    Raises:
        NoCompiler: it cannot be built here.
        Failed: it could not be built.
    """
    compiler = shlex.split(os.environ.get("CC", "")) or ["cc"]
    if shutil.which(compiler[0]) is None:
        raise NoCompiler(f"no C compiler: {compiler[0]}")
    command = [*compiler, *OPTIONS]
    try:
        # The folder may be one of several machines.
        kind = repr((command, sysconfig.get_platform())).encode()
        program = folder / f"server-{hashlib.sha256(kind + source.read_bytes()).hexdigest()[:16]}"
        if not program.exists():
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder) as unfinished:
                built = Path(unfinished) / "server"
                command += ["-o", str(built), str(source)]
                subprocess.run(command, check=True, capture_output=True, text=True, errors="replace", timeout=TIMEOUT)
                os.replace(built, program)  # another run may be building it, too
    except subprocess.CalledProcessError as exc:
        complaint = next((line for line in exc.stderr.splitlines() if "error" in line), exc.stderr[:200])
        raise Failed(f"{source.name} cannot be compiled: {complaint}") from exc
    except (subprocess.TimeoutExpired, OSError) as exc:
        raise Failed(f"{source.name} cannot be compiled: {type(exc).__name__}") from exc
    return program
