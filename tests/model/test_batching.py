"""``te.batch()`` and ``te.variables()``: one round trip, and nothing lost on the way."""

# ruff: noqa: PT012 - what is tested is which block an error ends

from __future__ import annotations

import contextvars
import copy
import gc
import logging
import pickle
import sys
import threading

import pytest

import tellurio_sync as te
from tellurio_sync.errors import (
    BatchFailed,
    CallTimeout,
    ConnectionLost,
    LocalProtocolError,
    NotConnected,
    RemoteError,
    RemoteProtocolError,
    UsageError,
    WouldDeadlock,
)
from tellurio_sync.model import CallableModel, Parameter, Variable, batching, suppress_variable_notifications
from tellurio_sync.model.link import use_link
from tellurio_sync.optim import TGD
from tests.model.fake_link import FAILSAFE_S, FakeLink, tag

CREATE, UPDATE = "create_variable", "update_variable"


def refusal(text="no room"):
    return RemoteError(-32603, "Internal error", {"exception": text})


def lose(was_sent=True):
    return ConnectionLost("cable cut", was_sent=was_sent)


def fail_for(link, method, is_meant, make_error):
    """The server answers requests that are meant with an error, and all others as ever; returns how to stop that."""
    plain = link.answers.get(method) or getattr(link, f"_answer_{method}")

    def answer(params):
        if is_meant(params):
            raise make_error()
        return plain(params)

    link.answers[method] = answer
    return lambda: link.answers.__setitem__(method, plain)


def in_thread(function):
    outcome = []

    def run():
        try:
            outcome.append((function(), None))
        except BaseException as exc:  # noqa: BLE001  raised again by the test's thread
            outcome.append((None, exc))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(FAILSAFE_S)
    assert outcome, "the thread has not ended in time"
    value, error = outcome[0]
    if error is not None:
        raise error
    return value


# --- what leaves, and when ---------------------------------------------------------------------------


def test_many_variables_are_one_round_trip(link):
    with te.batch():
        made = [Variable(f"text {n}", "role", n == 1) for n in range(3)]
        made.append(Parameter("prompt", "system prompt"))
        assert link.calls() == []
        assert [variable.data for variable in made] == ["text 0", "text 1", "text 2", "prompt"]
    assert link.bursts == [[CREATE] * 4]
    assert [variable.variable_id for variable in made] == [f"variable-{n}" for n in range(1, 5)]
    assert [params["obj_type"] for params in link.calls(CREATE)] == ["__variable__"] * 3 + ["__parameter__"]
    assert all(link.registries.variables.lookup(variable.variable_id) is variable for variable in made)


def test_changes_leave_together_and_in_order(link):
    one, other = Variable("a"), Variable("b")
    with te.batch():
        one.data = "c"
        other.role = "new"
        one.data = "d"
        one.note = "mine"
        other.output_nr = 2
        assert (one.data, other.role, one.note, other.output_nr) == ("d", "new", "mine", 2)
    assert link.bursts == [[UPDATE] * 5]
    assert [(params["variable_id"], params["field"], params["value"]) for params in link.calls(UPDATE)] == [
        (one.variable_id, "data", "c"),
        (other.variable_id, "role", "new"),
        (one.variable_id, "data", "d"),
        (one.variable_id, "note", "mine"),
        (other.variable_id, "_output_nr", 2),
    ]


def test_new_variables_and_changes_of_others_share_the_round_trip(link):
    variable = Variable("a")
    with te.batch():
        Variable("b")
        variable.data = "c"
    assert link.bursts == [[CREATE, UPDATE]]


def test_a_change_of_a_new_variable_is_made_with_it(link):
    with te.batch():
        variable = Variable("a", "role")
        variable.data = "b"
        variable.role = "other"
        variable.requires_grad = True
    assert link.bursts == [[CREATE]]
    (sent,) = link.calls(CREATE)
    assert sent == {"data": "b", "role": "other", "requires_grad": True, "obj_type": "__variable__"}


