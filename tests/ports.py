"""Ports of this machine where nobody listens. Suites that run at the same time take ports all the while."""

from __future__ import annotations

import functools
import itertools
import random
import socket
from pathlib import Path


@functools.cache
def _bound() -> socket.socket:
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    return sock


def closed_port() -> int:
    """One that refuses connections, and that nobody else can take as long as this process lives."""
    return int(_bound().getsockname()[1])


def free_port() -> int:
    """One for a server, which may be started there again and again.

    It is none of those that the system gives to sockets that ask for any port: before the server listens, between its
    lives and at each restart another socket would get it now and then.
    """
    for port in _not_given_by_the_system():
        with socket.socket() as sock:
            try:
                sock.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("no port is free")


@functools.cache
def _not_given_by_the_system() -> itertools.chain[int]:
    try:
        lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except OSError:  # not Linux: there, from 49152 on, says RFC 6335
        lowest = 49152
    ports = list(range(10_000, max(lowest, 11_000)))
    random.shuffle(ports)  # suites at the same time have orders of their own
    return itertools.chain(ports)
