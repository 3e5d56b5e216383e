from __future__ import annotations

import gc
import threading
import weakref
from collections import deque

import pytest

from tellurio_sync.errors import ConnectionLost, PendingTimeout, UnknownVariable, WouldDeadlock
from tellurio_sync.model import Variable, pushed
from tellurio_sync.model.call import Call
from tellurio_sync.model.graph import Node
from tellurio_sync.model.pushed import PushedObjects
from tellurio_sync.model.registries import Registries
from tellurio_sync.model.variable_state import received
from tests.model.fake_link import FAILSAFE_S, Reader

COPY = {
    "obj_type": "__variable__",
    "data": "x",
    "role": "r",
    "requires_grad": False,
    "_retain_grad": False,
    "_grad": [],
    "_output_nr": 0,
    "_grad_fn": None,
    "is_leaf": True,
}


# --- lifetime -----------------------------------------------------------------------------------


def test_a_variable_is_forgotten_with_the_users_last_reference(link):
    variable = Variable("a")
    assert link.registries.variables.lookup(variable.variable_id) is variable
    del variable
    assert len(link.registries.variables) == 0


def test_what_is_pushed_lives_until_the_causing_call_ends(link):
    registries = link.registries
    with Call(link):
        link.push("create_variable", variable_id="copy", **COPY)
        link.push("create_node", node_id="n", name="AddBackward0")
        gc.collect()
        assert "copy" in registries.variables
        assert "n" in registries.nodes
        claimed = registries.variables.lookup("copy")
    assert registries.variables.lookup("copy") is claimed
    assert "n" not in registries.nodes


def test_a_push_outside_any_call_lives_until_the_next_call_ends(link):
    link.push("create_variable", variable_id="copy", **COPY)
    assert "copy" in link.registries.variables
    with Call(link):
        assert "copy" in link.registries.variables
    assert "copy" not in link.registries.variables


def test_held_objects_go_when_no_call_can_need_them():
    """Calls that overlap without end must not keep everything."""
    area = PushedObjects()
    first = area.begin_call()
    area.hold("of first")
    second = area.begin_call()
    area.hold("of first or second")
    assert area.end_call(first) == ["of first"]
    third = area.begin_call()
    area.hold("of second or third")
    assert area.end_call(second) == ["of first or second"]
    assert area.end_call(third) == ["of second or third"]
    assert len(area) == 0


def test_an_ending_call_leaves_what_an_older_one_may_need():
    area = PushedObjects()
    older = area.begin_call()
    younger = area.begin_call()
    area.hold("either's")
    assert area.end_call(younger) == []
    assert area.end_call(older) == ["either's"]


class Interrupted(deque):
    """What is held: code of the user runs just after the first one was looked at, as that of a signal handler may."""

    act = None

    def __getitem__(self, index):
        found = super().__getitem__(index)
        if self.act is not None:
            act, self.act = self.act, None
            act()
        return found


@pytest.mark.parametrize("others", [[], ["younger's"]])
def test_what_a_signal_handler_has_released_is_released_once_and_nothing_else_with_it(others):
    area = PushedObjects()
    area._held = held = Interrupted()
    older, oldest = area.begin_call(), area.begin_call()
    area.hold("older's", 10)
    younger = area.begin_call()
    for other in others:
        area.hold(other, 10)
    assert area.end_call(older) == []
    by_handler = []
    held.act = lambda: by_handler.extend(area.end_call(oldest))
    # The call that ends here and the one of the handler both see that the first is not needed any more.
    assert area.end_call(oldest) == []
    assert by_handler == ["older's"]
    assert len(area) == len(others)
    assert area.end_call(younger) == others
    assert area._bytes == 0


def test_pushes_without_calls_are_bounded():
    area = PushedObjects()
    given_way = [area.hold(number) for number in range(10_002)]
    assert given_way[-2:] == [[0], [1]]
    assert len(area) == 10_000


MIB = 2**20


@pytest.mark.parametrize(("is_running", "most"), [(False, 64), (True, 512)])
def test_pushes_are_bounded_in_bytes_and_the_latest_stays(is_running, most):
    area = PushedObjects()
    ticket = area.begin_call() if is_running else None
    given_way = [number for number in range(1000) for number in area.hold(number, MIB)]
    assert given_way == list(range(1000 - len(area)))
    assert most - 1 <= len(area) <= most
    assert area.hold("large", 1000 * MIB)[-1] == 999
    assert len(area) == 1
    if ticket is not None:
        assert area.end_call(ticket) == ["large"]
    assert area.hold("next", MIB) == ([] if is_running else ["large"])
    assert area.hold("another", MIB) == [], "what has gone is not counted any more"


