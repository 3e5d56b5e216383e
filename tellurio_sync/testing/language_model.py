"""A language model that answers from a script, behind an OpenAI-compatible HTTP endpoint or as a ``CallableModel``.

| State | Written by | Read by | Guarded by | Enforced by |
|---|---|---|---|---|
| script, requests | test, endpoint's threads, workers | the same | ``_lock``; not held while a function answers | – |
"""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple, Union

from ..errors import shorten
from ..model.language import CallableModel

Messages = list[dict[str, str]]


class Failure(NamedTuple):
    """A failure in place of an answer: the endpoint replies with this status (clients repeat 408, 409, 429, 5xx)."""

    status: int
    text: str = "The scripted language model was told to fail."


Answer = Union[str, Failure, Callable[[Messages], Union[str, Failure]]]

_POLL_INTERVAL = 0.05


class ScriptedModel:
    """Gives the listed answers in order, and records the requests. Thread-safe.

    The questions of a batch come at the same time and in any order: answer them by a function of the messages.

    Attributes:
        base_url: the endpoint, such as ``http://127.0.0.1:49152/v1``, for any OpenAI-compatible client.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._answers: deque[Answer] = deque()
        self._default: Answer | None = None
        self._requests: list[dict[str, Any]] = []
        self._server = _Server(("127.0.0.1", 0), _handler_for(self))
        self.base_url: str = f"http://127.0.0.1:{self._server.server_port}/v1"
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(_POLL_INTERVAL,), name="scripted-language-model", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Stop the endpoint. Blocks until all open questions are answered. Idempotent."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    # --- the script -------------------------------------------------------------------------------

    def answers(self, *answers: Answer) -> None:
        """Add answers to the script: each a text, a function of the messages, or a :class:`Failure`."""
        with self._lock:
            self._answers.extend(answers)

    def always(self, answer: Answer | None) -> None:
        """Set the answer for the time after the end of the script; None (the default): an error that says so."""
        with self._lock:
            self._default = answer

    @property
    def unused(self) -> int:
        """How many answers of the script are still to be given."""
        with self._lock:
            return len(self._answers)

    # --- the requests -----------------------------------------------------------------------------

    @property
    def prompts(self) -> list[Messages]:
        """The messages of each question, in the order of arrival."""
        return [request["messages"] for request in self.requests]

    @property
    def requests(self) -> list[dict[str, Any]]:
        """Each question with all its arguments, such as ``model`` and ``temperature``, in the order of arrival."""
        with self._lock:
            return list(self._requests)

    # --- as a model of the package ------------------------------------------------------------------

    def model(self) -> CallableModel:
        """A model of the current session that answers from this script, without HTTP. Blocks for one call."""
        return CallableModel(self._answer_call)

    def _answer_call(self, messages: Messages, **completion_args: Any) -> str:
        answer = self.answer({**completion_args, "messages": messages})
        if isinstance(answer, Failure):
            raise RuntimeError(answer.text)
        return answer

    def answer(self, request: dict[str, Any]) -> str | Failure:
        """Record a question and take the next answer, for the endpoint and for :meth:`model`."""
        with self._lock:
            self._requests.append(request)
            answer = self._answers.popleft() if self._answers else self._default
            number = len(self._requests)
        messages: Messages = request["messages"]
        if answer is None:
            last = shorten(str(messages[-1].get("content", "")))
            return Failure(400, f"The script holds no answer to question {number}, which ends with: {last}")
        if not callable(answer):
            return answer
        try:
            return answer(messages)
        except Exception as exc:  # noqa: BLE001 - the test's own function: its failure must reach the test
            return Failure(400, f"The function that answers question {number} failed: {type(exc).__name__}: {exc}")


# --- the endpoint ---------------------------------------------------------------------------------


class _Server(ThreadingHTTPServer):
    # Otherwise a test that ends while a question is open would leave a thread behind.
    daemon_threads = False
    # A batch sends all its questions at once. A connection that finds this queue full is tried again after one second.
    request_queue_size = 512


def _handler_for(model: ScriptedModel) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        # HTTP/1.0 ends the connection, and with it the thread, after each answer.

        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            answer = model.answer(request)
            if isinstance(answer, Failure):
                self._reply(answer.status, {"error": {"message": answer.text, "type": "scripted", "code": None}})
            else:
                self._reply(200, _completion(request, answer))

        def _reply(self, status: int, body: dict[str, Any]) -> None:
            data = json.dumps(body).encode()
            try:
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)
            except ConnectionError:
                # The client has given up.
                pass

        def log_message(self, format: str, *args: Any) -> None:
            """Log nothing: only tests print in a test run."""

    return Handler


def _completion(request: dict[str, Any], answer: str) -> dict[str, Any]:
    """The body of a chat completion. Each word counts as a token."""
    prompt_tokens = sum(len(str(message.get("content", "")).split()) for message in request["messages"])
    completion_tokens = len(answer.split())
    return {
        "id": "scripted",
        "object": "chat.completion",
        "created": 0,
        "model": request.get("model", "scripted"),
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": answer}}],
        "usage": {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": completion_tokens,
            "total_tokens": prompt_tokens + completion_tokens,
        },
    }