def test_a_change_that_needs_the_id_takes_a_second_round_trip(link):
    other = Variable("other")
    with te.batch():
        variable = Variable("a")
        other.data = "x"
        variable.note = "mine"
        other.data = "y"
    assert link.bursts == [[CREATE, UPDATE], [UPDATE, UPDATE]]
    assert [(params["variable_id"], params["value"]) for params in link.calls(UPDATE)] == [
        (other.variable_id, "x"),
        (variable.variable_id, "mine"),
        (other.variable_id, "y"),
    ]


def test_gradients_may_be_new(link):
    variable = Variable("a")
    with te.batch():
        gradients = [Variable("g"), Variable("h")]
        variable.grad = gradients
        assert variable.grad == gradients
    assert link.bursts == [[CREATE, CREATE], [UPDATE]]
    assert link.calls(UPDATE)[0]["value"] == [tag(gradient) for gradient in gradients]


@pytest.mark.parametrize(
    ("change", "fields"),
    [
        (lambda v, src: v.requires_grad_(), ["requires_grad", "is_leaf"]),
        (lambda v, src: v.copy_(src), ["data", "role", "requires_grad"]),
    ],
)
@pytest.mark.parametrize("in_batch", [True, False])
def test_what_changes_several_attributes_is_one_round_trip(link, change, fields, in_batch):
    variable, source = Variable("a"), Variable("b", "source", True)
    if in_batch:
        with te.batch():
            change(variable, source)
            assert link.bursts == []
    else:
        change(variable, source)
    assert link.bursts == [[UPDATE] * len(fields)]
    assert [params["field"] for params in link.calls(UPDATE)] == fields


def test_an_empty_batch_sends_nothing(link):
    with te.batch():
        pass
    assert te.variables([]) == []
    assert link.calls() == []


def test_a_bad_argument_is_refused_at_once(link):
    variable = Variable("a")
    with te.batch():
        for bad in (lambda: Variable(("a",)), lambda: setattr(variable, "data", {})):
            with pytest.raises(TypeError):
                bad()
    assert link.bursts == []


# --- who waits ----------------------------------------------------------------------------------------


def use_in_a_function(link, variable):
    te.functional.add(variable, variable)


def use_in_a_backward_pass(link, variable):
    start = Variable._received(link, "start", "x", "r", True)
    start._set_local("is_leaf", False)
    te.backward([start], [variable])


@pytest.mark.parametrize(
    "use",
    [
        lambda link, variable: variable.variable_id,
        lambda link, variable: hasattr(variable, "variable_id"),
        lambda link, variable: variable._reference(),
        use_in_a_function,
        use_in_a_backward_pass,
        lambda link, variable: TGD([variable], None),
        lambda link, variable: Parameter.append_grad(variable, variable),
        lambda link, variable: CallableModel(str),
    ],
)
def test_a_use_waits_for_all_that_is_queued(link, use):
    with te.batch():
        variable, other = Variable("a", requires_grad=True), Variable("b")
        use(link, variable)
        assert set(link.bursts[0]) == {CREATE}
        assert None not in (variable._known_id, other._known_id)
    assert sum(burst.count(CREATE) for burst in link.bursts[1:]) == 0


def test_reading_anything_else_does_not_wait(link):
    with te.batch():
        variable = Variable("a", "role")
        assert (variable.data, variable.role, variable.shape, variable.grad, variable.grad_fn) == (
            "a",
            "role",
            (),
            [],
            None,
        )
        assert "role" in repr(variable)
        pickle.dumps(variable)
        assert not hasattr(variable, "nothing")
        copy.copy(variable)
        assert link.calls() == []


def test_another_thread_waits_too(link):
    with te.batch():
        variable = Variable("a")
        assert in_thread(lambda: variable.variable_id) == "variable-1"
        assert link.bursts == [[CREATE]]
    assert link.bursts == [[CREATE]]


def test_other_threads_are_not_in_the_block(link):
    with te.batch():

        def make():
            with use_link(link):
                return Variable("b")._known_id

        assert in_thread(make) == "variable-1"
        assert link.bursts == []


def test_a_copied_context_is_in_the_block_until_it_ends(link):
    with te.batch():
        context = contextvars.copy_context()
        context.run(Variable, "a")
        assert link.calls() == []
    assert link.bursts == [[CREATE]]
    assert context.run(Variable, "b")._known_id == "variable-2"


