from __future__ import annotations

import os
import random
import threading
from collections import namedtuple

import pytest

from tellurio_sync.data import (
    DataLoader,
    Dataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
    WeightedRandomSampler,
    collate,
)
from tellurio_sync.errors import BatchFailed
from tellurio_sync.model import Variable
from tellurio_sync.model.session_link import current_link, use_link

FAILSAFE = 30.0


class Numbers(Dataset):
    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return index


class Mails(Numbers):
    def __getitem__(self, index):
        return Variable(f"mail {index}", "message"), Variable("neutral", "label")


@pytest.mark.parametrize("prefetch", [0, 1, 5])
@pytest.mark.parametrize(
    ("count", "size", "drop_last", "batches"),
    [
        (5, 2, False, [[0, 1], [2, 3], [4]]),
        (5, 2, True, [[0, 1], [2, 3]]),
        (4, 2, True, [[0, 1], [2, 3]]),
        (1, 9, False, [[0]]),
        (1, 9, True, []),
        (0, 2, False, []),
        (3, None, False, [0, 1, 2]),
    ],
)
def test_batches(prefetch, count, size, drop_last, batches):
    loader = DataLoader(Numbers(count), size, drop_last=drop_last, prefetch=prefetch)
    assert list(loader) == batches
    assert list(loader) == batches
    assert len(loader) == len(batches)


def test_each_epoch_is_shuffled_anew_and_a_seed_repeats_all_of_them():
    one, same, other = (DataLoader(list(range(50)), 50, shuffle=True, seed=seed) for seed in (1, 1, 2))
    epochs = [next(iter(one)) for _ in range(3)]
    assert epochs == [next(iter(same)) for _ in range(3)]
    assert epochs[0] != epochs[1] != epochs[2]
    assert epochs[0] != next(iter(other))
    assert all(sorted(epoch) == list(range(50)) for epoch in epochs)


def test_the_order_goes_on_where_a_state_says():
    one = DataLoader(list(range(50)), 50, shuffle=True)
    next(iter(one))
    state = one.state_dict()
    expected = [next(iter(one)) for _ in range(2)]
    resumed = DataLoader(list(range(50)), 50, shuffle=True)
    resumed.load_state_dict(state)
    assert [next(iter(resumed)) for _ in range(2)] == expected
    assert DataLoader([1]).state_dict() == {}
    DataLoader([1]).load_state_dict(state)


@pytest.mark.parametrize("prefetch", [0, 2])
def test_the_variables_of_a_batch_are_made_in_one_burst(link, prefetch):
    batches = list(DataLoader(Mails(4), 2, prefetch=prefetch))
    assert [(mails.data, labels.data) for mails, labels in batches] == [
        (["mail 0", "mail 1"], ["neutral", "neutral"]),
        (["mail 2", "mail 3"], ["neutral", "neutral"]),
    ]
    assert [mails.role for mails, _ in batches] == ["message", "message"]
    assert all(variable.variable_id for pair in batches for variable in pair)
    # The samples' own Variables are not told to the server.
    assert link.bursts == [["create_variable"] * 2] * 2


def test_the_thread_works_in_the_session_of_the_loop(link):
    seen = []

    class Watching(Numbers):
        def __getitem__(self, index):
            seen.append((current_link(), threading.current_thread()))
            return index

    with use_link(link):
        list(DataLoader(Watching(2), prefetch=1))
    assert [where for where, _ in seen] == [link, link]
    assert all(thread is not threading.current_thread() for _, thread in seen)


@pytest.mark.parametrize("prefetch", [0, 1, 3])
def test_an_error_comes_where_its_batch_would_be(prefetch):
    class Broken(Numbers):
        def __getitem__(self, index):
            return [1, 2, 3][index]

    loader = iter(DataLoader(Broken(5), prefetch=prefetch))
    assert [next(loader) for _ in range(3)] == [[1], [2], [3]]
    with pytest.raises(IndexError, match="out of range"):
        next(loader)


def test_a_refusal_of_the_server_is_raised_at_the_batch(link):
    from tellurio_sync.errors import RemoteError

    def refuse(params):
        raise RemoteError(-32603, "no", {"exception": "no"}, method="create_variable", request_id="1")

    link.answers["create_variable"] = refuse
    with pytest.raises(BatchFailed):
        list(DataLoader(Mails(2), 2))


