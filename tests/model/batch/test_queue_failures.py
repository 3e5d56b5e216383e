"""What is refused, and what was not answered: nothing is lost on the way, and both sides end equal."""

# ruff: noqa: PT012 - what is tested is which block an error ends

from __future__ import annotations

import pickle

import pytest

import tellurio_sync as te
from tellurio_sync.errors import (
    BatchFailed,
    CallCancelled,
    CallTimeout,
    ConnectionLost,
    LocalProtocolError,
    NotConnected,
    RemoteError,
    RemoteProtocolError,
    UsageError,
)
from tellurio_sync.model import Variable, suppress_variable_notifications
from tellurio_sync.model.variable_state import known_id, received, refused, set_local
from tests.model.fake_link import CREATE, UPDATE, fail_for, in_thread, lose, refusal, tag

# --- what is refused ------------------------------------------------------------------------------------------------


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
    assert [what for what, _ in caught.value.failures] == [str(bad), str(worse), f"role of {old!s}"]
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
        set_local(variable, "_data", "pushed meanwhile")
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


@pytest.mark.parametrize("first", ["unusable", "refused"])
@pytest.mark.parametrize("second", ["unusable", "refused", "taken"])
def test_gradient_lists_in_a_row_are_taken_back_to_what_the_server_has(link, first, second):
    variable, fine = Variable("x"), Variable("fine")
    lists = {"unusable": [Variable("gone")], "refused": [Variable("bad")], "taken": [fine]}
    refused(lists["unusable"][0], "gone")
    bad = tag(lists["refused"][0])
    fail_for(link, UPDATE, lambda params: params["value"] == [bad], refusal)
    with pytest.raises(BatchFailed) as caught, te.batch():
        variable.grad = lists[first]
        variable.grad = lists[second]
    assert len(caught.value.failures) == (1 if second == "taken" else 2)
    assert variable.grad == ([fine] if second == "taken" else [])


def test_what_is_refused_goes_back_to_what_was_accepted_whatever_was_set_between(link):
    variable = Variable("old")
    fail_for(link, UPDATE, lambda params: params["value"] == "second", refusal)
    with pytest.raises(BatchFailed), te.batch():
        variable.data = "first"
        with suppress_variable_notifications():
            variable.data = "between"
        variable.data = "second"
    assert variable.data == "first"


def test_a_gradient_list_that_was_refused_in_an_earlier_round_trip_does_not_come_back(link):
    variable = Variable("x")
    fail_for(link, CREATE, lambda params: params["data"].startswith("bad"), refusal)
    with pytest.raises(BatchFailed), te.batch():
        bad = Variable("bad")
    with pytest.raises(BatchFailed), te.batch():
        variable.grad = [bad]
        variable.grad = [Variable("bad too")]
    assert variable.grad == []


def test_a_refusal_names_the_attribute_as_the_user_does(link):
    variable = Variable("x")
    fail_for(link, UPDATE, lambda params: True, refusal)
    with pytest.raises(BatchFailed) as caught, te.batch():
        variable.grad = []
        variable.output_nr = 1
    assert [what.split(" of ")[0] for what, _ in caught.value.failures] == ["grad", "output_nr"]


class Unshowable:
    def __str__(self):
        raise ValueError("not today")


@pytest.mark.parametrize("depth", [1, 6, "deep"])
def test_what_cannot_be_shown_does_not_stop_what_follows(link, depth):
    with pytest.raises(BatchFailed) as caught, te.batch():
        circle, strange, good = Variable([1]), Variable("a"), Variable("good")
        if depth == "deep":
            for _ in range(100_000):
                circle._data[:] = [circle._data.copy()]
        else:
            circle._data.extend([circle._data] * depth)
        strange.role = Unshowable()
        good.data = "better"
    assert len(caught.value.failures) == 2
    assert "Variable" in str(caught.value) or "variable" in str(caught.value)
    assert good.variable_id


# --- when the connection is lost ------------------------------------------------------------------------------------


@pytest.mark.parametrize("make_error", [lose, lambda: lose(was_sent=False), CallTimeout, NotConnected])
def test_what_was_not_answered_is_made_at_the_next_point(link, make_error):
    stop = fail_for(link, CREATE, lambda params: params["data"] != "first", make_error)
    with pytest.raises(type(make_error())), te.batch():
        made = [Variable(data) for data in ("first", "second", "third")]
        made[2].note = "mine"
    assert known_id(made[0]) is not None
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
    """The same error as for a call that waits: a loop that tries its batch again computes it again."""
    variable = received(Variable, link, "computed", "x", "role", True)
    set_local(variable, "_arguments", (Variable("a"),))
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
    assert (other.data, link.calls(UPDATE)) == ("other", [])


@pytest.mark.parametrize("make_error", [NotConnected, CallTimeout, lambda: lose(was_sent=False)])
def test_a_change_is_taken_back_where_nobody_is_admitted(link, monkeypatch, make_error):
    old = Variable("old")

    def admit():
        raise make_error()

    with pytest.raises(type(make_error())), te.batch():
        old.data = "new"
        monkeypatch.setattr(link, "admit", admit)
    assert old.data == "old"


def test_a_gradient_list_is_taken_back_where_its_gradients_could_not_be_made(link):
    old = Variable("old")
    fail_for(link, CREATE, lambda params: True, lose)
    with pytest.raises(ConnectionLost), te.batch():
        old.grad = [Variable("g")]
    assert old.grad == []


def test_what_another_thread_could_not_tell_is_raised_in_the_block(link):
    old, raised = Variable("old"), []
    fail_for(link, UPDATE, lambda params: True, lose)
    with pytest.raises(ConnectionLost) as caught, te.batch():
        new = Variable("new")
        old.data = "changed"
        with pytest.raises(ConnectionLost) as there:
            in_thread(lambda: new.variable_id)
        raised.append(there.value)
        assert old.data == "old"
    assert caught.value is not raised[0]
    assert (str(caught.value), caught.value.was_sent) == (str(raised[0]), True)


def test_an_interrupt_on_another_thread_is_told_in_the_block(link, monkeypatch):
    old = Variable("old")

    def request_many(*_):
        raise KeyboardInterrupt

    with pytest.raises(CallCancelled, match="interrupted by KeyboardInterrupt"), te.batch():
        new = Variable("new")
        old.data = "changed"
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(link, "request_many", request_many)
            in_thread(lambda: new.variable_id)
        assert old.data == "old"
    assert old in link.registries.unsure


def test_variables_that_another_thread_could_not_make_are_made_at_the_next_point(link):
    stop = fail_for(link, CREATE, lambda params: True, lose)
    with te.batch():
        new = Variable("new")
        with pytest.raises(ConnectionLost):
            in_thread(lambda: new.variable_id)
        stop()
    assert known_id(new) is not None
