"""Batches with threads, contexts and forks: which thread waits for which, and never two for each other."""

# ruff: noqa: PT012 - what is tested is which block an error ends

from __future__ import annotations

import contextvars
import gc
import sys
import threading

import pytest

import tellurio_sync as te
from tellurio_sync.errors import BatchFailed, UsageError, WouldDeadlock
from tellurio_sync.model import Variable
from tellurio_sync.model.batch import queue
from tellurio_sync.model.batch.changes import Change
from tellurio_sync.model.session_link import use_link
from tellurio_sync.model.variable_state import VariableState, known_id, received, set_local
from tellurio_sync.optim import TGD
from tellurio_sync.optim.functional import tgd
from tests.model.fake_link import CREATE, FAILSAFE_S, UPDATE, in_thread, refusal
from tests.processes.test_fork import forked, needs_fork

# --- which thread waits ---------------------------------------------------------------------------------------------


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


def test_many_threads_in_one_block(link, monkeypatch):
    monkeypatch.setattr(queue, "_MOST_ITEMS", 50)
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
    optimizer = TGD([other], None)
    leaf = received(Variable, link, "leaf", "x", "r", True)
    set_local(leaf, "is_leaf", False)
    with te.batch():
        for use in (
            lambda variable: te.functional.sum([other, variable]),
            lambda variable: te.backward([leaf], [variable]),
            lambda variable: other.append_grad(variable),
            lambda variable: setattr(other, "grad", [variable]),
            lambda variable: TGD([other], None, [{"role": "system", "content": [variable]}]),
            lambda variable: optimizer.add_param_group({"params": [variable]}),
            lambda variable: tgd([variable], [[]], [], None, [], None, None, 0),
            lambda variable: variable.append_grad(other),
            lambda variable: setattr(variable, "role", "new"),
        ):
            variable = Variable("queued")

            def run(use=use, variable=variable):
                with use_link(link):
                    use(variable)

            in_thread(run)