@pytest.mark.parametrize("prefetch", [0, 1, 3])
def test_no_more_batches_are_made_ahead_than_was_said(prefetch):
    made = threading.Semaphore(0)

    def note(samples):
        made.release()
        return samples

    loop = iter(DataLoader(Numbers(20), collate_fn=note, prefetch=prefetch))
    for _ in range(3):
        next(loop)
    for _ in range(3 + prefetch):
        assert made.acquire(timeout=FAILSAFE)
    # Closing waits for nothing; what was being made too early would be done by the time its thread has ended.
    threads = [thread for thread in threading.enumerate() if thread.name == "tellurio-sync data loader"]
    loop.close()
    for thread in threads:
        thread.join(FAILSAFE)
    assert not made.acquire(blocking=False)


@pytest.mark.parametrize("prefetch", [0, 1])
def test_a_sample_that_stops_early_is_an_error_and_no_end(prefetch):
    """A data set over an iterator that is too short must not look like a short epoch."""
    source = iter("abc")

    class Short(Numbers):
        def __getitem__(self, index):
            return next(source)

    loop = iter(DataLoader(Short(5), prefetch=prefetch))
    assert [next(loop) for _ in range(3)] == [["a"], ["b"], ["c"]]
    with pytest.raises(RuntimeError, match="StopIteration"):
        next(loop)


@pytest.mark.parametrize("leave", ["break", "error", "close", "end", "never begun"])
def test_the_thread_ends_when_the_loop_is_left(leave):
    before = set(threading.enumerate())
    read = []

    class Many(Numbers):
        def __getitem__(self, index):
            read.append(index)
            return index

    loader = DataLoader(Many(8), prefetch=2)
    threads: set[threading.Thread] = set()

    def loop():
        for batch in loader:
            threads.update(set(threading.enumerate()) - before)
            if leave == "break" and batch == [3]:
                break
            if leave == "error" and batch == [3]:
                raise KeyboardInterrupt

    if leave == "close":
        batches = iter(loader)
        next(batches)
        threads.update(set(threading.enumerate()) - before)
        batches.close()
    elif leave == "never begun":
        iter(loader)
    elif leave == "error":
        with pytest.raises(KeyboardInterrupt):
            loop()
    else:
        loop()
    assert len(threads) == (leave != "never begun")
    for thread in threads:
        thread.join(FAILSAFE)
        assert not thread.is_alive()
    most = {"break": 6, "error": 6, "close": 3, "end": 8, "never begun": 0}[leave]
    assert len(read) <= most


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on this platform")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_loop_that_a_fork_cut_off_says_so():
    loop = iter(DataLoader(Numbers(20), prefetch=1))
    next(loop)
    child = os.fork()
    if not child:  # pragma: no cover - in the child
        try:
            for _ in loop:
                pass
            os._exit(1)
        except RuntimeError as exc:
            os._exit(0 if "after a fork" in str(exc) else 2)
        finally:
            os._exit(3)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert next(loop) == [1]
    loop.close()


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"batch_size": 0}, ValueError, "at least 1"),
        ({"batch_size": 1.5}, TypeError, "whole number"),
        ({"batch_size": True}, TypeError, "whole number"),
        ({"batch_size": None, "drop_last": True}, ValueError, "needs a batch_size"),
        ({"shuffle": True, "sampler": [0]}, ValueError, "two orders"),
        ({"prefetch": -1}, ValueError, "0 or more"),
        ({"shuffle": True, "seed": "x"}, TypeError, "seed"),
        ({"dataset": "text"}, TypeError, "Hugging Face"),
        ({"dataset": {"a": 1}}, TypeError, "not dict"),
        ({"dataset": iter([1])}, TypeError, "not list_iterator"),
    ],
)
def test_wrong_arguments_are_refused(arguments, error, text):
    with pytest.raises(error, match=text):
        DataLoader(**{"dataset": [1, 2], **arguments})


def test_a_table_gives_its_rows():
    class Frame:  # as pandas has it
        columns = ("text", "label")

        class _Rows:
            def __getitem__(self, index):
                return {"text": f"t{index}", "label": "l"}

        iloc = _Rows()

        def __len__(self):
            return 2

        def __getitem__(self, name):
            raise KeyError(name)

    assert list(DataLoader(Frame(), 2)) == [{"text": ["t0", "t1"], "label": ["l", "l"]}]


