"""A connected transport, and certificates for `localhost`, made by an authority that only these tests trust."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from typing import NamedTuple

import pytest
import trustme

from .ends import SocketFarEnd, tcp_pair


class Tls(NamedTuple):
    """Contexts of both ends, of a server whose name is another, and of one that wants a certificate of the client."""

    server: ssl.SSLContext
    client: ssl.SSLContext
    other_server: ssl.SSLContext
    demanding_server: ssl.SSLContext


@pytest.fixture(scope="session")
def tls() -> Tls:
    authority = trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(server)
    other = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("elsewhere.example").configure_cert(other)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    demanding = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(demanding)
    authority.configure_trust(demanding)
    demanding.verify_mode = ssl.CERT_REQUIRED
    return Tls(server, client, other, demanding)


@pytest.fixture
def far() -> Iterator[SocketFarEnd]:
    end = SocketFarEnd(*tcp_pair())
    yield end
    end.dispose()
