"""OpenTelemetry spans, if they are asked for: of calls to the server, and of questions to language models.

Only the API of OpenTelemetry is used (extra ``otel``): where spans go is the program's to set up.  Names and attributes
are those of its semantic conventions for RPC and for generative AI.  No span holds a prompt, an answer or a key.

While nobody asks for spans, a call only finds ``TRACERS`` empty, and OpenTelemetry is not imported.

| State | Written by | Read by | Guarded by | Enforced by |
|---|---|---|---|---|
| ``TRACERS`` | any thread | any thread | one C call on a list each | – |
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from ._version import __version__
from .errors import UsageError

T = TypeVar("T")

TRACERS: list[Any] = []
"""The tracer that is in use, the last one; none: there are no spans."""


def trace(tracer_provider: Any = None) -> Callable[[], None]:
    """Make OpenTelemetry spans of calls to the server and of questions to language models, from now on.

    Args:
        tracer_provider: an ``opentelemetry.trace.TracerProvider``; None: the one that the program has set.

    Returns:
        A function that ends it.

    Raises:
        UsageError: ``opentelemetry-api`` is not installed (extra ``otel``).
    """
    try:
        from opentelemetry.trace import get_tracer
    except ImportError:
        raise UsageError("Spans need opentelemetry-api: pip install 'tellurio_sync[otel]'.") from None
    tracer = get_tracer("tellurio_sync", __version__, tracer_provider)
    TRACERS.append(tracer)

    def stop() -> None:
        with contextlib.suppress(ValueError):
            TRACERS.remove(tracer)

    return stop


@contextlib.contextmanager
def span(name: str, attributes: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """A span, the current one inside. What is put into the dict that this gives becomes attributes at its end.

    Attributes that are None are left out. What a tracer raises is left out as well: it must not break a call. An
    exception from inside ends the span as an error, by its type alone: its text may hold data.
    """
    late: dict[str, Any] = {}
    with contextlib.ExitStack() as stack:
        made: Any = None
        with contextlib.suppress(Exception):
            from opentelemetry.trace import SpanKind, Status, StatusCode, use_span

            made = TRACERS[-1].start_span(name, kind=SpanKind.CLIENT, attributes=_present(attributes))
            stack.enter_context(use_span(made, record_exception=False, set_status_on_exception=False))
        try:
            yield late
        except BaseException as exc:
            if made is not None:
                with contextlib.suppress(Exception):
                    made.set_attribute("error.type", type(exc).__qualname__)
                    made.set_status(Status(StatusCode.ERROR))
            raise
        finally:
            if made is not None:
                with contextlib.suppress(Exception):
                    made.set_attributes(_present(late))
                    made.end()


def of_call(request: Callable[..., T], url: str, port: int) -> Callable[..., T]:
    """``request(method, ...)``, a call to the server, in a span of its own."""

    def traced(method: str, *args: Any, **options: Any) -> T:
        attributes = {
            "rpc.system": "jsonrpc",
            "rpc.method": method,
            "rpc.jsonrpc.version": "2.0",
            "server.address": url,
            "server.port": port,
        }
        with span(method, attributes) as late:
            reply = request(method, *args, **options)
            error = reply.get("error") if isinstance(reply, dict) else None
            if isinstance(error, dict):
                late["rpc.jsonrpc.error_code"] = error.get("code")
            return reply

    return traced


def _present(attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in attributes.items() if value is not None}
