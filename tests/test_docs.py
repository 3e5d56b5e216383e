"""The documentation cannot lie where a test can look: references, links, file names, tables of methods."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import tellurio_sync
from tellurio_sync import errors
from tellurio_sync.autodiff.function import Function
from tellurio_sync.backend.connection import EXTENSIONS
from tellurio_sync.backend.engine.functions import FUNCTIONS
from tellurio_sync.backend.long_methods import LONG_METHODS
from tellurio_sync.backend.methods import METHODS
from tellurio_sync.backend.options import BackendOptions
from tellurio_sync.backend.rest import Rest
from tellurio_sync.backend.store import Store
from tellurio_sync.client import TellurioWebSocketClient

from . import thread_tables
from .processes.test_lock_order import ranks
from .test_layers import FLOORS

ROOT = Path(__file__).parents[1]
DOCS = Path(tellurio_sync.__file__).parent / "docs"
PAGES = sorted([*DOCS.rglob("*.md"), ROOT / "README.md"])
PROTOCOL = (DOCS / "protocol.md").read_text(encoding="utf-8")

LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#{1,6} (.+)$", re.MULTILINE)
FENCED = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def prose_of(text: str) -> str:
    """A page without its blocks of code."""
    return FENCED.sub("", text)


def anchors_of(text: str) -> set[str]:
    """The anchors of a page's headings, as the usual renderers make them."""
    words = (re.sub(r"[^\w\s-]", "", heading.lower()) for heading in HEADING.findall(prose_of(text)))
    return {word.strip().replace(" ", "-") for word in words}


