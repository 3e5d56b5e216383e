"""Takes TLS off connections: what stands between a proxy and a server that knows no TLS."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import threading

from .proxy import FAILSAFE


class TlsFront:
    """Relays each connection to a port without TLS; where one side ends, so does the other.

    Args:
        context: a server's.
        target_port: to relay to; may be changed at any time, for the connections that come then.
    """

    def __init__(self, context: ssl.SSLContext, target_port: int) -> None:
        self.target_port = target_port
        self._context = context
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="TLS front")

    def __enter__(self) -> TlsFront:
        self._thread.start()
        listening = asyncio.start_server(self._relay, "127.0.0.1", 0, ssl=self._context)
        self._server = asyncio.run_coroutine_threadsafe(listening, self._loop).result(FAILSAFE)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(FAILSAFE)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(FAILSAFE)
        self._loop.close()

    async def _stop(self) -> None:
        self._server.close()
        relays = asyncio.all_tasks() - {asyncio.current_task()}
        for relay in relays:
            relay.cancel()
        await asyncio.gather(*relays, return_exceptions=True)

    async def _relay(self, near_reader: asyncio.StreamReader, near: asyncio.StreamWriter) -> None:
        far: asyncio.StreamWriter | None = None
        try:
            far_reader, far = await asyncio.open_connection("127.0.0.1", self.target_port)
            pumps = [asyncio.create_task(_pump(near_reader, far)), asyncio.create_task(_pump(far_reader, near))]
            _, left = await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            for pump in left:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
        except (OSError, asyncio.CancelledError):
            pass  # nobody is there, or this ends
        finally:
            for writer in (near, far):
                if writer is not None:
                    writer.close()


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await source.read(65536):
            sink.write(data)
            await sink.drain()
