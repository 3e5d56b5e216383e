"""Imports point one way (the order of the packages), and the lower layers know nothing of Tellurio."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import tellurio_sync

PACKAGE = Path(tellurio_sync.__file__).parent

# A module may import from its own layer and from those named here.
ALLOWED = {
    "_version": set(),
    "errors": set(),
    "deadlines": {"errors"},
    "speedups": set(),
    "active_run": set(),
    "run_context": {"active_run"},
    "secret": set(),
    "addresses": {"errors"},
    "jsonrpc": {"errors"},
    "transport": {"errors", "deadlines", "speedups"},
    "peer": {"errors", "deadlines", "jsonrpc", "speedups", "transport"},
    "model": {"errors", "deadlines", "jsonrpc", "autodiff", "optim", "secret", "studio"},
    "autodiff": {"errors", "deadlines", "jsonrpc", "model"},
    "optim": {"errors", "deadlines", "jsonrpc", "model", "autodiff"},
    "cognitive": {"errors", "model", "autodiff"},
    "data": {"model"},
    "client": {
        *("errors", "deadlines", "addresses", "jsonrpc", "transport", "peer", "model", "autodiff", "active_run"),
        "secret",
    },
    "studio": {"_version", "errors", "deadlines", "addresses", "jsonrpc", "active_run", "secret"},
    "local": {"errors", "deadlines"},
    "backend": {"errors", "jsonrpc"},
    "session": {
        *("errors", "deadlines", "addresses", "active_run", "client", "local", "model", "autodiff", "optim", "peer"),
        *("secret", "studio"),
    },
    "trainer": {"errors", "model", "autodiff", "optim", "cognitive", "session"},
}

# The only modules that import these packages.
ONLY_IN = {
    "websocket": {"transport/handshake.py"},
    "requests": {"studio/rest.py", "studio/http_session.py"},
    "asyncio": {"backend"},
    "aiohttp": {"backend"},
    "keyring": {"studio/keystore.py"},
}


def layer_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports_of(path: Path) -> set[str]:
    """Absolute names of what a module imports, at any depth of its code; typing-only imports are left out."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing_only = {
        node
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    parents = ["tellurio_sync", *path.relative_to(PACKAGE).parts[:-1]]
    names = set()
    for node in ast.walk(tree):
        if node in typing_only:
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = parents[: len(parents) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            names |= {f"{module}.{alias.name}" for alias in node.names}
    return names


MODULES = sorted(path for path in PACKAGE.rglob("*.py") if layer_of(path) in ALLOWED)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_one_way(path: Path) -> None:
    own = layer_of(path)
    imported = {name.split(".")[1] for name in imports_of(path) if name.startswith("tellurio_sync.")}
    assert imported - {own} <= ALLOWED[own]


@pytest.mark.parametrize("package", ONLY_IN)
def test_a_foreign_package_is_imported_at_one_border(package: str) -> None:
    importers = {
        str(path.relative_to(PACKAGE).as_posix())
        for path in PACKAGE.rglob("*.py")
        if any(name.split(".")[0] == package for name in imports_of(path))
    }
    assert importers, f"nothing imports {package}: this row is out of date"
    assert {
        name for name in importers if name not in ONLY_IN[package] and name.split("/")[0] not in ONLY_IN[package]
    } == set()


def test_the_lower_layers_know_nothing_of_tellurio() -> None:
    for layer in ("jsonrpc", "transport", "peer"):
        for path in (PACKAGE / layer).glob("*.py"):
            code = path.read_text(encoding="utf-8")
            assert "Variable" not in code
            assert "run_uuid" not in code