def test_a_batch_may_be_nested_and_the_inner_end_waits(link):
    with te.batch():
        Variable("a")
        with te.batch():
            Variable("b")
        assert link.bursts == [[CREATE, CREATE]]
        Variable("c")
        assert len(link.bursts) == 1
    assert link.bursts == [[CREATE, CREATE], [CREATE]]


def test_a_batch_is_of_one_session(link):
    other = FakeLink()
    with te.batch():
        Variable("a")
        with use_link(other):
            assert Variable("b")._known_id == "variable-1"
            with te.batch():
                Variable("c")
                with use_link(link):
                    Variable("d")
                assert len(other.calls()) == 1
            assert len(other.calls()) == 2
        assert link.calls() == []
    assert link.bursts == [[CREATE, CREATE]]


def test_what_is_queued_in_another_batch_is_waited_for(link):
    """Two batches that wait for each other while they are sent would never end."""
    entered, go_on = threading.Event(), threading.Event()
    made = []

    def elsewhere():
        with use_link(link), te.batch():
            made.append(Variable("theirs"))
            entered.set()
            assert go_on.wait(FAILSAFE_S)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    assert entered.wait(FAILSAFE_S)
    variable = Variable("mine")
    with te.batch():
        made[0].role = "changed here"
        assert link.bursts == [[CREATE]]
        variable.grad = [made[0]]
    go_on.set()
    thread.join(FAILSAFE_S)
    assert link.bursts == [[CREATE], [UPDATE, UPDATE]]


@pytest.mark.parametrize("number", [1, 2])
def test_a_full_queue_is_sent_on_the_way(link, monkeypatch, number):
    monkeypatch.setattr(batching, "_MOST_ITEMS", 10)
    with te.batch():
        for n in range(10 * number):
            Variable(str(n))
        assert [len(burst) for burst in link.bursts] == [10] * (number - 1)
        Variable("one more")
        assert [len(burst) for burst in link.bursts] == [10] * number
    assert [len(burst) for burst in link.bursts] == [*[10] * number, 1]


def test_a_value_that_contains_itself_is_refused_as_ever(link):
    variable, circle = Variable("a"), []
    circle.append(circle)
    with pytest.raises(BatchFailed, match="note of"), te.batch():
        variable.note = circle
    assert not hasattr(variable, "note")


def test_the_characters_of_other_values_count_too(link, monkeypatch):
    monkeypatch.setattr(batching, "_MOST_CHARS", 1000)
    variable = Variable("a")
    with te.batch():
        variable.note = {"a": ["x" * 1000]}
        assert link.bursts == []
        variable.note = None
        assert link.bursts == [[UPDATE]]


@pytest.mark.parametrize("data", ["x" * 600, [["x" * 300], ["y" * 300]]])
def test_a_queue_is_full_by_its_characters_too(link, monkeypatch, data):
    monkeypatch.setattr(batching, "_MOST_CHARS", 1000)
    with te.batch():
        Variable(data)
        Variable(data)
        assert link.bursts == []
        Variable("")
        assert link.bursts == [[CREATE, CREATE]]


def test_the_queue_of_changes_is_bounded_too(link, monkeypatch):
    monkeypatch.setattr(batching, "_MOST_ITEMS", 10)
    variable = Variable("a")
    with te.batch():
        for n in range(25):
            variable.data = n
    assert [len(burst) for burst in link.bursts] == [10, 10, 5]
    assert [params["value"] for params in link.calls(UPDATE)] == list(range(25))


