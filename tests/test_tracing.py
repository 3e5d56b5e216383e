"""OpenTelemetry spans: what they say, that they hold no data, and that no tracer can break a call."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import tellurio_sync as te
from tellurio_sync import tracing

pytest.importorskip("opentelemetry.sdk")

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from .session.conftest import backend, make_session, session  # noqa: F401 - fixtures

TEXT = "prompt-or-answer-7d1f"


class Spans:
    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider(shutdown_on_exit=False)
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))

    def all(self) -> list[Any]:
        return list(self._exporter.get_finished_spans())

    def named(self, name: str) -> Any:
        (found,) = [span for span in self.all() if span.name == name]
        return found


@pytest.fixture
def spans() -> Iterator[Spans]:
    made = Spans()
    stop = te.trace(made.provider)
    yield made
    stop()
    assert tracing.TRACERS == []


def ask(model: Callable[..., str], /, **options: Any) -> te.Variable:
    lm = te.CallableModel(model)
    chat = [{"role": "user", "content": [te.Variable(TEXT + " {n}", role="question", requires_grad=True)]}]
    return te.functional.chat_completion(lm, chat, inputs={"n": ["1", "2"]}, **options)


@pytest.fixture
def in_session(session: te.Session) -> Iterator[None]:  # noqa: F811
    with session.use():
        yield


def test_a_question_is_a_span_by_the_conventions_and_holds_its_call(in_session: None, spans: Spans) -> None:
    ask(lambda messages, **options: TEXT, model="tiny", temperature=0.5, stop=[TEXT])
    question, call = spans.named("chat tiny"), spans.named("run_function")
    assert dict(question.attributes) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "callable",
        "gen_ai.request.model": "tiny",
        "gen_ai.request.temperature": 0.5,
        "gen_ai.usage.input_tokens": question.attributes["gen_ai.usage.input_tokens"],
        "gen_ai.usage.output_tokens": question.attributes["gen_ai.usage.output_tokens"],
    }
    assert question.kind.name == "CLIENT"
    assert call.parent.span_id == question.context.span_id
    assert call.attributes["rpc.method"] == "run_function"
    assert call.attributes["server.address"] == "127.0.0.1"


def test_a_backward_pass_is_one_span(in_session: None, spans: Spans) -> None:
    answer = ask(lambda messages, **options: TEXT)
    te.functional.exact_match_evaluator(answer, ["x", "y"])[1].backward()
    assert spans.named("run_backward").attributes["rpc.system"] == "jsonrpc"


def test_a_failure_is_told_by_its_type_alone(in_session: None, spans: Spans) -> None:
    def fails(messages: Any, **options: Any) -> str:
        raise RuntimeError(TEXT)

    with pytest.raises(te.SamplesFailed):
        ask(fails)
    question = spans.named("chat")
    assert question.attributes["error.type"] == "SamplesFailed"
    assert question.status.status_code.name == "ERROR"
    assert "rpc.jsonrpc.error_code" in spans.named("run_function").attributes


def test_no_span_holds_data_or_a_key(in_session: None, spans: Spans) -> None:
    key = "sk-language-model-9c1e"
    te.OpenAI(api_key=key, base_url="http://127.0.0.1:9/v1", default_headers={"x": key})
    ask(lambda messages, **options: TEXT, user=key)
    shown = "\n".join(span.to_json() for span in spans.all())
    assert "create_model" in shown
    assert TEXT not in shown
    assert key not in shown


@pytest.mark.parametrize("broken", ["start_span", "set_attributes", "end"])
def test_a_tracer_that_raises_costs_its_span_and_no_call(in_session: None, broken: str) -> None:
    class Broken:
        def start_span(self, *args: Any, **options: Any) -> Any:
            if broken == "start_span":
                raise ValueError("mine")
            span = Spans().provider.get_tracer("x").start_span(*args, **options)
            setattr(span, broken, lambda *args: 1 / 0)
            return span

    tracing.TRACERS.append(Broken())
    try:
        assert ask(lambda messages, **options: "fine").data == ["fine", "fine"]
    finally:
        tracing.TRACERS.clear()


def test_without_opentelemetry_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.trace", None)
    with pytest.raises(te.UsageError, match=r"pip install 'tellurio_sync\[otel\]'"):
        te.trace()


def test_it_is_imported_only_when_it_is_asked_for() -> None:
    code = "import sys, tellurio_sync; print('opentelemetry' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "False\n"
