"""Models behind an OpenAI-compatible endpoint: a scripted HTTP server on this machine."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from .conftest import RunningBackend
from .rpc_client import FAILSAFE, RpcClient, RpcError, tag
from .scripted import answer_like_a_model

USAGE = {
    "prompt_tokens": 100,
    "completion_tokens": 10,
    "total_tokens": 110,
    "prompt_tokens_details": {"cached_tokens": 40},
}


class Endpoint(ThreadingHTTPServer):
    """Answers like the scripted model; keeps what was asked. `failures` are statuses for the next requests."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.requests: list[tuple[dict[str, str], dict[str, Any]]] = []
        self.failures: list[tuple[int, str]] = []
        self.usage: dict[str, Any] | None = USAGE
        self.lock = threading.Lock()
        self.url = f"http://127.0.0.1:{self.server_address[1]}/v1"


class _Handler(BaseHTTPRequestHandler):
    server: Endpoint

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.requests.append(({k.lower(): v for k, v in self.headers.items()}, body))
            status, text = self.server.failures.pop(0) if self.server.failures else (200, "")
        answer: dict[str, Any] = {"error": {"message": text}}
        if status == 200:
            answer = {
                "id": "x",
                "object": "chat.completion",
                "created": 0,
                "model": body["model"],
                "choices": [
                    {
                        "index": 0,
                        "finish_reason": "stop",
                        "message": {"role": "assistant", "content": answer_like_a_model(body["messages"])},
                    }
                ],
                "usage": self.server.usage,
            }
        data = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args: Any) -> None:
        """Say nothing."""


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    for name in ("OPENAI_BASE_URL", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    server = Endpoint()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join(FAILSAFE)


def openai_model(rpc: RpcClient, **config: Any) -> dict[str, Any]:
    result = rpc.call("create_model", class_type="AsyncOpenAI", provider="openai", config=config, usage={})
    return {"__model_client__": True, "model_id": result["model_id"]}


def chat(rpc: RpcClient, client: dict[str, Any], text: str = "hello", **completion_args: Any) -> Any:
    return rpc.run("ChatCompletion", client, [{"role": "user", "content": [text]}], **completion_args)


def test_an_answer_with_its_usage_and_cost(rpc: RpcClient, endpoint: Endpoint) -> None:
    model = openai_model(rpc, base_url=endpoint.url, api_key="sk-secret-key", default_headers={"X-Team": "a"})
    assert chat(rpc, model, model="gpt-4o", temperature=0.0)["data"] == "HELLO"
    ((headers, body),) = endpoint.requests
    assert body == {"model": "gpt-4o", "messages": [{"role": "user", "content": "hello"}], "temperature": 0.0}
    assert (headers["authorization"], headers["x-team"]) == ("Bearer sk-secret-key", "a")
    (push,) = rpc.pushed("update_model")
    usage = push["value"]
    assert (push["field"], usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (
        "_usage",
        100,
        10,
        110,
    )
    assert usage["prompt_tokens_details"] == {"cached_tokens": 40, "audio_tokens": 0}
    assert usage["cost"]["amount"] == pytest.approx((60 * 2.5 + 40 * 1.25 + 10 * 10) / 1e6)
    assert rpc.pushes("heartbeat") == ["update_model", "reply"]


def test_usage_adds_up_over_calls_and_may_be_missing(rpc: RpcClient, endpoint: Endpoint) -> None:
    model = openai_model(rpc, base_url=endpoint.url, api_key="k")
    chat(rpc, model, model="gpt-4o")
    endpoint.usage = None
    chat(rpc, model, model="gpt-4o")
    assert rpc.pushed("update_model")[0]["value"]["prompt_tokens"] == 100


def test_defaults_come_from_the_backend(
    start_backend: Callable[..., RunningBackend], connect: Callable[..., RpcClient], endpoint: Endpoint
) -> None:
    rpc = connect(start_backend(lm_base_url=endpoint.url, lm_api_key="of-the-backend"))
    assert chat(rpc, openai_model(rpc), model="llama")["data"] == "HELLO"
    assert endpoint.requests[0][0]["authorization"] == "Bearer of-the-backend"


def test_an_endpoint_without_a_key(rpc: RpcClient, endpoint: Endpoint) -> None:
    assert chat(rpc, openai_model(rpc, base_url=endpoint.url), model="llama")["data"] == "HELLO"


def test_backward_and_step_name_their_models(rpc: RpcClient, endpoint: Endpoint) -> None:
    model = openai_model(rpc, base_url=endpoint.url, api_key="k")
    rpc.call(
        "set_model_singleton",
        model_id=model["model_id"],
        model_name="gpt-4o",
        client_args={},
        completion_args={"temperature": 1},
    )
    prompt = rpc.variable("Be kind.", "system prompt", True, parameter=True)
    answer = rpc.run("ChatCompletion", model, [{"role": "user", "content": [prompt]}], model="gpt-4o-mini")
    rpc.backward(tag(answer), rpc.variable("Shorter."))
    defaults = {"model_client": model, "completion_args": {"model": "o3"}}
    made = rpc.call("create_optimizer", optimizer_name="TGD", params=[prompt], defaults=defaults)
    rpc.call("run_step", optimizer_id=made["optimizer_id"])
    assert [body["model"] for _, body in endpoint.requests] == ["gpt-4o-mini", "gpt-4o", "o3"]
    assert endpoint.requests[1][1]["temperature"] == 1
    assert rpc.get(prompt)["data"] == "Be kind., better"


def test_retries_are_those_of_the_model(rpc: RpcClient, endpoint: Endpoint) -> None:
    endpoint.failures = [(500, "down")]
    model = openai_model(rpc, base_url=endpoint.url, api_key="k", max_retries=1)
    assert chat(rpc, model, model="llama")["data"] == "HELLO"
    assert len(endpoint.requests) == 2


@pytest.mark.parametrize("status", [400, 401, 500])
def test_failures_are_named_without_the_key(
    rpc: RpcClient, endpoint: Endpoint, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    endpoint.failures = [(status, "the key sk-secret-key is bad, header top-secret too")]
    config = {"api_key": "sk-secret-key", "max_retries": 0, "default_headers": {"X-Auth": "top-secret"}}
    model = openai_model(rpc, base_url=endpoint.url, **config)
    with pytest.raises(RpcError) as caught:
        chat(rpc, model, model="llama")
    assert caught.value.text.startswith(f"The language model 'llama' at {endpoint.url} failed: ")
    assert "the key *** is bad, header *** too" in caught.value.text
    assert "sk-secret-key" not in caplog.text


@pytest.mark.parametrize(
    ("config", "completion_args", "text"),
    [
        ({"api_key": "k"}, {}, "No model name"),
        ({"api_key": "k"}, {"model": ""}, "No model name"),
        ({"api_key": "k"}, {"model": "m", "stream": True}, "`stream=True` is not supported"),
        ({"api_key": "k"}, {"model": "m", "n": 2}, "`n=2` is not supported"),
        ({"api_key": "k"}, {"model": "m", "nonsense": 1}, "nonsense"),
        (
            {"api_key": "k", "base_url": "http://127.0.0.1:9/v1", "max_retries": 0},
            {"model": "m"},
            "connection refused: nothing listens",
        ),
    ],
)
def test_what_cannot_work_is_said(
    rpc: RpcClient, endpoint: Endpoint, config: dict[str, Any], completion_args: dict[str, Any], text: str
) -> None:
    model = openai_model(rpc, **{"base_url": endpoint.url, **config})
    with pytest.raises(RpcError) as caught:
        chat(rpc, model, **completion_args)
    assert text in caught.value.text
    assert endpoint.requests == []


def test_without_any_key(rpc: RpcClient, endpoint: Endpoint) -> None:
    with pytest.raises(RpcError) as caught:
        chat(rpc, openai_model(rpc), model="gpt-4o")
    assert "No API key" in caught.value.text