def test_a_server_that_pushes_long_texts_without_end_fills_no_memory(link, monkeypatch):
    """The texts of Variables, also in lists, and the names of nodes are counted."""
    monkeypatch.setattr(pushed, "MOST_IDLE_BYTES", MIB)
    text = "x" * 100_000
    pushes = {
        "text": lambda n: link.push("create_variable", variable_id=f"v{n}", **{**COPY, "data": text}),
        "list": lambda n: link.push("create_variable", variable_id=f"l{n}", **{**COPY, "data": [text[:50_000]] * 2}),
        "role": lambda n: link.push("create_variable", variable_id=f"r{n}", **{**COPY, "role": text}),
        "node": lambda n: link.push("create_node", node_id=f"n{n}", name=text),
    }
    for kind, push in pushes.items():
        for number in range(12):
            push(number)
        held = len(link.registries.variables) + len(link.registries.nodes)
        assert held == 10, kind


def test_a_variable_with_a_pending_flag_stays_alive_until_it_is_cleared(link):
    variable = Variable("a")
    variable_id, alive = variable.variable_id, weakref.ref(variable)
    link.registries.mark_pending([variable], "_pending_grad")
    del variable
    assert alive() is not None
    link.push("clear_backward", variable_ids=[variable_id])
    assert alive() is None


def test_replacing_an_entry_keeps_the_new_object_when_the_old_one_goes(link):
    old = Variable("a")
    new = received(Variable, link, old.variable_id, "b")
    link.registries.variables.register(old.variable_id, new)
    variable_id = old.variable_id
    del old
    assert link.registries.variables.lookup(variable_id) is new


@pytest.mark.parametrize("id_", [None, 1, [], {}])
def test_an_id_that_is_no_string_is_unknown(id_):
    assert Registries().variables.lookup(id_) is None


# --- pending flags ------------------------------------------------------------------------------

FLAGS = [("_pending_data", "data"), ("_pending_grad", "grad")]
CLEARING = {"_pending_data": "clear_step", "_pending_grad": "clear_backward"}


@pytest.mark.parametrize(("flag", "attribute"), FLAGS)
def test_reading_waits_until_the_flag_is_cleared(link, flag, attribute):
    variable = Variable("a")
    link.registries.mark_pending([variable], flag)
    reader = Reader(link, lambda: getattr(variable, attribute))
    assert reader.is_waiting
    link.push(CLEARING[flag], variable_ids=[variable.variable_id])
    assert reader.result() == getattr(variable, attribute)
    assert getattr(variable, flag) is False


@pytest.mark.parametrize(("flag", "attribute"), FLAGS)
def test_reading_gives_up_after_the_pending_timeout(link, flag, attribute):
    link.pending_timeout = 0.01
    variable = Variable("a")
    link.registries.mark_pending([variable], flag)
    text = f"Timeout waiting for {flag} to be cleared for variable_id={variable.variable_id}"
    with pytest.raises(PendingTimeout, match=text) as caught:
        getattr(variable, attribute)
    assert (caught.value.flag, caught.value.waited_s) == (flag, 0.01)
    assert not link.registries._waiters


def test_losing_the_connection_fails_each_reader_with_its_own_error_and_clears_the_flags(link):
    variable = Variable("a")
    link.registries.mark_pending([variable], "_pending_data")
    readers = [Reader(link, lambda: variable.data) for _ in range(3)]
    link.registries.fail_pending(lambda: ConnectionLost("cable cut"))
    errors = []
    for reader in readers:
        with pytest.raises(ConnectionLost, match="cable cut") as caught:
            reader.result()
        errors.append(caught.value)
    assert len(set(map(id, errors))) == 3
    assert variable.data == "a"


def test_losing_the_connection_does_not_touch_later_waits(link):
    variable = Variable("a")
    link.registries.fail_pending(lambda: ConnectionLost("before"))
    link.registries.mark_pending([variable], "_pending_data")
    reader = Reader(link, lambda: variable.data)
    link.push("clear_step", variable_ids=[variable.variable_id])
    assert reader.result() == "a"


