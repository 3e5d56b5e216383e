"""Imports point down the floors of the house, and the lower floors know nothing of Tellurio."""

from __future__ import annotations

import ast
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import tellurio_sync

PACKAGE = Path(tellurio_sync.__file__).parent

# The floors, from the ground up: a module imports from lower floors only, and from none of its own. Every module and
# package directly below ``tellurio_sync`` has its place here.
FLOORS = [
    (
        "_version",
        "parallel",
        "cards",
        "console",
        "errors",
        "deadlines",
        "free_threading",
        "graph_picture",
        "journal",
        "speedups",
        "ownership",
        "forked",
        "active_run",
        "secret",
    ),
    ("exit_order",),
    ("run_context", "addresses", "tracing", "jsonrpc", "leash", "ledger", "long_calls", "queued", "surroundings"),
    ("workers", "events"),
    ("transport", "local", "studio", "backend"),
    ("peer",),
    ("model",),
    ("autodiff", "client"),
    ("optim", "cognitive", "data", "afnio"),
    ("session",),
    ("trainer", "notebook"),
    ("__init__", "compat"),
    ("examples", "testing"),
    ("cli",),
    ("__main__",),
]

# Of the floors below, a module imports from these, and from all of these.
USES = {
    "_version": set(),
    "parallel": set(),
    "cards": set(),
    "console": set(),
    "errors": set(),
    "deadlines": set(),
    "journal": set(),
    "free_threading": set(),
    "graph_picture": set(),
    "speedups": set(),
    "forked": set(),
    "ownership": set(),
    "active_run": set(),
    "secret": set(),
    "exit_order": {"forked"},
    "run_context": {"active_run"},
    "surroundings": {"deadlines"},
    "long_calls": {"console", "forked", "ownership"},
    "queued": {"forked", "speedups"},
    "tracing": {"_version", "errors"},
    "events": {"queued"},
    "addresses": {"errors"},
    "jsonrpc": {"errors"},
    "ledger": {"cards", "errors"},
    "transport": {"ownership", "secret", "speedups", "surroundings"},
    "leash": {"errors"},
    "workers": {"forked", "leash", "ownership"},
    "local": {
        "addresses",
        "deadlines",
        "errors",
        "exit_order",
        "forked",
        "leash",
        "ownership",
        "surroundings",
        "workers",
    },
    "studio": {
        "ownership",
        "_version",
        "active_run",
        "addresses",
        "cards",
        "console",
        "deadlines",
        "errors",
        "exit_order",
        "forked",
        "journal",
        "jsonrpc",
        "ledger",
        "secret",
        "surroundings",
    },
    "backend": {"addresses", "errors", "graph_picture", "journal", "jsonrpc", "leash", "secret", "surroundings"},
    "peer": {
        "deadlines",
        "errors",
        "events",
        "exit_order",
        "forked",
        "jsonrpc",
        "ownership",
        "queued",
        "secret",
        "speedups",
        "transport",
    },
    "model": {"cards", "errors", "forked", "graph_picture", "jsonrpc", "ownership", "parallel", "secret"},
    "autodiff": {"errors", "model", "parallel", "tracing"},
    "client": {
        "active_run",
        "addresses",
        "deadlines",
        "errors",
        "forked",
        "jsonrpc",
        "long_calls",
        "model",
        "peer",
        "secret",
        "speedups",
        "transport",
        "tracing",
    },
    "optim": {"autodiff", "errors", "model"},
    "cognitive": {"autodiff", "errors", "model"},
    "data": {"model"},
    "afnio": {"client", "deadlines", "errors", "jsonrpc", "model", "studio"},
    "session": {
        "active_run",
        "addresses",
        "autodiff",
        "backend",
        "client",
        "deadlines",
        "errors",
        "forked",
        "local",
        "long_calls",
        "model",
        "optim",
        "ownership",
        "peer",
        "secret",
        "studio",
        "surroundings",
        "workers",
    },
    "notebook": {"_version", "active_run", "console", "errors", "session", "studio"},
    "trainer": {"autodiff", "cards", "cognitive", "data", "errors", "ledger", "model", "optim", "session"},
    "compat": {
        "_version",
        "active_run",
        "autodiff",
        "client",
        "cognitive",
        "data",
        "errors",
        "model",
        "optim",
        "session",
        "studio",
        "trainer",
    },
    "__init__": {
        "_version",
        "active_run",
        "autodiff",
        "client",
        "cognitive",
        "console",
        "data",
        "errors",
        "events",
        "free_threading",
        "long_calls",
        "model",
        "notebook",
        "optim",
        "parallel",
        "run_context",
        "session",
        "studio",
        "trainer",
        "tracing",
    },
    "cli": {
        "_version",
        "addresses",
        "backend",
        "client",
        "console",
        "errors",
        "examples",
        "journal",
        "jsonrpc",
        "leash",
        "local",
        "secret",
        "session",
        "studio",
        "surroundings",
        "transport",
    },
    "examples": {"__init__", "local", "model", "studio"},
    "testing": {"deadlines", "errors", "local", "model", "session"},
    "__main__": {"cli"},
}

