"""The two cheap servers as programs, and how the one in C is built."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ..conftest import FAILSAFE
from . import __main__ as benchmark
from .compiled import SOURCE, TLS_LIBRARIES, TLS_OPTION, CompiledServer, NoCompiler, compiled_server
from .conftest import Certificate
from .processes import HERE, Failed, running

# --- the programs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["py", "c"])
@pytest.mark.parametrize("has_certificate", [False, True])
def test_a_server_says_its_ports_and_ends_with_its_input(
    compiled: CompiledServer, certificate: Certificate, kind: str, has_certificate: bool
) -> None:
    if kind == "c" and has_certificate and not compiled.has_tls:
        pytest.skip("server.c could not be compiled with OpenSSL")
    command = [str(compiled.program)] if kind == "c" else [sys.executable, str(HERE / "server.py")]
    command += ["-1", str(certificate.path)] if has_certificate else ["-1"]
    done = subprocess.run(command, input=b"", capture_output=True, timeout=FAILSAFE, check=True)
    assert re.fullmatch(rb'\{"port": \d+%s\}\n' % (rb', "tls_port": \d+' * has_certificate), done.stdout)


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="processes cannot be pinned here")
def test_a_server_runs_on_the_core_that_it_is_given(compiled: CompiledServer) -> None:
    core = max(os.sched_getaffinity(0))
    with subprocess.Popen([compiled.program, str(core)], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert os.sched_getaffinity(process.pid) == {core}


@pytest.mark.parametrize("arguments", [[], ["-1", "no-such-file.pem"], ["-1", str(SOURCE)], ["-1", "a", "b"]])
def test_wrong_arguments(compiled: CompiledServer, arguments: list[str]) -> None:
    """It says so, and nothing that would be taken for ports."""
    done = subprocess.run([compiled.program, *arguments], input=b"", capture_output=True, timeout=FAILSAFE)
    assert done.returncode in (1, 2)
    assert done.stdout == b""
    assert done.stderr != b""


# --- building the one in C ------------------------------------------------------------------------------


def compiler() -> list[str]:
    return shlex.split(os.environ.get("CC", "")) or ["cc"]


def test_it_is_built_with_tls_where_openssl_is(compiled: CompiledServer, tmp_path: Path) -> None:
    """An error in what is compiled for TLS alone would otherwise look like a machine without OpenSSL."""
    source = tmp_path / "openssl.c"
    source.write_text("#include <openssl/ssl.h>\nint main(void) { return SSL_CTX_new(TLS_server_method()) == NULL; }\n")
    command = [*compiler(), str(source), *TLS_LIBRARIES, "-o", str(tmp_path / "openssl")]
    if subprocess.run(command, capture_output=True, timeout=FAILSAFE).returncode != 0:
        pytest.skip("OpenSSL's headers are missing")
    assert compiled.has_tls


def test_it_is_built_once_for_each_source(compiled: CompiledServer, tmp_path: Path) -> None:
    source = tmp_path / "server.c"
    source.write_bytes(SOURCE.read_bytes())
    first = compiled_server(tmp_path / "new" / "folder", source)
    built = first.program.stat()
    assert compiled_server(first.program.parent, source) == first
    assert first.program.stat() == built
    source.write_text(source.read_text() + "/* changed */\n")
    assert compiled_server(first.program.parent, source).program != first.program


def test_it_may_be_built_by_several_at_once(compiled: CompiledServer, tmp_path: Path) -> None:
    with ThreadPoolExecutor(3) as pool:
        built = set(pool.map(compiled_server, [tmp_path] * 3))
    ((program, has_tls),) = built
    assert list(tmp_path.iterdir()) == [program]
    assert has_tls is compiled.has_tls
    with running(program, -1) as ports:
        assert ports["port"]


def test_without_a_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CC", "no-such-compiler -v")
    with pytest.raises(NoCompiler, match="no C compiler: no-such-compiler"):
        compiled_server(tmp_path)


class WithoutOpenSSL:
    """A compiler that finds no headers of OpenSSL."""

    def __init__(self, folder: Path) -> None:
        self._calls = folder / "calls"
        self.path = folder / "compiler"
        command = shlex.join(compiler())
        self.path.write_text(
            f"#!/bin/sh\necho called >>{shlex.quote(str(self._calls))}\n"
            f'case " $* " in *" {TLS_OPTION} "*) echo "openssl/ssl.h: no such file" >&2; exit 1;; esac\n'
            f'exec {command} "$@"\n'
        )
        self.path.chmod(0o755)

    def count_calls(self) -> int:
        return len(self._calls.read_text().splitlines())


@pytest.fixture
def without_openssl(compiled: CompiledServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WithoutOpenSSL:
    found = WithoutOpenSSL(tmp_path)
    monkeypatch.setenv("CC", str(found.path))
    return found


def test_without_openssl_it_is_built_without_tls(
    without_openssl: WithoutOpenSSL, certificate: Certificate, tmp_path: Path
) -> None:
    folder = tmp_path / "folder"
    server = compiled_server(folder)
    assert server.has_tls is False
    assert without_openssl.count_calls() == 2
    assert list(folder.iterdir()) == [server.program]
    with running(server.program, -1) as ports:
        assert list(ports) == ["port"]
    command = [str(server.program), "-1", str(certificate.path)]
    done = subprocess.run(command, input=b"", capture_output=True, timeout=FAILSAFE)
    assert (done.returncode, done.stdout, done.stderr) == (2, b"", b"built without TLS\n")


def test_what_could_not_be_built_is_not_tried_on_each_run(without_openssl: WithoutOpenSSL, tmp_path: Path) -> None:
    """But when the source has changed."""
    source, folder = tmp_path / "server.c", tmp_path / "folder"
    source.write_bytes(SOURCE.read_bytes())
    first = compiled_server(folder, source)
    assert compiled_server(folder, source) == first
    assert without_openssl.count_calls() == 2
    source.write_text(source.read_text() + "/* changed */\n")
    assert compiled_server(folder, source) != first
    assert without_openssl.count_calls() == 4


def test_with_a_source_that_cannot_be_compiled(compiled: CompiledServer, tmp_path: Path) -> None:
    source = tmp_path / "server.c"
    source.write_text("int main(void) { return nothing; }\n")
    with pytest.raises(Failed, match=r"server\.c cannot be compiled: .*nothing") as caught:
        compiled_server(tmp_path / "folder", source)
    assert not isinstance(caught.value, NoCompiler)
    assert list((tmp_path / "folder").iterdir()) == []


# --- which of them the benchmark takes ------------------------------------------------------------------


def test_the_benchmark_takes_the_compiled_one_for_what_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    built = CompiledServer(Path("server-1"), True)
    monkeypatch.setattr(benchmark, "compiled_server", lambda: built)
    assert benchmark.Benchmark._choose_servers() == (Path("server-1"), Path("server-1"), "server.c, compiled")
    built = CompiledServer(Path("server-1"), False)
    plain, tls, said = benchmark.Benchmark._choose_servers()
    assert (plain, tls) == (Path("server-1"), "server.py")
    assert said.startswith("server.c, compiled; over TLS server.py (")


def test_the_benchmark_takes_the_one_in_python_without_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "no-such-compiler")
    assert benchmark.Benchmark._choose_servers() == (
        "server.py",
        "server.py",
        "server.py (no C compiler: no-such-compiler)",
    )