def test_many_threads_in_one_block(link, monkeypatch):
    monkeypatch.setattr(batching, "_MOST_ITEMS", 50)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    made = []
    try:
        with te.batch():
            contexts = [contextvars.copy_context() for _ in range(4)]

            def work(number):
                for n in range(200):
                    variable = Variable(f"{number} {n}")
                    made.append(variable)
                    if n % 7 == 0:
                        assert variable.variable_id
                    variable.role = "role"

            threads = [threading.Thread(target=context.run, args=(work, n)) for n, context in enumerate(contexts)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(FAILSAFE_S)
    finally:
        sys.setswitchinterval(interval)
    assert len({variable.variable_id for variable in made}) == 800
    assert sorted(params["data"] for params in link.calls(CREATE)) == sorted(variable.data for variable in made)


def test_a_use_on_another_thread_waits_before_its_call_begins(link, monkeypatch):
    """A restore lets no new call in before all have left, and this one would wait for the new one."""
    admit, inside = link.admit, []

    def admit_one():
        assert inside == [], "a call inside another one"
        inside.append(threading.get_ident())
        return admit()

    monkeypatch.setattr(link, "admit", admit_one)
    monkeypatch.setattr(link, "leave", inside.clear)
    other = Variable("other")
    leaf = Variable._received(link, "leaf", "x", "r", True)
    leaf._set_local("is_leaf", False)
    with te.batch():
        for use in (
            lambda variable: te.functional.sum([other, variable]),
            lambda variable: te.backward([leaf], [variable]),
            lambda variable: other.append_grad(variable),
            lambda variable: setattr(other, "grad", [variable]),
            lambda variable: TGD([other], None, [{"role": "system", "content": [variable]}]),
            lambda variable: variable.append_grad(other),
            lambda variable: setattr(variable, "role", "new"),
        ):
            variable = Variable("queued")

            def run(use=use, variable=variable):
                with use_link(link):
                    use(variable)

            in_thread(run)


# --- suppression ----------------------------------------------------------------------------------------


def test_suppressed_variables_and_changes_are_not_queued(link):
    other = Variable("other")
    link.requests.clear()
    with te.batch():
        with suppress_variable_notifications():
            variable = Variable("a")
            other.data = "b"
        variable.role = "local"
    assert (variable.variable_id, variable.role, other.data) == (None, "local", "b")
    assert link.calls() == []


def test_a_suppressed_change_does_not_slip_into_the_making(link):
    with te.batch():
        variable = Variable("a")
        with suppress_variable_notifications():
            variable.data = "b"
    assert (variable.data, link.calls(CREATE)[0]["data"]) == ("b", "a")
    assert link.calls(UPDATE) == []


# --- what is refused --------------------------------------------------------------------------------------


def test_all_refusals_are_told_with_what_was_refused(link):
    old = Variable("old", "role")
    fail_for(link, CREATE, lambda params: params["data"] == "bad", refusal)
    fail_for(link, UPDATE, lambda params: params["field"] == "role", lambda: refusal("a bad role"))
    with pytest.raises(BatchFailed) as caught, te.batch():
        good, bad, worse = Variable("good"), Variable("bad", "first"), Variable("bad", "second")
        bad.note = "never sent"
        old.data = "new"
        old.role = "other"
    assert good.variable_id
    assert (old.data, old.role) == ("new", "role")
    assert [what for what, _ in caught.value.failures] == [str(bad), str(worse), f"role of {old}"]
    for text in ("3 refused", "first", "second", "no room", "role of", "a bad role"):
        assert text in str(caught.value)
    assert not link.registries.unsure
    for use in (bad._reference, lambda: bad + good, lambda: setattr(bad, "role", "x"), lambda: bad.append_grad(good)):
        with pytest.raises(UsageError, match="no room"):
            use()
    assert bad.variable_id is None
    assert pickle.loads(pickle.dumps(caught.value)).failures[0][0] == str(bad)


def test_refusals_are_told_once_at_the_first_point(link):
    fail_for(link, CREATE, lambda params: params["data"] == "bad", refusal)
    with te.batch():
        bad, good = Variable("bad"), Variable("good")
        with pytest.raises(BatchFailed, match="no room"):
            _ = good.variable_id
        assert good.variable_id
        assert bad.variable_id is None


def test_what_another_thread_was_refused_is_told_in_the_block(link):
    fail_for(link, CREATE, lambda params: params["data"] == "bad", refusal)
    read = []
    with pytest.raises(BatchFailed, match="no room"), te.batch():
        bad, good = Variable("bad"), Variable("good")
        read += in_thread(lambda: [good.variable_id, bad.variable_id])
    assert read == [good.variable_id, None]


def test_an_id_that_makes_no_sense_is_a_refusal(link):
    link.answers[CREATE] = lambda params: {"variable_id": 7}
    with pytest.raises(BatchFailed, match="variable_id") as caught:
        te.variables(["a"])
    assert isinstance(caught.value.failures[0][1], RemoteProtocolError)


def test_another_echo_is_a_refusal_and_leaves_a_doubt(link):
    variable = Variable("a")
    link.answers[UPDATE] = lambda params: {**params, "value": "something else"}
    with pytest.raises(BatchFailed, match="mismatch"), te.batch():
        variable.data = "b"
    assert variable.data == "a"
    assert variable in link.registries.unsure


def test_what_json_does_not_have_does_not_stop_the_rest(link):
    data = [1.0]
    with pytest.raises(BatchFailed) as caught, te.batch():
        spoilt, good = Variable(data), Variable("good")
        data.append(float("nan"))
        good.note = object()
    assert [type(error) for _, error in caught.value.failures] == [LocalProtocolError] * 2
    assert good.variable_id
    assert spoilt.variable_id is None
    assert not hasattr(good, "note")
    assert not link.registries.unsure


@pytest.mark.parametrize("refused", [{0}, {1}, {2}, {0, 1}, {1, 2}, {0, 2}, {0, 1, 2}])
def test_a_refused_change_is_taken_back_to_what_the_server_has(link, refused):
    variable = Variable("start")
    values = ["a", "b", "c"]
    fail_for(link, UPDATE, lambda params: values.index(params["value"]) in refused, refusal)
    with pytest.raises(BatchFailed) as caught, te.batch():
        for value in values:
            variable.data = value
    assert len(caught.value.failures) == len(refused)
    assert variable.data == ["start", *(v for n, v in enumerate(values) if n not in refused)][-1]


def test_a_change_made_meanwhile_is_not_taken_back(link):
    variable = Variable("a")

    def refuse(params):
        variable._set_local("_data", "pushed meanwhile")
        raise refusal()

    link.answers[UPDATE] = refuse
    with pytest.raises(BatchFailed), te.batch():
        variable.data = "b"
    assert variable.data == "pushed meanwhile"


def test_a_refusal_of_one_of_several_changes_outside_a_batch(link):
    variable, source = Variable("a", "mine"), Variable("b", "theirs")
    fail_for(link, UPDATE, lambda params: params["field"] == "role", refusal)
    with pytest.raises(RemoteError, match="no room"):
        variable.copy_(source)
    assert (variable.data, variable.role) == ("b", "mine")
    assert not link.registries.unsure


# --- when the connection is lost -------------------------------------------------------------------------------


@pytest.mark.parametrize("make_error", [lose, lambda: lose(was_sent=False), CallTimeout, NotConnected])
def test_what_was_not_answered_is_made_at_the_next_point(link, make_error):
    stop = fail_for(link, CREATE, lambda params: params["data"] != "first", make_error)
    with pytest.raises(type(make_error())), te.batch():
        made = [Variable(data) for data in ("first", "second", "third")]
        made[2].note = "mine"
    assert made[0]._known_id is not None
    stop()
    former = made[0].variable_id
    ids = [variable.variable_id for variable in made]
    assert ids[0] == former
    assert len(set(ids)) == 3
    assert [params["data"] for params in link.calls(CREATE)] == ["first", "second", "third", "second", "third"]
    assert link.calls(UPDATE) == [{"variable_id": ids[2], "field": "note", "value": "mine"}]


@pytest.mark.parametrize(("make_error", "is_in_doubt"), [(lose, True), (lambda: lose(was_sent=False), False)])
def test_changes_that_were_not_answered_are_taken_back(link, make_error, is_in_doubt):
    """As with a single call: what has raised ConnectionLost has not happened."""
    one, other = Variable("a"), Variable("b")
    fail_for(link, UPDATE, lambda params: params["variable_id"] == other.variable_id, make_error)
    with pytest.raises(ConnectionLost), te.batch():
        one.data, other.data = "c", "d"
    assert (one.data, other.data) == ("c", "b")
    assert (other in link.registries.unsure) is is_in_doubt
    assert one not in link.registries.unsure


def test_several_changes_of_one_outside_a_batch_happen_all_or_none(link):
    variable, source = Variable("a", "mine"), Variable("b", "theirs", True)
    fail_for(link, UPDATE, lambda params: params["field"] == "role", lose)
    with pytest.raises(ConnectionLost):
        variable.copy_(source)
    assert (variable.data, variable.role, variable.requires_grad) == ("a", "mine", False)
    assert variable in link.registries.unsure


def test_a_change_of_what_was_lost_meanwhile_is_a_loss(link):
    """As if the call had been waiting: a loop that tries its batch again computes it anew."""
    variable = Variable._received(link, "computed", "x", "role", True)
    variable._set_local("_arguments", (Variable("a"),))
    with pytest.raises(ConnectionLost, match="compute it again"), te.batch():
        variable.role = "new"
        variable._mark_lost("compute it again")
    assert variable.role == "role"
    assert link.calls(UPDATE) == []


def test_a_loss_and_a_refusal_are_both_told(link):
    fail_for(link, CREATE, lambda params: params["data"] == "bad", refusal)
    fail_for(link, CREATE, lambda params: params["data"] == "late", lose)
    with pytest.raises(ConnectionLost) as caught:
        te.variables(["bad", "late"])
    assert isinstance(caught.value.__cause__, BatchFailed)
    assert "no room" in str(caught.value.__cause__)


def test_ctrl_c_leaves_all_of_it_to_the_next_point(link):
    other = Variable("other")
    interrupt = pytest.MonkeyPatch()

    def request_many(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), te.batch():
        variable = Variable("a")
        other.data = "b"
        interrupt.setattr(link, "request_many", request_many)
    interrupt.undo()
    assert variable.variable_id
    assert other.data == "other"
    assert other in link.registries.unsure


def test_a_failed_admission_loses_nothing(link, monkeypatch):
    other = Variable("other")

    def admit():
        raise NotConnected

    with pytest.raises(NotConnected), te.batch():
        variable = Variable("a")
        other.data = "b"
        monkeypatch.setattr(link, "admit", admit)
    monkeypatch.undo()
    assert variable.variable_id
    assert [params["value"] for params in link.calls(UPDATE)] == ["b"]


# --- how a block is left ------------------------------------------------------------------------------------


def test_an_exception_of_the_block_goes_on_and_the_queue_is_sent(link):
    with pytest.raises(KeyError, match="mine"), te.batch():
        variable = Variable("a")
        raise KeyError("mine")
    assert link.bursts == [[CREATE]]
    assert variable._known_id is not None


def test_an_exception_of_the_block_is_not_masked(link, caplog):
    fail_for(link, CREATE, lambda params: True, refusal)
    caplog.set_level(logging.ERROR, "tellurio_sync.session")
    with pytest.raises(KeyError, match="mine") as caught, te.batch():
        Variable("a")
        raise KeyError("mine")
    assert "no room" in caplog.text
    if sys.version_info >= (3, 11):
        assert "no room" in caught.value.__notes__[0]


def test_an_exception_that_leaves_an_inner_block_is_the_outer_ones_business(link):
    with te.batch():
        with pytest.raises(KeyError), te.batch():
            Variable("a")
            raise KeyError
        assert link.bursts == []
    assert link.bursts == [[CREATE]]


def test_after_the_block_all_is_as_before(link):
    with te.batch():
        pass
    assert Variable("a")._known_id == "variable-1"
    assert link.bursts == []


# --- on the receive thread, and in finalisers ------------------------------------------------------------------


def test_on_the_receive_thread_making_is_allowed_and_waiting_is_not(link):
    link._receive_thread = threading.get_ident()
    with pytest.raises(WouldDeadlock), te.batch():
        variable = Variable("a")
        variable.data = "b"
        with pytest.raises(WouldDeadlock):
            _ = variable.variable_id
    link._receive_thread = None
    assert variable.variable_id
    assert link.calls(CREATE)[0]["data"] == "b"


def test_the_receive_thread_does_not_wait_for_who_sends_either(link, monkeypatch):
    """It would have to deliver what that one waits for."""
    sending, go_on = threading.Event(), threading.Event()
    plain = link.request_many

    def request_many(*args):
        sending.set()
        assert go_on.wait(FAILSAFE_S)
        return plain(*args)

    monkeypatch.setattr(link, "request_many", request_many)
    made = []

    def send():
        with use_link(link), te.batch():
            made.append(Variable("a"))

    thread = threading.Thread(target=send)
    thread.start()
    try:
        assert sending.wait(FAILSAFE_S)

        def read():
            link._receive_thread = threading.get_ident()
            with pytest.raises(WouldDeadlock):
                _ = made[0].variable_id
            link._receive_thread = None

        in_thread(read)
    finally:
        go_on.set()
        thread.join(FAILSAFE_S)
    assert made[0].variable_id


def test_a_finaliser_may_make_variables_while_a_batch_is_sent(link):
    made = []

    class Doomed:
        def __del__(self):
            made.append(Variable("from a finaliser"))
            try:
                _ = late.variable_id
            except UsageError as exc:
                made.append(exc)

    doomed = [Doomed()]

    def collect(params):
        doomed.clear()
        gc.collect()
        return {"variable_id": link.new_id("variable"), "message": ""}

    link.answers[CREATE] = collect
    with te.batch():
        late = Variable("a")
    assert late.variable_id
    assert made[0].variable_id
    assert "in this very moment" in str(made[1])


# --- variables() ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "sent"),
    [
        ((["a", "b"],), [("a", "", False), ("b", "", False)]),
        ((iter([["a", None], 2]), "role", True), [(["a", None], "role", True), (2, "role", True)]),
        ((["a", "b"], ["r", None]), [("a", "r", False), ("b", None, False)]),
        ((["a"], None), [("a", None, False)]),
    ],
)
def test_variables_are_made_in_order_and_in_one_round_trip(link, arguments, sent):
    made = te.variables(*arguments)
    assert link.bursts == [[CREATE] * len(sent)]
    assert [(variable.data, variable.role, variable.requires_grad) for variable in made] == sent
    params = [(each["data"], each["role"], each["requires_grad"]) for each in link.calls(CREATE)]
    assert params == sent
    assert [variable.variable_id for variable in made] == [f"variable-{n + 1}" for n in range(len(sent))]


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ((["a", {"b": 1}],), TypeError, "item 1"),
        ((["a", float("inf")],), ValueError, "item 1"),
        ((["a", "b"], ["r"]), ValueError, "2 items"),
        ((["a"], "r", "yes"), TypeError, "requires_grad"),
    ],
)
def test_nothing_is_sent_if_an_argument_is_wrong(link, arguments, error, text):
    with pytest.raises(error, match=text):
        te.variables(*arguments)
    assert link.calls() == []