def test_two_batches_that_share_gradient_lists_do_not_wait_for_each_other(link, monkeypatch):
    """Each of two gradient lists gets, after it was set, what the other block has queued."""
    parties = threading.Barrier(2, timeout=FAILSAFE_S)
    plain = Change.params

    def params(self):
        if self.field == "_grad":
            parties.wait()  # both are sending
        return plain(self)

    monkeypatch.setattr(Change, "params", params)
    old, new, done = [Variable("x"), Variable("y")], [None, None], []

    def work(n):
        with use_link(link), te.batch():
            new[n] = Variable(f"new {n}")
            old[n].grad = []
            parties.wait()
            old[n].grad.append(new[1 - n])
            parties.wait()
        done.append(n)

    threads = [threading.Thread(target=work, args=(n,), daemon=True) for n in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(FAILSAFE_S)
    assert sorted(done) == [0, 1]


def test_a_change_of_what_another_thread_makes_in_this_moment_is_told(link, monkeypatch):
    slot = VariableState.__dict__["_queue"]
    asked, made = threading.Event(), threading.Event()

    def queue_as_it_was(self):
        queue = slot.__get__(self)
        if threading.current_thread() is thread and not asked.is_set():
            asked.set()
            assert made.wait(FAILSAFE_S)
        return queue

    def change():
        with use_link(link), te.batch():
            variable.role = "new"
        asked.set()

    thread = threading.Thread(target=change)
    with te.batch():
        variable = Variable("a", "old")
        monkeypatch.setattr(VariableState, "_queue", property(queue_as_it_was, slot.__set__))
        thread.start()
        assert asked.wait(FAILSAFE_S)
        assert variable.variable_id
        made.set()
        thread.join(FAILSAFE_S)
    told = [params["role"] for params in link.calls(CREATE)] + [params["value"] for params in link.calls(UPDATE)]
    assert (told[-1], variable.role) == ("new", "new")


def test_a_batch_may_be_used_by_several_threads_at_once(link):
    block = te.batch()
    entered, go_on = threading.Event(), threading.Event()

    def work():
        with use_link(link), block:
            entered.set()
            assert go_on.wait(FAILSAFE_S)
            Variable("theirs")

    thread = threading.Thread(target=work)
    with block:
        Variable("mine")
        thread.start()
        assert entered.wait(FAILSAFE_S)
    assert [params["data"] for params in link.calls(CREATE)] == ["mine"]
    go_on.set()
    thread.join(FAILSAFE_S)
    assert [params["data"] for params in link.calls(CREATE)] == ["mine", "theirs"]


def test_the_end_waits_for_what_another_thread_is_sending(link):
    """It has to know what that one is refused."""
    sending, go_on = threading.Event(), threading.Event()

    def answer(params):
        sending.set()
        assert go_on.wait(FAILSAFE_S)
        raise refusal()

    class Awaited:
        """As the lock that it stands for; lets the other thread go on once it is waited for."""

        def __init__(self, lock):
            self.lock = lock

        def __enter__(self):
            if sending.is_set():
                go_on.set()
            self.lock.acquire()

        def __exit__(self, *exc_info):
            self.lock.release()

        def _is_owned(self):
            return self.lock._is_owned()

    link.answers[UPDATE] = answer
    with pytest.raises(BatchFailed, match="note of"), te.batch():
        variable = Variable("a")
        variable.note = "refused"
        variable._queue._sending = Awaited(variable._queue._sending)
        thread = threading.Thread(target=lambda: variable.variable_id)
        thread.start()
        assert sending.wait(FAILSAFE_S)
    thread.join(FAILSAFE_S)
    assert not hasattr(variable, "note")


def test_a_generator_that_is_ended_by_another_thread_leaves_that_one_alone(link):
    def generator():
        with te.batch():
            yield Variable("g")

    with te.batch():
        suspended = generator()
        next(suspended)

        def end_in_a_block():
            with use_link(link), te.batch():
                suspended.close()
                return known_id(Variable("b"))

        def end():
            with use_link(link):
                suspended.close()
                return known_id(Variable("c"))

        assert in_thread(end_in_a_block) is None
        suspended = generator()
        next(suspended)
        assert in_thread(end) is not None


def test_a_context_that_was_copied_and_is_late_tells_all_the_same(link, monkeypatch):
    variable = Variable("a", "old")
    entered, go_on = threading.Event(), threading.Event()
    plain = queue.Queue._make_room

    def wait(self):
        entered.set()
        assert go_on.wait(FAILSAFE_S)
        plain(self)

    def change():
        variable.role = "new"
        assert known_id(Variable("b")) is not None

    with te.batch():
        monkeypatch.setattr(queue.Queue, "_make_room", wait)
        thread = threading.Thread(target=contextvars.copy_context().run, args=(change,))
        thread.start()
        assert entered.wait(FAILSAFE_S)
    go_on.set()
    thread.join(FAILSAFE_S)
    assert [params["value"] for params in link.calls(UPDATE)] == ["new"]
    assert [params["data"] for params in link.calls(CREATE)] == ["a", "b"]


@needs_fork
def test_a_forked_child_is_in_no_block(link):
    old = Variable("old")
    with te.batch():
        new = Variable("new")
        new.note = "told with it"
        old.role = "queued here; there, the restore tells it"

        def child():
            link.requests.clear()
            made = Variable("made")
            old.data = "changed"
            ids = (known_id(made), new.variable_id)
            return ids, [params.get("data", params.get("value")) for _, params in link.calls()]

        ids, told = forked(child)
        assert None not in ids
        assert told == ["made", "changed", "new", "told with it"]
    assert [params["value"] for params in link.calls(UPDATE)] == ["told with it", old.role]


# --- on the receive thread, and in finalisers -----------------------------------------------------------------------


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
    assert "by this thread at this moment" in str(made[1])


def test_a_change_on_the_receive_thread_that_cannot_be_told_is_taken_back(link):
    old = Variable("old")
    link._receive_thread = threading.get_ident()
    with pytest.raises(WouldDeadlock), te.batch():
        old.data = "new"
    link._receive_thread = None
    assert old.data == "old"


def test_the_receive_thread_takes_nothing_back_of_others(link):
    old = Variable("old")

    def read():
        link._receive_thread = threading.get_ident()
        try:
            with pytest.raises(WouldDeadlock):
                _ = new.variable_id
        finally:
            link._receive_thread = None

    with te.batch():
        new = Variable("new")
        old.data = "changed"
        in_thread(read)
        assert old.data == "changed"
    assert link.calls(UPDATE)[-1]["value"] == "changed"
