"""Look at the built distributions: what is in them, and whether the wheel works where nothing else is installed."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

WANTED = [
    "tellurio_sync/__init__.py",
    "tellurio_sync/py.typed",
    "tellurio_sync/examples/facility_support.py",
    "tellurio_sync/examples/mails.json",
]

# What an empty environment must be able to do with the core install alone.
TRIAL = """
import sys
import tellurio_sync as te
assert "asyncio" not in sys.modules
client = te.TellurioWebSocketClient(base_url="ws://127.0.0.1", port=9)
try:
    client.call("create_variable", {})
except RuntimeError as exc:
    assert str(exc) == "WebSocket is not connected", exc
else:
    raise AssertionError("a call without a connection did not fail")
try:
    te.login(mode="local")
except te.errors.BackendError as exc:
    assert "tellurio_sync[local]" in str(exc), exc
else:
    raise AssertionError("the local backend started without its extra")
print("the wheel works:", te.__version__)
"""


def main(directory: str) -> None:
    (wheel,) = Path(directory).glob("*.whl")
    (sdist,) = Path(directory).glob("*.tar.gz")
    names = zipfile.ZipFile(wheel).namelist()
    missing = [name for name in WANTED if name not in names]
    assert not missing, f"missing in {wheel.name}: {missing}"
    foreign = [name for name in names if not name.startswith("tellurio_sync")]
    assert not foreign, f"does not belong into {wheel.name}: {foreign}"
    with tempfile.TemporaryDirectory() as empty:
        venv.create(empty, with_pip=True)
        python = next(
            path for path in (Path(empty, "bin", "python"), Path(empty, "Scripts", "python.exe")) if path.exists()
        )
        subprocess.run([python, "-m", "pip", "install", "--quiet", wheel], check=True)
        subprocess.run([python, "-c", TRIAL], check=True, cwd=empty)
        subprocess.run([python.parent / "tellurio-sync", "--version"], check=True, cwd=empty)
    print(f"checked {wheel.name} ({len(names)} files) and {sdist.name}")


if __name__ == "__main__":
    main(*sys.argv[1:])
