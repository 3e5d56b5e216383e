"""Requests that go along with the next call of a thread: their order, what fails, what is cut off."""

from __future__ import annotations

import pytest

import tellurio_sync as te
from tellurio_sync.errors import BatchFailed, ConnectionLost, RemoteError, UsageError
from tellurio_sync.model import Parameter, Variable
from tellurio_sync.model.riders import Rider
from tests.model.fake_link import in_thread, lose, refusal


@pytest.fixture
def variable(link):
    made = Variable("a")
    link.requests.clear()
    return made


@pytest.fixture
def board(link):
    """A function that takes a rider of this name on board, and its outcomes by name."""
    taken = {}

    def board(name="one", owner=None):
        def take(outcomes):
            taken[name] = outcomes

        return Rider(link, owner or name, lambda: [("append_grad", sent(name))], take)

    link.answers["append_grad"] = lambda params: params["variable_id"]
    board.taken = taken
    return board


def sent(name):
    return {"variable_id": name, "gradient": {"variable_id": "g"}}


def methods(link):
    return [
        (method, params.get("variable_id")) if method == "append_grad" else method for method, params in link.calls()
    ]


def change(variable):
    variable.data = "b"


def test_nothing_is_sent_until_the_next_call_which_comes_after_it(link, board, variable):
    first, second = board("one"), board("two")
    assert link.calls() == []
    change(variable)
    assert methods(link) == [("append_grad", "one"), ("append_grad", "two"), "update_variable"]
    assert link.bursts == [["append_grad", "append_grad", "update_variable"]]
    assert (first.settle(), second.settle(), board.taken) == (["one"], ["two"], {"one": ["one"], "two": ["two"]})
    change(variable)
    assert len(link.calls()) == 4, "each goes once"


def test_settling_sends_what_no_call_has_taken(link, board):
    first, second = board("one"), board("two")
    assert second.settle() == ["two"]
    assert first.settle() == ["one"]
    assert link.bursts == [["append_grad", "append_grad"]]


def test_calls_of_other_threads_do_not_take_it(link, board, variable):
    board()
    in_thread(lambda: change(variable))
    assert methods(link) == ["update_variable"]
    change(variable)
    assert methods(link)[1:] == [("append_grad", "one"), "update_variable"]


def test_another_thread_may_settle_it(link, board, variable):
    rider = board()
    assert in_thread(rider.settle) == ["one"]
    change(variable)
    assert methods(link) == [("append_grad", "one"), "update_variable"]


def test_a_batch_takes_it_before_what_it_has_queued(link, board):
    with te.batch():
        Variable("x")
        board()
    assert methods(link) == [("append_grad", "one"), "create_variable"]


def test_of_one_owner_only_the_last_is_sent(link, board, variable):
    former = board("one", owner="me")
    board("two", owner="me")
    change(variable)
    assert methods(link) == [("append_grad", "two"), "update_variable"]
    with pytest.raises(UsageError, match="begun again"):
        former.settle()


def test_which_goes_last_then(link, board, variable):
    board("one", owner="me")
    board("two")
    board("three", owner="me")
    change(variable)
    assert methods(link) == [("append_grad", "two"), ("append_grad", "three"), "update_variable"]


def test_the_call_does_not_fail_where_a_rider_is_refused(link, board, variable):
    def refuse(params):
        raise refusal()

    link.answers["append_grad"] = refuse
    rider = board()
    change(variable)
    assert variable.data == "b"
    for _ in range(2):
        with pytest.raises(RemoteError, match="no room"):
            rider.settle()
    assert len(link.calls("append_grad")) == 1


def test_nor_where_it_cannot_say_what_to_send(link, variable):
    def gone():
        raise UsageError("lost")

    rider = Rider(link, "me", gone)
    change(variable)
    assert variable.data == "b"
    with pytest.raises(UsageError, match="lost"):
        rider.settle()


