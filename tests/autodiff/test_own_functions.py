"""Functions of the user as steps of the graph, against a real backend."""

from __future__ import annotations

import pytest

import tellurio_sync as te
from tellurio_sync.errors import RemoteError, UsageError


class Shorten(te.autograd.Function):
    """Two inputs, of which one is no Variable."""

    @staticmethod
    def forward(ctx, text, limit):
        ctx.limit = limit
        return [each[:limit] for each in text] if isinstance(text, list) else text[:limit]

    @staticmethod
    def backward(ctx, feedback):
        if isinstance(feedback, list):
            return [f"{ctx.limit}: {each}" for each in feedback], None
        return f"{ctx.limit}: {feedback}", None


class Halves(te.autograd.Function):
    """Two outputs, and a context that is filled separately."""

    @staticmethod
    def forward(text):
        middle = len(text) // 2
        return text[:middle], text[middle:]

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(inputs, output)

    @staticmethod
    def backward(ctx, first, second):
        assert ctx.saved_values == (("abcd",), ("ab", "cd"))
        return f"first: {first}; second: {second}"


def feedback(text, **options):
    return te.Variable(text, role="feedback", **options)


@pytest.fixture
def text(tellurio_run):
    return te.Parameter("abcdefgh", role="text")


def test_a_step_runs_here_forward_and_backward(text):
    short = Shorten.apply(text, 3)
    assert short.data == "abc"
    assert short.role == "output of Shorten for text"
    assert short.requires_grad
    assert short.grad_fn.name() == "ShortenBackward0"
    (short + te.Variable("!", role="mark")).backward(feedback("Longer."))
    assert len(text.grad) == 1
    assert text.grad[0].data.startswith("3: Here is the combined feedback")
    assert "Longer." in text.grad[0].data


def test_a_batch_goes_through_sample_by_sample(tellurio_run):
    texts = te.Parameter(["abc", "defg"], role="texts")
    short = Shorten.apply(texts, 2)
    assert short.data == ["ab", "de"]
    short.backward(te.Variable(["one", "two"], role="feedback"))
    assert texts.grad[0].data == ["2: one", "2: two"]


def test_several_outputs_and_a_separate_context(tellurio_run):
    text = te.Parameter("abcd", role="text")
    first, second = Halves.apply(text)
    assert (first.data, second.data) == ("ab", "cd")
    te.backward([first, second], [feedback("F"), feedback("S")])
    assert text.grad[0].data == "first: F; second: S"


def test_keywords_and_nested_variables(text):
    seen = []

    class Joined(te.autograd.Function):
        @staticmethod
        def forward(ctx, parts, *, sep, options):
            return sep.join(parts) + options["end"]

        @staticmethod
        def backward(ctx, feedback):
            seen.append(ctx.needs_input_grad)
            return ["to the first", "to the second"], None, None

    other = te.Variable("xyz", role="other")
    joined = Joined.apply([text, other], sep="-", options={"end": "."})
    assert joined.data == "abcdefgh-xyz."
    joined.backward(feedback("F"))
    assert text.grad[0].data == "to the first"
    assert other.grad == []
    assert seen == [(True, False, False)]


def test_without_grad_there_is_no_graph(text):
    with te.no_grad():
        short = Shorten.apply(text, 3)
    assert not short.requires_grad
    assert short.grad_fn is None


def test_a_step_may_call_the_server(text):
    class Inner(te.autograd.Function):
        @staticmethod
        def forward(ctx, text):
            return te.Variable(text + "!", role="made inside")

        @staticmethod
        def backward(ctx, feedback):
            return te.Variable(f"<{feedback}>", role="made inside")

    made = Inner.apply(text)
    assert (made.data, made.role) == ("abcdefgh!", "made inside")
    made.backward(feedback("F"))
    assert text.grad[0].data == "<F>"


def test_a_step_stands_between_models_and_evaluators(tellurio_run):
    lm = te.CallableModel(lambda messages, **options: messages[0]["content"].upper())
    prompt = te.Parameter("say it", role="prompt")
    answer = te.functional.chat_completion(lm, [{"role": "system", "content": [prompt]}])
    score, _ = te.functional.exact_match_evaluator(Shorten.apply(answer, 3), "SAY")
    assert score.data == 1


@pytest.mark.parametrize(
    ("forward", "backward", "text_of_forward", "text_of_backward"),
    [
        (lambda ctx, text: {"a": 1}, None, "must be text, a number", None),
        (lambda ctx, text: 1 / 0, None, "division by zero", None),
        (lambda ctx, text: text, lambda ctx, gradient: ("a", "b", "c"), None, "one value for each of its 1 inputs"),
        (lambda ctx, text: text, lambda ctx, gradient: 3, None, "must give a text for 'text'"),
        (lambda ctx, text: text, lambda ctx, gradient: ["a", "b"], None, "must give a text for 'text'"),
        (lambda ctx, text: text, lambda ctx, gradient: 1 / 0, None, "division by zero"),
    ],
)
def test_mistakes_are_named(text, forward, backward, text_of_forward, text_of_backward):
    made = type("Mine", (te.autograd.Function,), {"forward": staticmethod(forward), "backward": staticmethod(backward)})
    if text_of_forward:
        with pytest.raises(RemoteError, match=text_of_forward):
            made.apply(text)
        return
    output = made.apply(text)
    with pytest.raises(RemoteError, match=text_of_backward):
        output.backward(feedback("F"))
    assert text.grad == []


def test_a_function_without_backward_is_refused_before_anything_runs(text):
    class Half(te.autograd.Function):
        @staticmethod
        def forward(ctx, text):
            raise AssertionError

    with pytest.raises(TypeError, match=r"no backward\(\)"):
        Half.apply(text)


def test_a_server_that_does_not_know_the_extension_is_not_asked(text, monkeypatch):
    from tellurio_sync.session import Session

    monkeypatch.setattr(Session, "extensions", property(lambda self: frozenset({"cancel"})))
    with pytest.raises(UsageError, match="only a local backend"):
        Shorten.apply(text, 3)
