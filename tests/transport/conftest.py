"""A connected transport, and certificates for `localhost`, made by an authority that only these tests trust."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from typing import NamedTuple

import pytest
import trustme

from .ends import SocketFarEnd, tcp_pair


class Tls(NamedTuple):
    """Contexts of both ends, and one of a server whose name is another."""

    server: ssl.SSLContext
    client: ssl.SSLContext
    other_server: ssl.SSLContext


@pytest.fixture(scope="session")
def tls() -> Tls:
    authority = trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(server)
    other = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("elsewhere.example").configure_cert(other)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    return Tls(server, client, other)


@pytest.fixture
def far() -> Iterator[SocketFarEnd]:
    end = SocketFarEnd(*tcp_pair())
    yield end
    end.dispose()