def test_the_receive_thread_does_not_wait_for_itself(link):
    variable = Variable("a")
    link.registries.mark_pending([variable], "_pending_data")
    link._receive_thread = threading.get_ident()
    with pytest.raises(WouldDeadlock):
        _ = variable.data


def test_waiting_for_a_variable_ends_with_its_push(link):
    found = []
    registries = link.registries
    thread = threading.Thread(target=lambda: found.append(registries.wait_for_variable("late", FAILSAFE_S)))
    thread.start()
    link.push("create_variable", variable_id="late", **COPY)
    thread.join(FAILSAFE_S)
    assert found[0].variable_id == "late"


def test_waiting_for_a_variable_that_does_not_come(link):
    with pytest.raises(UnknownVariable, match="Variable with variable_id 'late' not found"):
        link.registries.wait_for_variable("late", 0.01)


# --- deferred nodes -----------------------------------------------------------------------------


def test_a_variable_is_bound_to_a_node_that_comes_later(link):
    variable = received(Variable, link, "v", "a", requires_grad=True)
    link.registries.bind_grad_fn(variable, "n")
    reader = Reader(link, lambda: variable.grad_fn)
    assert reader.is_waiting
    link.push("create_node", node_id="other", name="AddBackward0")
    assert reader.is_waiting
    link.push("create_node", node_id="n", name="AddBackward0")
    assert reader.result() is link.registries.nodes.lookup("n")
    assert variable._pending_grad_fn_id is None
    assert not link.registries._unbound


def test_an_update_of_the_node_ends_the_wait_for_another(link):
    variable = Variable("a", requires_grad=True)
    link.registries.bind_grad_fn(variable, "n")
    reader = Reader(link, lambda: variable.grad_fn)
    link.push("create_node", node_id="other", name="AddBackward0")
    link.push("update_variable", variable_id=variable.variable_id, field="_grad_fn", value="other")
    assert reader.result().node_id == "other"
    assert not link.registries._unbound


def test_a_node_that_never_comes_is_a_timeout_and_keeps_nothing_alive(link):
    link.pending_timeout = 0.01
    variable = received(Variable, link, "v", "a", requires_grad=True)
    link.registries.bind_grad_fn(variable, "n")
    with pytest.raises(PendingTimeout, match="Timeout waiting for _pending_grad_fn_id to be cleared for variable_id=v"):
        _ = variable.grad_fn
    alive = weakref.ref(variable)
    del variable
    gc.collect()
    assert alive() is None
    assert not link.registries._unbound


def test_binding_and_the_push_of_the_node_never_miss_each_other(link):
    """Protocol §E.4: whichever comes first, the Variable is bound."""
    for number in range(200):
        variable = received(Variable, link, f"v{number}", "a", requires_grad=True)
        start = threading.Barrier(2)

        def bind(variable=variable, number=number, start=start):
            start.wait(FAILSAFE_S)
            link.registries.bind_grad_fn(variable, f"n{number}")

        thread = threading.Thread(target=bind)
        thread.start()
        start.wait(FAILSAFE_S)
        node = Node(f"n{number}", "AddBackward0")
        link.registries.register_pushed_node(node)
        thread.join(FAILSAFE_S)
        assert variable._grad_fn is node


# --- callables ----------------------------------------------------------------------------------


class Scorer:
    def score(self):
        return 1

    __hash__ = None  # type: ignore[assignment]

    def __call__(self):
        return 2


@pytest.mark.parametrize("make", [lambda s: lambda f=(lambda: 1): f, lambda s: lambda: s.score, lambda s: lambda: s])
def test_a_function_has_one_id_while_somebody_keeps_it(make):
    registries = Registries()
    get = make(Scorer())
    first, second = registries.register_callable(get()), registries.register_callable(get())
    assert first is second
    assert registries.callables.lookup(first.callable_id) is first


def test_the_table_of_callables_does_not_grow():
    registries = Registries()
    for _ in range(100):
        registries.register_callable(lambda: 1)
    assert len(registries.callables) == 0


def test_different_functions_have_different_ids():
    registries = Registries()
    one, other = Scorer(), Scorer()
    kept = [registries.register_callable(f) for f in (one, other, one.score, other.score, sum, max)]
    assert len({registered.callable_id for registered in kept}) == 6