# The imports that run up the floors: a Variable is what functions are called on, and can call them itself, as in
# every autograd, and so is a language model. Both are lazy.
UPWARDS = {("model/variable.py", "autodiff"), ("model/language.py", "autodiff")}
AUTOGRAD = {
    *("autodiff.backward_pass", "autodiff.conversation", "autodiff.function", "autodiff.functional"),
    *("autodiff.messages", "model.language", "model.variable", "model.wire"),
}

# The only modules that import these packages.
ONLY_IN = {
    "websocket": {"transport/handshake.py"},
    "requests": {"studio/rest.py", "studio/http_session.py"},
    "asyncio": {"backend", "model/language.py"},  # there for programs that have a loop of their own: achat()
    "aiohttp": {"backend"},
    "keyring": {"studio/keystore.py"},
}


def layer_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@cache
def imports_of(path: Path) -> frozenset[str]:
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
    return frozenset(names)


MODULES = sorted(PACKAGE.rglob("*.py"))


def package_of(name: str) -> str:
    """The module or package directly below ``tellurio_sync`` in which this name is defined."""
    below = [*name.split("."), ""][1]
    return below if below in USES and below != "__init__" else "__init__"


def used_by(path: Path) -> set[str]:
    return {package_of(name) for name in imports_of(path) if name.split(".")[0] == "tellurio_sync"} - {layer_of(path)}


def test_every_module_has_a_floor() -> None:
    placed = [module for floor in FLOORS for module in floor]
    assert len(placed) == len(set(placed))
    assert set(placed) == set(USES) == {layer_of(path) for path in MODULES}


def test_what_may_be_imported_is_on_a_lower_floor() -> None:
    height = {module: number for number, floor in enumerate(FLOORS) for module in floor}
    assert {(own, used) for own in USES for used in USES[own] if height[used] >= height[own]} == set()


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path: Path) -> None:
    name = path.relative_to(PACKAGE).as_posix()
    upwards = {used for module, used in UPWARDS if module == name}
    assert used_by(path) - upwards <= USES[layer_of(path)]


@pytest.mark.parametrize("own", USES)
def test_nothing_is_permitted_that_is_not_used(own: str) -> None:
    used = {used for path in MODULES if layer_of(path) == own for used in used_by(path)}
    assert USES[own] <= used


def test_the_exceptions_are_used() -> None:
    for name, used in UPWARDS:
        assert used in used_by(PACKAGE / name)


def test_no_modules_import_each_other_in_a_circle_but_those_of_autograd() -> None:
    """Lazy imports count. What an ``__init__`` collects for others is not needed by the modules it collects."""
    names = {path.relative_to(PACKAGE).with_suffix("").as_posix().replace("/", "."): path for path in MODULES}
    graph: dict[str, set[str]] = {}
    for name, path in names.items():
        imported = {item.removeprefix("tellurio_sync.") for item in imports_of(path) if item != "tellurio_sync"}
        # ``from .a import b``: b is a module, or a name in a.
        graph[name] = {found for item in imported for found in (item, item.rpartition(".")[0]) if found in names}
        graph[name] -= {name}
    for name in AUTOGRAD:
        graph[name] -= AUTOGRAD
    try:
        tuple(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(f"a circle of imports: {' → '.join(error.args[1])}")


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
