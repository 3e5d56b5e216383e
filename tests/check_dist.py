"""Look at the built distributions: what is in them, and whether they work where nothing else is installed.

The wheel, which `build` makes from the source distribution, is tried with its C extension and without; the source
distribution where there is no C compiler.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import tempfile
import threading
import venv
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from websockets.sync.server import ServerConnection, serve

WANTED = {
    "tellurio_sync/__init__.py",
    "tellurio_sync/docs/protocol.md",
    "tellurio_sync/py.typed",
    "tellurio_sync/examples/facility_support.py",
    "tellurio_sync/examples/mails.json",
    "tellurio_sync/backend/page/templates/base.html",
    "tellurio_sync/backend/page/static/uPlot.iife.min.js",
    "tellurio_sync/backend/page/static/uPlot.LICENSE.txt",
}
WANTED_IN_SDIST = {*WANTED, "LICENSE", "README.md", "setup.cfg", "setup.py", "tellurio_sync/_speedups.c"}

# What an empty environment must be able to do with the core install alone.
TRIAL = """
import sys
import tellurio_sync as te
from tellurio_sync import speedups
assert "asyncio" not in sys.modules
extension = "none" if speedups.compiled is None else speedups.compiled.__file__
assert (extension == "none") == (sys.argv[1] == "pure"), f"wanted: {sys.argv[1]}; C extension: {extension}"

class Run:
    uuid = "run-1"

te.set_active_run(Run())
client = te.TellurioWebSocketClient(base_url="ws://127.0.0.1", port=int(sys.argv[2]), api_key="key")
try:
    client.call("create_variable", {})
except RuntimeError as exc:
    assert str(exc) == "WebSocket is not connected", exc
else:
    raise AssertionError("a call without a connection did not fail")
with client:
    assert client.call("create_variable", {"data": "hi"})["result"]["data"] == "hi"
    replies = client.call_many([("create_variable", {"data": str(n)}) for n in range(100)])
    assert [reply["result"]["data"] for reply in replies] == [str(n) for n in range(100)], replies
try:
    te.login(mode="local")
except te.errors.BackendError as exc:
    assert "tellurio_sync[local]" in str(exc), exc
else:
    raise AssertionError("the local backend started without its extra")
print(f"works: {te.__version__}, {sys.argv[1]}")
"""


def answer(connection: ServerConnection) -> None:
    connection.send('{"jsonrpc":"2.0","result":{"session_id":"s"},"id":null}')
    for message in connection:
        request = json.loads(message)
        connection.send(json.dumps({"jsonrpc": "2.0", "id": request["id"], "result": request["params"]}))


@contextmanager
def server_port() -> Iterator[int]:
    with serve(answer, "127.0.0.1", 0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.socket.getsockname()[1]
    thread.join()


def check_content(wheel: Path, sdist: Path) -> bool:
    """Whether the wheel holds the C extension."""
    names = set(zipfile.ZipFile(wheel).namelist())
    assert names >= WANTED, f"missing in {wheel.name}: {WANTED - names}"
    foreign = [name for name in names if not name.startswith("tellurio_sync") or name.endswith(".c")]
    assert not foreign, f"does not belong into {wheel.name}: {foreign}"
    extensions = [name for name in names if PurePosixPath(name).match("tellurio_sync/_speedups.*")]
    is_pure = wheel.name.endswith("-none-any.whl")
    # Named after a platform, but without it, a wheel would keep machines from building their own.
    assert len(extensions) == (0 if is_pure else 1), (
        f"{wheel.name} holds {extensions or 'no C extension: no compiler?'}"
    )
    with tarfile.open(sdist) as archive:
        names_in_sdist = {name.partition("/")[2] for name in archive.getnames()}
    missing = WANTED_IN_SDIST - names_in_sdist
    assert not missing, f"missing in {sdist.name}: {missing}"
    built = [name for name in names_in_sdist if name.endswith((".so", ".pyc"))]
    assert not built, f"does not belong into {sdist.name}: {built}"
    print(f"checked {wheel.name} ({len(names)} files) and {sdist.name} ({len(names_in_sdist)})")
    return not is_pure


def main(directory: str) -> None:
    (wheel,) = Path(directory).glob("*.whl")
    (sdist,) = Path(directory).glob("*.tar.gz")
    is_compiled = check_content(wheel, sdist)
    plain = {name: value for name, value in os.environ.items() if not name.startswith("TELLURIO_")}
    # An old pip would otherwise take the old way of installing, with what setuptools there is, and call it deprecated.
    without_compiler = {**plain, "CC": "/nonexistent", "PIP_USE_PEP517": "1"}
    with tempfile.TemporaryDirectory() as empty, server_port() as port:
        venv.create(empty, with_pip=True)
        python = next(
            path for path in (Path(empty, "bin", "python"), Path(empty, "Scripts", "python.exe")) if path.exists()
        )

        def run(*command: object, env: dict[str, str] = plain) -> None:
            subprocess.run(list(map(str, command)), check=True, cwd=empty, env=env)

        def install(*arguments: object, env: dict[str, str] = plain) -> None:
            run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *arguments, env=env)

        install(wheel.resolve())
        run(python, "-c", TRIAL, "compiled" if is_compiled else "pure", port)
        run(python, "-c", TRIAL, "pure", port, env={**plain, "TELLURIO_SYNC_PURE_PYTHON": "1"})
        run(python.parent / "tellurio-sync", "--version")
        # Without the cache: pip keeps there what it once built from a file of this name.
        install("--no-cache-dir", "--no-deps", "--force-reinstall", sdist.resolve(), env=without_compiler)
        run(python, "-c", TRIAL, "pure", port)


if __name__ == "__main__":
    main(*sys.argv[1:])
