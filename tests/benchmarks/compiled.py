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
from typing import NamedTuple

from .processes import CACHE, HERE, Failed

SOURCE = HERE / "server.c"
OPTIONS = ("-std=c11", "-O2", "-pthread")
TLS_OPTION = "-DWITH_TLS"
TLS_LIBRARIES = ("-lssl", "-lcrypto")
TIMEOUT = 60.0


class NoCompiler(Failed):
    """There is none, whether by the environment's ``CC`` or as ``cc``."""


class CompiledServer(NamedTuple):
    """The program, and whether it serves over TLS, too."""

    program: Path
    has_tls: bool


def compiled_server(folder: Path = CACHE, source: Path = SOURCE) -> CompiledServer:
    """The program, which is built if it is not in ``folder`` yet: with TLS, or without where that cannot be built.

    A program without TLS in ``folder`` means that the other could not be built, which is then not tried again: after
    installing OpenSSL's headers, ``make clean`` first.

    Raises:
        NoCompiler: it cannot be built here.
        Failed: it could not be built, not even without TLS.
    """
    compiler = shlex.split(os.environ.get("CC", "")) or ["cc"]
    if shutil.which(compiler[0]) is None:
        raise NoCompiler(f"no C compiler: {compiler[0]}")
    # Libraries come behind the source: a linker may pass over what nothing has asked for yet.
    with_tls = [*compiler, *OPTIONS, TLS_OPTION, str(source), *TLS_LIBRARIES]
    without = [*compiler, *OPTIONS, str(source)]
    try:
        for command in (with_tls, without):
            program = _path(command, folder, source)
            if program.exists():
                return CompiledServer(program, command is with_tls)
        try:
            return CompiledServer(_build(with_tls, folder, source), True)
        except subprocess.CalledProcessError:  # OpenSSL is missing; or the source is wrong, which shows without it, too
            return CompiledServer(_build(without, folder, source), False)
    except subprocess.CalledProcessError as exc:
        complaint = next((line for line in exc.stderr.splitlines() if "error" in line), exc.stderr[:200])
        raise Failed(f"{source.name} cannot be compiled: {complaint}") from exc
    except (subprocess.TimeoutExpired, OSError) as exc:
        raise Failed(f"{source.name} cannot be compiled: {type(exc).__name__}") from exc


def _path(command: list[str], folder: Path, source: Path) -> Path:
    """Where the program is that this command makes of the source as it is now."""
    kind = repr((command, sysconfig.get_platform())).encode()  # the folder may be one of several machines
    return folder / f"server-{hashlib.sha256(kind + source.read_bytes()).hexdigest()[:16]}"


def _build(command: list[str], folder: Path, source: Path) -> Path:
    program = _path(command, folder, source)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as unfinished:
        built = Path(unfinished) / "server"
        command = [*command, "-o", str(built)]
        subprocess.run(command, check=True, capture_output=True, text=True, errors="replace", timeout=TIMEOUT)
        os.replace(built, program)  # another run may be building it, too
    return program
