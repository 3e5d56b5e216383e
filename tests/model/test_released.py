"""What this side lets go of: noted when it goes, and told in batches (protocol §K.3)."""

from __future__ import annotations

import gc
import threading
from typing import Any

import tellurio_sync as te
from tellurio_sync.model.language import CallableModel
from tellurio_sync.model.registries import WeakTable
from tellurio_sync.model.released import Released

from ..restore.conftest import computed
from .fake_link import FakeLink, link

__all__ = ["link"]


class Thing:
    pass


class TestTheTable:
    def test_an_object_that_goes_is_noted(self) -> None:
        released = Released()
        table: WeakTable[Thing] = WeakTable(threading.RLock(), released.variables)
        kept, gone = Thing(), Thing()
        table.register("kept", kept)
        table.register("gone", gone)
        del gone
        assert list(released.variables) == ["gone"]
        assert (len(table), "gone" in table, table.lookup("kept")) == (1, False, kept)

    def test_one_that_has_another_id_now_is_noted_under_the_former(self) -> None:
        released = Released()
        table: WeakTable[Thing] = WeakTable(threading.RLock(), released.variables)
        thing = Thing()
        table.register("a", thing)
        table.rename("a", "b", thing)
        assert list(released.variables) == ["a"]
        assert table.lookup("b") is thing
        del thing
        assert list(released.variables) == ["a", "b"]

    def test_one_that_was_replaced_does_not_take_its_successor_along(self) -> None:
        released = Released()
        table: WeakTable[Thing] = WeakTable(threading.RLock(), released.variables)
        former, thing = Thing(), Thing()
        table.register("a", former)
        table.register("a", thing)
        del former
        assert list(released.variables) == []
        assert table.lookup("a") is thing

    def test_it_goes_whoever_holds_the_lock(self) -> None:
        """The collector may run at any allocation, on any thread: a lock here would be a deadlock some day."""
        lock, released = threading.RLock(), Released()
        table: WeakTable[Thing] = WeakTable(lock, released.variables)
        things = [Thing()]
        table.register("gone", things[0])
        dropping = threading.Thread(target=things.clear)
        with lock:
            dropping.start()
            dropping.join(30)
            assert not dropping.is_alive()
        assert list(released.variables) == ["gone"]

    def test_a_table_without_readers(self) -> None:
        table: WeakTable[Thing] = WeakTable(threading.RLock())
        thing = Thing()
        table.register("a", thing)
        table.rename("a", "b", thing)
        del thing
        assert len(table) == 0


class TestWhenItIsDue:
    def test_at_once_and_then_not_too_often(self) -> None:
        now = [100.0]
        released = Released(lambda: now[0])
        assert released.take_due() is None
        released.variables.append("a")
        assert released.take_due() == {"variable_ids": ["a"]}
        released.models.append("m")
        assert released.take_due() is None
        now[0] += 0.19
        assert released.take_due() is None
        now[0] += 0.01
        released.optimizers.append("o")
        assert released.take_due() == {"model_ids": ["m"], "optimizer_ids": ["o"]}
        assert released.take_due() is None

    def test_many_do_not_wait(self) -> None:
        released = Released(lambda: 100.0)
        released.variables.append("first")
        assert released.take_due() is not None
        released.variables.extend(str(i) for i in range(99))
        assert released.take_due() is None
        released.variables.append("99")
        assert released.take_due() == {"variable_ids": [str(i) for i in range(100)]}

    def test_what_could_not_be_sent_is_not_lost(self) -> None:
        now = [100.0]
        released = Released(lambda: now[0])
        released.variables.extend("ab")
        released.models.append("m")
        released.optimizers.append("o")
        params = released.take_due()
        assert params is not None
        released.put_back(params)
        now[0] += 1
        assert released.take_due() == params

    def test_no_message_grows_without_bounds(self) -> None:
        released = Released(lambda: 100.0)
        released.variables.extend(map(str, range(25_000)))
        sizes = []
        while (params := released.take_due()) is not None:
            sizes.append(len(params["variable_ids"]))
        assert sizes == [10_000, 10_000, 5_000]

    def test_where_nobody_wants_to_know_they_do_not_pile_up(self) -> None:
        released = Released()
        for i in range(150_000):
            released.variables.append(str(i))
        assert len(released.variables) == 100_000

    def test_threads_that_take_at_once_take_each_id_once(self) -> None:
        released = Released()
        released.variables.extend(map(str, range(50_000)))
        taken: list[str] = []

        def take() -> None:
            while (params := released.take_due()) is not None:
                taken.extend(params["variable_ids"])

        threads = [threading.Thread(target=take) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(taken, key=int) == [str(i) for i in range(50_000)]


class TestObjects:
    def test_each_kind_has_its_place(self, link: FakeLink) -> None:
        released = link.registries.released
        variable, model = te.Variable("x"), CallableModel(lambda messages: "")
        parameter = te.Parameter("p", "r")
        optimizer = te.TGD([parameter], model)
        ids = variable.variable_id, model.model_id, parameter.variable_id, optimizer.optimizer_id
        del variable
        gc.collect()
        assert ids[0] in released.variables
        assert ids[2] not in released.variables
        assert list(released.models) == list(released.optimizers) == []
        del model, parameter, optimizer
        gc.collect()
        assert ids[2] in released.variables
        assert list(released.models) == [ids[1]]
        assert list(released.optimizers) == [ids[3]]

    def test_what_a_computed_one_needs_is_held_by_it(self, link: FakeLink) -> None:
        """The server names its arguments when it goes back."""
        argument = te.Variable("x", role="r")
        output = computed(link, argument)
        argument_id = argument.variable_id
        del argument
        gc.collect()
        assert argument_id not in link.registries.released.variables
        del output
        gc.collect()
        assert argument_id in link.registries.released.variables

    def test_in_a_forked_child_there_is_nothing_to_let_go_of(self, link: FakeLink) -> None:
        link.registries.released.variables.append("of the parent")
        link.registries.renew_after_fork()
        assert link.registries.released.take_due() is None

    def test_what_the_server_made_for_a_call_that_was_given_up(self, link: FakeLink) -> None:
        known = te.Variable("x")

        def interrupt(params: Any) -> Any:
            raise KeyboardInterrupt

        made = {
            "create_variable": {"variable_id": "v1"},
            "create_model": {"model_id": "m1"},
            "create_optimizer": {"optimizer_id": "o1"},
            "run_function": {"data": [{"variable_id": "v2"}, {"variable_id": "v3"}, 5]},
            "update_variable": {"variable_id": known.variable_id},
        }
        for result in made.values():
            link.answers["create_variable"] = interrupt
            try:
                te.Variable("y")
            except KeyboardInterrupt:
                link.reply_late(result=result)
        released = link.registries.released
        assert list(released.variables) == ["v1", "v2", "v3"]
        assert (list(released.models), list(released.optimizers)) == (["m1"], ["o1"])