def broken_links(page: Path, text: str) -> list[str]:
    broken = []
    for target in LINK.findall(prose_of(text)):
        if re.match(r"[a-z]+:", target):
            continue  # a test does not go to the network
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        if not file.is_file() or (anchor and anchor not in anchors_of(file.read_text(encoding="utf-8"))):
            broken.append(target)
    return broken


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    assert broken_links(page, page.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("link", ["absent.md", "protocol.md#absent", "#absent", "../absent/"])
def test_a_link_to_nothing_is_found(link: str) -> None:
    page = DOCS / "protocol.md"
    assert broken_links(page, f"# Heading\n[text]({link}) [fine](#a-connection)") == [link]


# --- names of files -------------------------------------------------------------------------------------

PATH = re.compile(r"`((?:[\w.-]+/)*[\w.-]+\.(?:py|c|cfg|md)|(?:[\w-]+/)+)`")


def missing_files(text: str) -> list[str]:
    """The paths in a page that are neither in the package nor in the repository."""
    return [path for path in PATH.findall(text) if not ((DOCS.parent / path).exists() or (ROOT / path).exists())]


@pytest.mark.parametrize("name", ["architecture.md", "contributing.md"])
def test_every_file_that_a_page_names_exists(name: str) -> None:
    assert missing_files((DOCS / name).read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("path", ["peer/absent.py", "absent/", "absent.md"])
def test_a_path_to_nothing_is_found(path: str) -> None:
    assert missing_files(f"in `{path}`, `peer/` and `peer/peer.py`") == [path]


def test_the_map_shows_every_package_and_module() -> None:
    table = (DOCS / "architecture.md").read_text(encoding="utf-8").partition("## The way of a call")[0]
    rooms = {path.name for path in DOCS.parent.glob("[!_]*.py")}
    rooms |= {f"{path.parent.name}/" for path in DOCS.parent.glob("*/__init__.py")}
    assert {room for room in rooms if f"`{room}" not in table} == set()


def test_the_floors_of_the_map_are_those_of_the_layer_test() -> None:
    drawing = (DOCS / "architecture.md").read_text(encoding="utf-8").partition("## The map")[2].split("```")[1]
    drawing = re.sub(r"\n {9,}", " ", drawing)  # the rest of a floor
    drawn = [set(re.findall(r"\w+(?=/|\.py)", line)) for line in drawing.splitlines() if line.strip()]
    assert drawn == [set(floor) for floor in reversed(FLOORS)]


PACKAGES = [path for path in DOCS.parent.rglob("__init__.py") if path.parent != DOCS.parent]
MAPS = [path for path in PACKAGES if re.search(r"^    \w+\.py {2}", path.read_text(encoding="utf-8"), re.MULTILINE)]


@pytest.mark.parametrize("path", MAPS, ids=lambda path: path.parent.name)
def test_the_map_of_a_package_shows_every_module_in_it(path: Path) -> None:
    head = path.read_text(encoding="utf-8").partition('"""\n')[0]
    shown = set(re.findall(r"[\w/]+\.py|\w+/", "".join(re.findall(r"^    .*\n", head, re.MULTILINE))))
    there = {module.name for module in path.parent.glob("[!_]*.py")}
    there |= {f"{inner.parent.name}/" for inner in path.parent.glob("*/__init__.py")}
    assert {name for name in shown if "/" not in name.rstrip("/")} == there


def test_the_protocol_describes_each_extension_of_the_backend() -> None:
    extensions = PROTOCOL.partition("\n## K. ")[2]
    assert [name for name in EXTENSIONS if f"`{name}`" not in extensions] == []


# --- references to sections -----------------------------------------------------------------------------

SECTIONS = set(re.findall(r"^#{2,3} ([A-Z](?:\.\d+)?)\.? ", PROTOCOL, re.MULTILINE))
TEXTS = [
    *sorted(path for path in DOCS.parent.rglob("*") if path.suffix in (".py", ".c", ".md")),
    *sorted(path for path in (ROOT / "tests").rglob("*") if path.suffix in (".py", ".c")),
    ROOT / "README.md",
]
REFERENCE = re.compile(r"§ ?(\w+(?:\.\d+)*)")
STANDARD = re.compile(r"(RFC \d+|JSON-RPC 2\.0)[\s#*]+(§[\d.]+(,| and| to)? ?)*$")


def unresolved(text: str) -> list[str]:
    """The references of a text that name no section: neither of the protocol nor of a standard named before it."""
    return [
        found[0]
        for found in REFERENCE.finditer(text)
        if found[1] not in SECTIONS and not (found[1][0].isdigit() and STANDARD.search(text[: found.start()]))
    ]


def test_every_reference_to_a_section_resolves() -> None:
    found = {str(path.relative_to(ROOT)): unresolved(path.read_text(encoding="utf-8")) for path in TEXTS}
    found.pop("tests/test_docs.py")
    assert {path: references for path, references in found.items() if references} == {}


@pytest.mark.parametrize("reference", ["§Z", "§A.99", "§ A.99", "§5.1", "§M", "§x"])
def test_a_reference_to_nothing_is_found(reference: str) -> None:
    fine = "protocol §C.1, §J and RFC 6455 §5.5.1, §7.1; JSON-RPC 2.0 §4\n"
    assert unresolved(f"{fine} ({reference})") == [reference]


def test_no_text_refers_to_a_description_that_is_not_here() -> None:
    foreign = re.compile(r"PROTOCOL\.md|\b[Ff]act \d")
    texts = [path for path in TEXTS if path != Path(__file__)]
    assert [str(path) for path in texts if foreign.search(path.read_text(encoding="utf-8"))] == []


# --- the tables of the protocol -------------------------------------------------------------------------


def section(letter: str) -> str:
    """The text of one section, up to the first of its sub-sections."""
    return re.split(r"^##", PROTOCOL.partition(f"\n## {letter}. ")[2], maxsplit=1, flags=re.MULTILINE)[0]


def rows(text: str) -> Iterator[list[str]]:
    """The cells of each row of the tables in ``text`` whose first cell is a name."""
    for line in text.splitlines():
        if line.startswith("| `"):
            yield [cell.strip() for cell in line.strip("|").split(" | ")]


def test_the_protocol_names_each_method_of_the_server_and_which_of_them_run_long() -> None:
    table = {row[0].strip("`"): row[-1].strip(" |*") == "yes" for row in rows(section("C"))}
    assert table == {name: name in LONG_METHODS for name in {**METHODS, **LONG_METHODS}}


def test_the_protocol_names_each_method_of_the_client() -> None:
    methods = {name.removeprefix("rpc_") for name in dir(TellurioWebSocketClient) if name.startswith("rpc_")}
    assert {row[0].strip("`") for row in rows(section("D"))} == methods


def test_the_protocol_names_each_function() -> None:
    assert {row[0].strip("`") for row in rows(section("G"))} == FUNCTIONS.keys()
    assert {
        cls.__name__ for cls in Function.__subclasses__() if cls.__module__ == Function.__module__
    } == FUNCTIONS.keys()


def test_the_protocol_names_each_endpoint(tmp_path: Path) -> None:
    store = Store(tmp_path)
    try:
        routes = {(route.method, route.path) for route in Rest(BackendOptions(), store).routes()}
    finally:
        store.close()
    named = set()
    extensions = PROTOCOL.partition("### K.8 ")[2].partition("### K.9")[0]
    for line in f"{section('J')}\n{extensions}".splitlines():
        for verb, path in re.findall(r"\| (GET|POST|PATCH|DELETE) `([^`]+)`", line):
            full = path.partition("?")[0].replace("...", "/api/v0/{ns}/projects/{project_slug}")
            full = full.replace("{ns}", "{namespace}").replace("{project_slug}", "{project}")
            named.add((verb, full.replace("{run_uuid}", "{run}")))
    assert named == routes


def test_the_protocol_compares_texts_that_the_backend_sends() -> None:
    sent = "".join(path.read_text(encoding="utf-8") for path in (DOCS.parent / "backend").glob("*.py"))
    compared = [cell.strip("`") for row in rows(section("C")) for cell in row[-2:-1] if cell.startswith("`")]
    assert len(compared) == 5
    assert [text for text in compared if f'"{text}"' not in sent] == []


def test_the_examples_of_the_protocol_are_json() -> None:
    blocks = re.findall(r"^```json\n(.*?)^```", PROTOCOL, re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 4
    for block in blocks:
        rest = block.strip()
        while rest:
            _, end = json.JSONDecoder().raw_decode(rest)
            rest = rest[end:].lstrip()


# --- threads --------------------------------------------------------------------------------------------


def thread_names(path: Path) -> Iterator[str]:
    """The names of the threads that a module starts."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ("Thread", "ThreadPoolExecutor"):
            names = [word.value for word in node.keywords if word.arg in ("name", "thread_name_prefix")]
            yield str(ast.literal_eval(names[0])) if names else f"a thread without a name in {path.name}"
        # A Timer gets its name afterwards.
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "timer.name":
            yield str(ast.literal_eval(node.value))


def test_the_architecture_names_each_thread() -> None:
    page = (DOCS / "architecture.md").read_text(encoding="utf-8")
    modules = [path for path in DOCS.parent.rglob("*.py") if "testing" not in path.parts]
    started = {name for path in modules for name in thread_names(path)}
    assert len(started) >= 7
    assert {name for name in started if f"`{name}`" not in page} == set()


LOCK = re.compile(r"^\s*(?:self\.)?(\w+)(?:: [^=]+)? = threading\.(?:R?Lock|Condition)\(", re.MULTILINE)
# What a thread waits for until another one releases it guards nothing.
SIGNALS = {("transport/websocket.py", "turn"), ("speedups.py", "_lock")}
# A transport for tests, and the package that is put under another one's connection.
ELSEWHERE = ("backend", "testing", "afnio", "memory.py")


def test_the_architecture_has_a_row_for_each_lock() -> None:
    modules = [path for path in DOCS.parent.rglob("*.py") if not set(ELSEWHERE) & {*path.parts}]
    made = {
        (path.relative_to(DOCS.parent).as_posix(), name)
        for path in modules
        for name in LOCK.findall(path.read_text(encoding="utf-8"))
    }
    assert len(made) >= 20
    assert made - ranks().keys() - SIGNALS == set(), "put it into the table of docs/architecture.md, in its order"


def test_a_lock_is_re_entrant_because_foreign_code_may_run_while_it_is_held() -> None:
    """A signal handler or a finaliser, which may call whatever it likes, would wait for its own thread for ever."""
    plain = {
        (path.relative_to(DOCS.parent).as_posix(), name)
        for path in DOCS.parent.rglob("*.py")
        if not set(ELSEWHERE) & {*path.parts}
        for name in re.findall(
            r"^\s*(?:global )?(?:self\.)?(\w+)(?:: [^=]+)? = threading\.Lock\(", path.read_text("utf-8"), re.M
        )
    }
    # Code that was interrupted by such code within OpenSSL is recognised, see `TlsStream._encrypt` and `is_held_up`.
    assert plain - SIGNALS == {("transport/tls.py", "_lock")}


def test_the_page_of_threads_has_the_tables_of_the_modules() -> None:
    assert thread_tables.PAGE.read_text(encoding="utf-8") == thread_tables.page(), "run: python -m tests.thread_tables"


def test_tables_of_a_docstring_are_found(tmp_path: Path) -> None:
    tables = ["| State | Guarded by |", "|---|---|", "| a | ``b`` |", "", "| Other |", "|---|"]
    module = tmp_path / "module.py"
    module.write_text("\n".join(['"""A.', "", *tables, '"""']), encoding="utf-8")
    assert list(thread_tables.tables_of(module)) == [tables[:3]]


def test_the_architecture_says_which_locks_are_re_entrant() -> None:
    table = (DOCS / "architecture.md").read_text(encoding="utf-8").partition("\n## Locks\n")[2]
    said = set(re.findall(r"^\| `(\w+)` \(re-entrant\)[^|]*\| `([\w/.]+)`", table, re.MULTILINE))
    made = {
        (name, path.relative_to(DOCS.parent).as_posix())
        for path in DOCS.parent.rglob("*.py")
        if not set(ELSEWHERE) & {*path.parts}
        for name in re.findall(r"^\s*(?:self\.)?(\w+)(?:: [^=]+)? = threading\.RLock\(", path.read_text("utf-8"), re.M)
    }
    assert said == made


# --- the page of errors ---------------------------------------------------------------------------------


def test_the_page_of_errors_has_each_error_that_is_raised() -> None:
    page = (DOCS / "faq.md").read_text(encoding="utf-8")
    never_raised = {"TellurioError", "CallError", "ProtocolError", "ModelError", "HttpError"}
    named = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, (Exception, Warning)) and value.__module__ == errors.__name__
    }
    assert len(named) > 20
    assert {name for name in named - never_raised if f"`{name}`" not in page} == set()


def test_the_site_has_every_page() -> None:
    site = (ROOT / ".ci" / "mkdocs.yml").read_text(encoding="utf-8")
    assert {page.name for page in DOCS.glob("*.md") if f": {page.name}\n" not in site} == set()
