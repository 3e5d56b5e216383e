"""What a user gets wrong is said where it is written, or with the user's own traceback."""

from __future__ import annotations

import gc
import traceback
import warnings
import weakref

import pytest

import tellurio_sync as te
from tellurio_sync.errors import RemoteError, SamplesFailed, UnusedInput

from ..conftest import wait_until


class Array:
    """A scalar or an array of another library: what all of them have is ``tolist``."""

    def __init__(self, value):
        self._value = value

    def tolist(self):
        return self._value


def my_metric(prediction, target):
    raise KeyError("no such key")  # the bug of a user


@pytest.fixture
def answer(tellurio_run):
    return te.Variable("yes", role="answer", requires_grad=True)


@pytest.mark.parametrize("prediction", ["yes", ["yes", "no"]])
def test_a_function_of_the_user_that_fails_is_the_cause(tellurio_run, prediction):
    answer = te.Variable(prediction, role="answer")
    with pytest.raises(RemoteError) as raised:
        te.functional.deterministic_evaluator(answer, "yes", my_metric, "my metric")
    assert isinstance(raised.value.__cause__, KeyError)
    shown = "".join(traceback.format_exception(raised.value))
    assert 'raise KeyError("no such key")  # the bug of a user' in shown
    assert "my_metric" in shown


def test_a_model_that_fails_in_a_batch_is_the_cause(tellurio_run):
    def model(messages, **options):
        raise ZeroDivisionError(messages[-1]["content"])

    lm = te.CallableModel(model)
    question = te.Variable("{message}", role="message")
    with pytest.raises(SamplesFailed) as raised:
        te.functional.chat_completion(lm, [{"role": "user", "content": [question]}], inputs={"message": ["a", "b"]})
    assert isinstance(raised.value.__cause__, ZeroDivisionError)


def test_a_failure_is_kept_no_longer_than_the_calls_that_may_need_it(answer):
    class Mine(Exception):
        pass

    kept = []

    def fail(prediction, target):
        failure = Mine("mine")
        kept.append(weakref.ref(failure))
        raise failure

    try:
        te.functional.deterministic_evaluator(answer, "yes", fail, "fail")
    except RemoteError:
        pass
    assert len(kept) == 1
    # The worker that ran it may have to end its own frames yet.
    wait_until(lambda: gc.collect() is not None and kept[0]() is None, "the exception is kept")


def test_another_error_has_no_cause_of_a_former_call(answer):
    with pytest.raises(RemoteError):
        te.functional.deterministic_evaluator(answer, "yes", my_metric, "my metric")
    with pytest.raises(RemoteError) as raised:
        te.functional.add(answer, te.Variable(["a"], role="list"))
    assert raised.value.__cause__ is None


@pytest.mark.parametrize("score", [True, 0.5, 1])
def test_scores_of_other_libraries_are_taken(answer, score):
    found, _ = te.functional.deterministic_evaluator(
        answer, Array("yes"), lambda prediction, target: Array(score), "equality"
    )
    assert found.data == score


def test_columns_of_other_libraries_are_taken(tellurio_run):
    lm = te.CallableModel(lambda messages, **options: messages[-1]["content"].upper())
    question = te.Variable("{message}", role="message")
    answers = te.functional.chat_completion(
        lm, [{"role": "user", "content": [question]}], inputs={"message": Array(["a", "b"])}
    )
    assert answers.data == ["A", "B"]
    score, _ = te.functional.exact_match_evaluator(answers, Array(["A", "x"]))
    assert score.data == 1


@pytest.mark.parametrize("given", [Array(3), Array([1, 2.5]), [Array("a"), "b"], [[Array(1)], [2]]])
def test_data_of_other_libraries_are_plain_in_a_variable(given):
    with te.suppress_variable_notifications():
        variable = te.Variable(given, role="x")
    expected = {3: 3, 1: [1.0, 2.5]}
    if isinstance(given, Array):
        assert variable.data in expected.values()
    else:
        assert variable.data in (["a", "b"], [[1], [2]])


def chat(lm, text, inputs, **options):
    question = te.Variable(text, role="message")
    return te.functional.chat_completion(lm, [{"role": "user", "content": [question]}], inputs=inputs, **options)


