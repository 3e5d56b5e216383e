"""``te.evaluate``: every sample where it matters, and no further where it cannot."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tellurio_sync as te
from tellurio_sync.trainer import Evaluation, evaluate


def scored(scores):
    """Samples that are their own answers, each with this score; and which batches were looked at."""
    batches = []

    def forward(batch):
        batches.append(list(batch))
        return batch

    samples = [f"s{number}" for number in range(len(scores))]
    by_sample = dict(zip(samples, scores))
    return forward, lambda answers, batch: [by_sample[answer] for answer in answers], samples, batches


def test_every_sample_has_a_score_an_answer_and_why(run):
    lm = te.CallableModel(lambda messages, **options: messages[-1]["content"].upper())
    chat = [{"role": "user", "content": [te.Variable("{word}", role="word")]}]

    def forward(batch):
        return te.functional.chat_completion(lm, chat, inputs={"word": batch[0]})

    def evaluator(answers, batch):
        return te.functional.exact_match_evaluator(answers, batch[1], reduction_fn=None)

    samples = [("a", "A"), ("b", "x"), ("c", "C")]
    found = te.evaluate(forward, evaluator, samples, batch_size=2)
    assert found.scores == (1.0, 0.0, 1.0)
    assert found.outputs == ("A", "B", "C")
    assert all(isinstance(text, str) and text for text in found.explanations)
    assert (found.mean, found.total, found.is_complete) == (pytest.approx(2 / 3), 2.0, True)
    assert run.questions().asked == 3
    assert repr(found) == "<Evaluation: 0.6667 on 3 samples>"


def test_the_hardest_come_first_and_it_ends_when_the_best_cannot_be_beaten():
    best = Evaluation((1.0, 0.0, 1.0, 0.0, 1.0, 1.0))  # 4 of 6
    forward, evaluator, samples, batches = scored([1, 0, 1, 0, 1, 1])
    found = evaluate(forward, evaluator, samples, best=best, batch_size=1)
    # Both hard samples wrong: with all the others right it would be as good, and no better.
    assert batches == [["s1"], ["s3"]]
    assert found.scores == (None, 0.0, None, 0.0, None, None)
    assert (found.mean, found.is_complete, found.evaluated) == (None, False, 2)
    assert str(found) == "not better, as 2 of 6 samples show"
    assert found.outputs == (None, "s1", None, "s3", None, None)


def test_what_is_better_is_evaluated_on_all_samples():
    best = Evaluation((1.0, 0.0, 0.5))
    forward, evaluator, samples, batches = scored([1, 1, 0.5])
    found = evaluate(forward, evaluator, samples, best=best, batch_size=1)
    assert batches == [["s1"], ["s2"], ["s0"]]
    assert (found.is_complete, found.total) == (True, 2.5)


def test_without_a_best_the_order_is_that_of_the_samples():
    forward, evaluator, samples, batches = scored([0, 0, 0])
    assert evaluate(forward, evaluator, samples, batch_size=2).mean == 0
    assert batches == [["s0", "s1"], ["s2"]]


def test_nothing_is_asked_where_the_best_is_perfect():
    forward, evaluator, samples, batches = scored([1, 1])
    found = evaluate(forward, evaluator, samples, best=Evaluation((1.0, 1.0)))
    assert (batches, found.evaluated) == ([], 0)


SCORES = st.lists(st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.9, 1.0]), min_size=1, max_size=12)


@settings(max_examples=200, deadline=None)
@given(data=st.data(), new=SCORES, size=st.integers(1, 5))
def test_it_is_broken_off_only_where_it_cannot_be_better(data, new, size):
    """Whether the new one is better is known afterwards as surely as from all scores; what was evaluated is right."""
    old = data.draw(
        st.lists(st.one_of(st.none(), st.sampled_from([0.0, 0.3, 1.0])), min_size=len(new), max_size=len(new))
    )
    best = Evaluation(tuple(old))
    forward, evaluator, samples, batches = scored(new)
    found = evaluate(forward, evaluator, samples, best=best, batch_size=size)
    is_better = sum(new) > best.total + 1e-9
    assert (found.is_complete and found.total > best.total + 1e-9) == is_better
    assert all(one in (None, score) for one, score in zip(found.scores, new))
    assert sum(map(len, batches)) == found.evaluated


def test_the_order_does_not_change_from_time_to_time():
    assert Evaluation((0.5, 0.5, None, 0.0, 1.0)).hardest_first() == [3, 0, 1, 2, 4]


def test_scores_above_one_are_said():
    forward, evaluator, samples, _ = scored([3])
    with pytest.raises(ValueError, match="Sample 0 scored 3: say highest=3"):
        evaluate(forward, evaluator, samples)
    assert evaluate(forward, evaluator, samples, highest=5).total == 3


@pytest.mark.parametrize(
    "score", [[1.0], 2.0, None, ["1", "2"], [1.0, None], [1.0, float("nan")], te.trainer.Evaluation(())]
)
def test_an_evaluator_that_does_not_score_each_sample_is_told_how(score):
    with pytest.raises(TypeError, match="reduction_fn=None"):
        evaluate(lambda batch: batch, lambda answers, batch: score, ["a", "b"])


@pytest.mark.parametrize("size", [0, -1, True, 1.5])
def test_batch_sizes_that_are_none(size):
    with pytest.raises(ValueError, match="batch_size"):
        evaluate(lambda batch: batch, lambda answers, batch: [], ["a"], batch_size=size)


def test_the_best_must_be_of_the_same_samples():
    with pytest.raises(ValueError, match="best is of 1 samples, and here are 2"):
        evaluate(lambda batch: batch, lambda answers, batch: [], ["a", "b"], best=Evaluation((1.0,)))


def test_no_samples():
    assert evaluate(lambda batch: batch, lambda answers, batch: [], []).mean is None


def test_it_is_begun_again_after_a_lost_connection():
    forward, evaluator, samples, _ = scored([1, 1])
    losses = [te.ConnectionLost("gone")]

    def unlucky(batch):
        if losses:
            raise losses.pop()
        return forward(batch)

    assert evaluate(unlucky, evaluator, samples).mean == 1
    losses.append(te.ConnectionLost("gone"))
    with pytest.raises(te.ConnectionLost):
        evaluate(unlucky, evaluator, samples, retries=0)