def test_variables_join_an_open_batch(link):
    with te.batch():
        Variable("a")
        te.variables(["b", "c"])
        assert link.calls() == []
    assert link.bursts == [[CREATE] * 3]


def test_variables_under_suppression_are_local():
    with suppress_variable_notifications():
        (variable,) = te.variables(["a"])
    assert variable.variable_id is None


# --- what else is one round trip now ---------------------------------------------------------------------------


def test_an_optimizer_makes_its_prompts_together(link):
    TGD([Parameter("a")], None)
    assert link.bursts == [[CREATE, CREATE]]


def test_a_checkpoint_is_loaded_in_one_round_trip(link):
    parameter = Parameter("a")
    optimizer = TGD([parameter], None)
    link.bursts.clear()
    with suppress_variable_notifications():
        state = {0: {"momentum_buffer": [(Parameter("old"), [Variable("g"), Variable("h")])]}}
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    assert link.bursts == [[CREATE] * 3]
    ((copied, gradients),) = optimizer.state[parameter]["momentum_buffer"]
    assert all(variable.variable_id for variable in (copied, *gradients))


def test_gradients_of_an_optimizer_that_is_here_are_cleared_in_one_round_trip(link):
    parameters = [Parameter("a"), Parameter("b")]
    optimizer = TGD(parameters, None)
    optimizer.load_state_dict(optimizer.state_dict())
    link.bursts.clear()
    for parameter in parameters:
        parameter.append_grad(Variable("g"))
    optimizer.clear_grad()
    assert link.bursts == [[UPDATE, UPDATE]]
    assert [parameter.grad for parameter in parameters] == [[], []]
