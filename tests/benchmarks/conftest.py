"""The two cheap servers, side by side."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import trustme

from .compiled import CompiledServer, NoCompiler, compiled_server
from .conversation import Port, Ports
from .processes import running


class Certificate(NamedTuple):
    """What a server is started with, and the context of a client that trusts it."""

    path: Path
    client: ssl.SSLContext


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    authority = trustme.CA()
    path = tmp_path_factory.mktemp("certificate") / "server.pem"
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(str(path))
    client = ssl.create_default_context()
    authority.configure_trust(client)
    return Certificate(path, client)


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> CompiledServer:
    """The server in C."""
    try:
        return compiled_server(tmp_path_factory.mktemp("compiled"))
    except NoCompiler as exc:
        pytest.skip(str(exc))


@pytest.fixture(scope="module")
def plain_ports(compiled: CompiledServer) -> Iterator[Ports]:
    """Of the server in Python and of the one in C."""
    with running("server.py", -1) as slow, running(compiled.program, -1) as fast:
        yield Port(slow["port"]), Port(fast["port"])


@pytest.fixture(scope="module")
def tls_ports(compiled: CompiledServer, certificate: Certificate) -> Iterator[Ports]:
    """The same over TLS."""
    if not compiled.has_tls:
        pytest.skip("server.c could not be compiled with OpenSSL: its headers are missing")
    path, client = certificate
    with running("server.py", -1, path) as slow, running(compiled.program, -1, path) as fast:
        yield Port(slow["tls_port"], client), Port(fast["tls_port"], client)


@pytest.fixture(scope="module", params=["plain", "tls"])
def ports(request: pytest.FixtureRequest) -> Ports:
    """One after the other."""
    ports: Ports = request.getfixturevalue(f"{request.param}_ports")
    return ports
