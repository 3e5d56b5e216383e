"""A JSON-RPC server over WebSocket that costs next to nothing: it copies the id of a request into a template.

A program of its own (standard library only), in a process of its own: ``python server.py CORE [CERTIFICATE]``.
It prints one JSON line with its ports, serves each connection in a thread, and ends at the end of its standard input.

What a request gets depends on a word in its text: ``bench_hold`` nothing, ``bench_big`` a reply as large as itself,
``create_variable`` a Variable's id, ``run_function`` a Variable that needs no gradient (protocol §E.1: its reply is all
that comes of it), everything else a reply of about 200 bytes.  A GET that asks for no WebSocket is
answered as the verification of a key, so that a whole session can log in here.

``server.c`` is the same in C; without TLS where it cannot be compiled with OpenSSL. What is changed here, is changed
there.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import re
import socket
import ssl
import struct
import sys
import threading

FINAL_TEXT = 0x81
CLOSE = 0x88
PING = 0x89
PONG = 0x8A

SMALL_BYTES = 4096  # up to this a request is unmasked as a whole; of a larger one only both ends
END_BYTES = 256

GREETING = b'{"jsonrpc":"2.0","result":{"session_id":"bench"},"id":null}'
SMALL_REPLY = (
    b'{"jsonrpc":"2.0","result":{"variable_id":"9f1c2d3e-0000-4000-8000-0123456789ab",'
    b'"message":"Variable updated successfully.","field":"data","value":"a text of a few words"},'
)
CREATED = b'{"jsonrpc":"2.0","result":{"message":"Variable created successfully.","variable_id":"%d"},'
RAN = (
    b'{"jsonrpc":"2.0","result":{"message":"Function executed successfully.","data":{"variable_id":"%d",'
    b'"data":"xx","role":"r","requires_grad":false,"_retain_grad":false,"_grad":[],"_output_nr":0,"_grad_fn":null,'
    b'"is_leaf":true}},'
)
VERIFIED = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 42\r\nConnection: close\r\n\r\n"
    b'{"email":"a@example.org","username":"ann"}'
)
_ID = re.compile(rb'"id"\s*:\s*("[^"]*"|\d+)')


def frame(payload: bytes, first: int = FINAL_TEXT) -> bytes:
    """An unmasked frame, as servers send them (RFC 6455 §5.2)."""
    size = len(payload)
    if size < 126:
        return bytes((first, size)) + payload
    if size < 1 << 16:
        return struct.pack("!BBH", first, 126, size) + payload
    return struct.pack("!BBQ", first, 127, size) + payload


def unmask(payload: bytes, mask: bytes) -> bytes:
    size = len(payload)
    key = (mask * (size // 4 + 1))[:size]
    return (int.from_bytes(payload, "big") ^ int.from_bytes(key, "big")).to_bytes(size, "big")


class Connection:
    """One client."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._big_results: dict[int, bytes] = {}
        self._created = 0
        self._buffer = memoryview(bytearray(1 << 18))  # once: recv() would map and unmap as much for every request

    def serve(self) -> None:
        """Answer until the client goes."""
        data = self._upgrade()
        while True:
            position, replies, is_open = self._answer_all(data)
            if replies:
                self._sock.sendall(replies[0] if len(replies) == 1 else b"".join(replies))
            if not is_open:
                return
            data = data[position:]
            more = self._receive_more(data)
            if not more:
                return
            data = data + more if data else more

    def _upgrade(self) -> bytes:
        """Do the handshake; the greeting leaves in the same segment (protocol §A.2). What came behind it."""
        head = b""
        while b"\r\n\r\n" not in head:
            more = self._sock.recv(65536)
            if not more:
                raise ConnectionError
            head += more
        head, _, rest = head.partition(b"\r\n\r\n")
        key = re.search(rb"(?i)\r\nsec-websocket-key:[ \t]*(\S+)", head)
        if key is None:
            self._sock.sendall(VERIFIED)
            raise ConnectionError
        accept = base64.b64encode(hashlib.sha1(key[1] + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
        reply = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        self._sock.sendall(reply + b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n" + frame(GREETING))
        return rest

    def _receive_more(self, data: bytes) -> bytes:
        missing = self._missing(data)
        if missing < 1 << 16:
            return bytes(self._buffer[: self._sock.recv_into(self._buffer)])
        body = bytearray(missing)
        view = memoryview(body)
        while view:
            count = self._sock.recv_into(view)
            if not count:
                return b""
            view = view[count:]
        return bytes(body)

    def _missing(self, data: bytes) -> int:
        """How many bytes the first frame lacks, as far as its header tells."""
        if len(data) >= 14 and data[1] & 127 == 127:
            return 14 + int.from_bytes(data[2:10], "big") - len(data)
        return 0

    def _answer_all(self, data: bytes) -> tuple[int, list[bytes], bool]:
        """Answer every whole frame in ``data``: where the rest begins, the replies, and whether the client stays."""
        replies: list[bytes] = []
        position = 0
        end = len(data)
        while end - position >= 6:
            first = data[position]
            size = data[position + 1] & 127
            start = position + 6
            if size == 126:
                size = int.from_bytes(data[position + 2 : position + 4], "big")
                start = position + 8
            elif size == 127:
                size = int.from_bytes(data[position + 2 : position + 10], "big")
                start = position + 14
            stop = start + size
            if stop > end:
                break
            mask = data[start - 4 : start]
            if first == FINAL_TEXT:
                reply = self._reply(data, start, size, mask)
                if reply is not None:
                    replies.append(reply)
            elif first == CLOSE:
                replies.append(frame(unmask(data[start:stop], mask)[:2], CLOSE))
                return stop, replies, False
            elif first == PING:
                replies.append(frame(unmask(data[start:stop], mask), PONG))
            position = stop
        return position, replies, True

    def _reply(self, data: bytes, start: int, size: int, mask: bytes) -> bytes | None:
        if size <= SMALL_BYTES:
            text = unmask(data[start : start + size], mask)
        else:
            tail = (size - END_BYTES) // 4 * 4  # where the mask begins again
            text = unmask(data[start : start + END_BYTES], mask) + unmask(data[start + tail : start + size], mask)
        if b"bench_hold" in text:
            return None
        at = text.rfind(b'"id"')
        id_member = text[at:]
        if b"," in id_member:  # not the last member
            found = _ID.search(text)
            assert found is not None
            id_member = b'"id":' + found[1] + b"}"
        if b"bench_big" in text:
            return frame(self._big_result(size) + id_member)
        form = CREATED if b'"create_variable"' in text else RAN if b'"run_function"' in text else None
        if form is None:
            return frame(SMALL_REPLY + id_member)
        self._created += 1
        return frame(form % self._created + id_member)

    def _big_result(self, size: int) -> bytes:
        if size not in self._big_results:
            self._big_results[size] = b'{"jsonrpc":"2.0","result":{"data":"' + b"x" * size + b'"},'
        return self._big_results[size]


def serve(listener: socket.socket, tls: ssl.SSLContext | None) -> None:
    """Accept for ever; one thread for each connection."""
    while True:
        sock, _ = listener.accept()
        threading.Thread(target=serve_one, args=(sock, tls), daemon=True).start()


def serve_one(sock: socket.socket, tls: ssl.SSLContext | None) -> None:
    with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
        stack.callback(sock.close)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls is not None:
            sock = tls.wrap_socket(sock, server_side=True)
            stack.callback(sock.close)
        Connection(sock).serve()


def main() -> None:
    core, certificate = int(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else None
    if core >= 0:
        os.sched_setaffinity(0, {core})
    ports = {}
    contexts: dict[str, ssl.SSLContext | None] = {"port": None}
    if certificate is not None:
        contexts["tls_port"] = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        contexts["tls_port"].load_cert_chain(certificate)
    for name, context in contexts.items():
        listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        ports[name] = listener.getsockname()[1]
        threading.Thread(target=serve, args=(listener, context), daemon=True).start()
    print(json.dumps(ports), flush=True)
    sys.stdin.buffer.read()


if __name__ == "__main__":
    main()
