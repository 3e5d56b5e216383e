"""A reverse proxy as small as it can be: it serves one backend under a path, as nginx and Jupyter's proxy do.

It rewrites the head of each request and then only passes bytes on, so that answers that go on, and what follows an
upgrade, arrive as they are sent. Each connection carries one request.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import Any

FAILSAFE = 30.0


class ReverseProxy:
    """Serves until the end of its ``with`` block.

    Args:
        port: of the backend.
        prefix: the path under which it is served, without a slash at its end.
        strips: whether the backend gets paths without the prefix, or all of them.
        headers: set in each request to the backend, in place of those that the client has sent.

    Attributes:
        url: where clients and browsers reach the backend.
        elsewhere: the request lines that were not for the prefix, and were answered with 404.
        asked: the paths that were, without it.
    """

    def __init__(self, port: int, prefix: str, *, strips: bool, headers: dict[str, str] | None = None) -> None:
        self.elsewhere: list[str] = []
        self.asked: list[str] = []
        self._backend_port = port
        self._prefix = prefix
        self._strips = strips
        self._headers = headers or {}
        self._started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="reverse proxy")

    def __enter__(self) -> ReverseProxy:
        self._thread.start()
        assert self._started.wait(FAILSAFE), "the proxy did not start"
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join(FAILSAFE)
        assert not self._thread.is_alive(), "the proxy did not stop"

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._ends: list[asyncio.StreamWriter] = []
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}{self._prefix}"
        self._started.set()
        await self._stopping.wait()
        server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        closing = []
        for end in self._ends:
            end.transport.abort()  # what it has not been able to send until now will not be read any more
            closing.append(end.wait_closed())
        await asyncio.gather(*closing, return_exceptions=True)

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = self._loop.create_task(self._pass_on(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ends = [writer]
        self._ends.append(writer)
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            verb, path, version = head[0].split(" ")
            if not path.startswith(f"{self._prefix}/"):
                self.elsewhere.append(head[0])
                writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                return
            inner = path[len(self._prefix) :]
            self.asked.append(inner)
            set_here = {name.lower() for name in self._headers}
            is_upgrade = any(line.lower().startswith("upgrade:") for line in head)
            if not is_upgrade:
                set_here.add("connection")
            lines = [line for line in head[1:] if line and line.partition(":")[0].lower() not in set_here]
            lines += [f"{name}: {value}" for name, value in self._headers.items()]
            lines += [] if is_upgrade else ["Connection: close"]
            first = f"{verb} {inner if self._strips else path} {version}"
            there, to_backend = await asyncio.open_connection("127.0.0.1", self._backend_port)
            ends.append(to_backend)
            self._ends.append(to_backend)
            to_backend.write("\r\n".join([first, *lines, "", ""]).encode("latin-1"))
            sending = self._loop.create_task(_pipe(reader, to_backend))
            try:
                await _pipe(there, writer)
            finally:
                sending.cancel()
                await asyncio.gather(sending, return_exceptions=True)
        except (OSError, asyncio.IncompleteReadError):
            pass  # one of the two ends has gone
        finally:
            for end in ends:
                with contextlib.suppress(OSError):
                    end.close()


async def _pipe(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await source.read(65536):
            target.write(data)
            await target.drain()