@pytest.mark.parametrize(
    ("text", "inputs", "said"),
    [
        ("{mesage}", {"message": "a"}, r"inputs\['message'\] is used by no message.*The messages have \{mesage\}\."),
        ("no placeholder", {"message": ["a", "b"]}, r"inputs\['message'\] is used by no message"),
        ("{a}", {"a": "1", "b": "2"}, r"inputs\['b'\]"),
    ],
)
def test_an_input_that_no_message_uses_is_named(tellurio_run, text, inputs, said):
    lm = te.CallableModel(lambda messages, **options: "x")
    with pytest.warns(UnusedInput, match=said) as seen:
        chat(lm, text, inputs)
    assert [warning.filename for warning in seen] == [__file__]


@pytest.mark.parametrize(
    ("text", "inputs"),
    [
        ("{a} and {b}", {"a": "1", "b": "2"}),
        ('Answer {"json": 1} to {a}', {"a": "1"}),
        ("{not_an_input}", None),
        (["{a}", "x"], {"a": "1"}),
    ],
)
def test_what_is_right_is_not_warned_of(tellurio_run, text, inputs):
    lm = te.CallableModel(lambda messages, **options: "x")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        chat(lm, text, inputs)


def test_a_judge_is_looked_at_too(answer):
    lm = te.CallableModel(lambda messages, **options: '{"score": 1, "explanation": "good"}')
    messages = [{"role": "user", "content": [te.Variable("{prediction}", role="judge")]}]
    with pytest.warns(UnusedInput, match="extra"):
        te.functional.lm_judge_evaluator(lm, messages, answer, inputs={"extra": "x"})


# --- slips that would otherwise be silent ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("slip", "meant"), [("dat", "data"), ("rol", "role"), ("grads", "grad"), ("requiresgrad", "requires_grad")]
)
def test_a_slip_in_an_attribute_is_refused(slip, meant):
    with te.suppress_variable_notifications():
        variable = te.Variable("x", role="r")
        with pytest.raises(AttributeError, match=f"no attribute '{slip}': did you mean '{meant}'"):
            setattr(variable, slip, "y")
        variable.note = "mine"
        assert variable.note == "mine"


def test_an_f_string_holds_the_whole_text():
    text = "a long text that a repr would shorten " * 10
    with te.suppress_variable_notifications():
        assert f"{te.Parameter(text, 'r')}" == text
        assert f"{te.Variable(2.5, 'r'):.2f}" == "2.50"
        assert f"{te.Variable([1, 2], 'r')}" == "[1, 2]"


def test_a_table_is_no_list_of_texts():
    class Frame:
        columns, iloc = ("a",), ()

        def __iter__(self):
            return iter(self.columns)

    with pytest.raises(TypeError, match="one of its columns"):
        te.variables(Frame())


@pytest.mark.parametrize("name", ["lr", "learning_rate", "weight_decay"])
def test_settings_of_numeric_optimizers_are_refused(name):
    with te.suppress_variable_notifications(), pytest.raises(TypeError, match=f"TGD takes no {name}"):
        te.TGD([te.Parameter("x", "r")], None, **{name: 0.1})


def test_a_model_without_its_name_is_refused_at_once(tellurio_run):
    with pytest.raises(ValueError, match=r"TGD\(\.\.\., model='gpt-4o'\)"):
        te.TGD([te.Parameter("x", "r")], te.OpenAI())


def test_a_role_of_a_message_is_checked(tellurio_run):
    with pytest.raises(ValueError, match=r"messages\[0\]\[\"role\"\] must be one of system, .* not 'sys'"):
        te.functional.chat_completion(None, [{"role": "sys", "content": [te.Variable("x", "r")]}])


@pytest.mark.parametrize("namespace", ["My Project", "Team", " ", 3])
def test_a_project_in_the_place_of_a_namespace_is_noticed(namespace):
    with te.Session() as session, pytest.raises(ValueError, match="init\\(project_display_name="):
        session.init(namespace)


def test_without_a_run_the_error_says_how_to_start_one(tellurio_session):
    with pytest.raises(ValueError, match=r"No active run is set\. Call tellurio_sync\.init"):
        te.Variable("x", role="r")