def test_an_own_order_and_an_own_batch():
    loader = DataLoader(["a", "b", "c"], 2, sampler=[2, 0, 1], collate_fn="-".join)
    assert list(loader) == ["c-a", "b"]


# --- collate -------------------------------------------------------------------------------------------


def test_collate_by_form(link):
    point = namedtuple("point", "x y")
    assert collate(["a", "b"]) == ["a", "b"]
    assert collate([(1, "a"), (2, "b")]) == ([1, 2], ["a", "b"])
    assert collate([[1, "a"], [2, "b"]]) == [[1, 2], ["a", "b"]]
    assert collate([point(1, 2), point(3, 4)]) == point([1, 3], [2, 4])
    assert collate([{"a": 1}, {"a": 2}]) == {"a": [1, 2]}
    one = collate([Variable("a", "first"), Variable("b", "second", requires_grad=True)])
    assert (one.data, one.role, one.requires_grad) == (["a", "b"], "first", True)
    nested = collate([(Variable("a", "r"), (1, 2)), (Variable("b", "r"), (3, 4))])
    assert nested[0].data == ["a", "b"]
    assert nested[1] == ([1, 3], [2, 4])


@pytest.mark.parametrize(
    ("samples", "error", "text"),
    [
        ([], ValueError, "no samples"),
        ([(1,), (1, 2)], ValueError, "Sample 1 has 2 parts"),
        ([{"a": 1}, {"b": 1}], ValueError, "Sample 1 has other keys"),
        ([(1,), "x"], TypeError, "sample 1 a str"),
    ],
)
def test_samples_that_make_no_batch_are_refused(samples, error, text):
    with pytest.raises(error, match=text):
        collate(samples)


# --- samplers ------------------------------------------------------------------------------------------


def test_the_first_pass_is_that_of_a_plain_generator():
    assert list(RandomSampler("abcdefgh", seed=0)) == random.Random(0).sample(range(8), 8)
    assert list(WeightedRandomSampler([1, 2, 3], 9, seed=0)) == random.Random(0).choices(range(3), [1, 2, 3], k=9)


def test_random_orders():
    assert list(SequentialSampler("abc")) == [0, 1, 2]
    assert len(SequentialSampler("abc")) == 3
    assert sorted(RandomSampler("abcd", seed=0)) == [0, 1, 2, 3]
    many = list(RandomSampler("ab", num_samples=5, seed=0))
    assert len(many) == 5
    assert {many.count(0), many.count(1)} == {2, 3}
    drawn = list(RandomSampler("ab", replacement=True, num_samples=200, seed=0))
    assert len(drawn) == len(RandomSampler("ab", replacement=True, num_samples=200)) == 200
    assert set(drawn) == {0, 1}
    assert list(RandomSampler("", seed=0)) == []
    with pytest.raises(ValueError, match="num_samples"):
        RandomSampler("a", num_samples=0)


@pytest.mark.parametrize("replacement", [True, False])
def test_weights_say_how_often(replacement):
    # With seeds from 0 on; the bounds are five standard deviations from what is expected.
    drawn = [next(iter(WeightedRandomSampler([1, 0, 3], 1, replacement, seed))) for seed in range(1000)]
    assert 1 not in drawn
    assert abs(drawn.count(2) - 750) < 5 * (1000 * 0.75 * 0.25) ** 0.5


def test_weighted_samples_without_replacement_come_once():
    assert sorted(WeightedRandomSampler([1, 2, 0, 3], 3, replacement=False, seed=0)) == [0, 1, 3]
    with pytest.raises(ValueError, match="Only 3"):
        WeightedRandomSampler([1, 2, 0, 3], 4, replacement=False)


@pytest.mark.parametrize("weights", [[], [0, 0], [-1, 2], [float("nan")], [float("inf")]])
def test_weights_out_of_range_are_refused(weights):
    with pytest.raises(ValueError, match="weights"):
        WeightedRandomSampler(weights, 1)


def test_base_classes_say_what_is_missing():
    with pytest.raises(NotImplementedError, match="__getitem__"):
        Dataset()[0]
    with pytest.raises(NotImplementedError, match="__iter__"):
        iter(Sampler())