def test_the_rider_does_not_fail_where_the_call_is_refused(link, board, variable):
    def refuse(params):
        raise refusal()

    link.answers["update_variable"] = refuse
    rider = board()
    with pytest.raises(RemoteError):
        change(variable)
    assert variable.data == "a"
    assert rider.settle() == ["one"]
    assert len(link.calls("append_grad")) == 1


@pytest.mark.parametrize("was_sent", [True, False])
def test_what_is_cut_off_goes_with_the_call_after(link, board, variable, was_sent):
    """Sent twice, if need be: see ``Rider``."""

    def cut(params):
        raise lose(was_sent)

    rider = board()
    plain = link.answers["append_grad"]
    link.answers["append_grad"] = link.answers["update_variable"] = cut
    with pytest.raises(ConnectionLost):
        change(variable)
    with pytest.raises(ConnectionLost):
        rider.settle()
    link.answers = {"append_grad": plain}
    link.requests.clear()
    change(variable)
    assert methods(link) == [("append_grad", "one"), "update_variable"]
    assert rider.settle() == ["one"]


def test_an_interrupt_keeps_it_on_board(link, board, variable):
    def interrupt(params):
        raise KeyboardInterrupt

    rider = board()
    link.answers["update_variable"] = interrupt
    with pytest.raises(KeyboardInterrupt):
        change(variable)
    del link.answers["update_variable"]
    link.requests.clear()
    assert rider.settle() == ["one"]


def test_a_call_that_makes_no_request_leaves_it_on_board(link, board, variable):
    from tellurio_sync.model.call import Call

    board()
    with Call(link):
        pass
    assert link.calls() == []
    change(variable)
    assert methods(link) == [("append_grad", "one"), "update_variable"]


def test_what_cannot_be_sent_of_a_batch_does_not_hold_it_back(link, board):
    with pytest.raises(BatchFailed), te.batch():  # noqa: PT012 - it fails at the end of the block
        board()
        Variable("fine").note = float("nan")
    assert methods(link)[0] == ("append_grad", "one")
    assert len(link.calls("append_grad")) == 1


# --- clear_grad -----------------------------------------------------------------------------------


@pytest.fixture
def tgd(link):
    prompt = Parameter("p")
    prompt.grad = [Variable("feedback")]
    optimizer = te.TGD([prompt], te.CallableModel(str), [])
    link.requests.clear()
    return optimizer


def test_gradients_are_gone_here_at_once_and_there_before_the_next_call(link, tgd, variable):
    (prompt,) = tgd.param_groups[0]["params"]
    gradients = prompt.grad
    clearing = tgd.clear_grad_with_next_call()
    assert (prompt.grad, gradients, link.calls()) == ([], [], [])
    change(variable)
    assert [method for method, _ in link.calls()] == ["clear_grad", "update_variable"]
    assert link.calls("clear_grad") == [{"optimizer_id": tgd.optimizer_id}]
    clearing.settle()
    assert len(link.calls()) == 2


def test_of_an_optimizer_that_only_this_side_knows_each_parameter_is_cleared(link, tgd, variable):
    (prompt,) = tgd.param_groups[0]["params"]
    tgd.load_state_dict(tgd.state_dict(), tgd.param_groups[0]["model_client"])
    link.requests.clear()
    tgd.clear_grad_with_next_call()
    change(variable)
    update = {"variable_id": prompt.variable_id, "field": "_grad", "value": []}
    assert link.calls("update_variable")[0] == update


@pytest.mark.parametrize("step", ["step", "backward_and_step"])
def test_a_step_does_not_go_by_gradients_that_could_not_be_cleared(link, tgd, variable, step):
    def refuse(params):
        raise refusal("no such optimizer")

    link.answers["clear_grad"] = refuse
    tgd.clear_grad_with_next_call()
    change(variable)
    arguments = [variable] if step == "backward_and_step" else []
    with pytest.raises(RemoteError, match="no such optimizer"):
        getattr(tgd, step)(*arguments)
    assert [link.calls(method) for method in ("run_step", "run_backward")] == [[], []]
    # It is said once.
    tgd.step()
