"""What a training asks: counted to the question, limited, estimated before, and said at the end."""

from __future__ import annotations

import io
import json

import pytest

import tellurio_sync as te
from tellurio_sync.errors import BudgetExceeded, MethodNotFound, UsageError
from tellurio_sync.ledger import Ledger
from tellurio_sync.model.call import Call
from tellurio_sync.optim.told import ParameterUnchanged
from tellurio_sync.session.restore_gate import Admission
from tellurio_sync.trainer import estimate, fit
from tellurio_sync.trainer.callbacks import Callback, Progress
from tellurio_sync.trainer.spending import samples_in, size_of
from tellurio_sync.trainer.steps import StepCounts

RULE = "Add one."


def equal(prediction, target):
    return int(prediction == target)


class Counter:
    """A language model whose prompt grows by a rule with each step; it is right where enough rules are in it."""

    def __init__(self, enough=2):
        self.asked = 0
        self.enough = enough
        self.says = ""  # instead, as the next prompt

    def __call__(self, messages, **options):
        self.asked += 1
        text = json.dumps(messages)
        if "<IMPROVED>" in text:
            return f"<IMPROVED>{self.says or RULE * (text.count(RULE) + 1)}</IMPROVED>"
        if "feedback" in text.lower() and "variable_1" in text:
            return '{"variable_1": "More rules."}'
        return "right" if messages[0]["content"].count(RULE) >= self.enough else "wrong"


class Task:
    """What ``fit`` needs, for a prompt that is right after two steps."""

    def __init__(self, prompt="Start.", **options):
        self.counter = Counter(**options)
        self.lm = te.CallableModel(self.counter)
        te.set_backward_model_client(self.lm)
        self.prompt = te.Parameter(prompt, role="prompt")
        question = te.Variable("{message}", role="message")
        self.chat = [{"role": "system", "content": [self.prompt]}, {"role": "user", "content": [question]}]
        self.optimizer = te.TGD([self.prompt], model_client=self.lm)

    def step(self, batch, index):
        inputs = {"message": batch, **({"tone": "low"} if "{tone}" in self.prompt.data else {})}
        answer = te.functional.chat_completion(self.lm, self.chat, inputs=inputs)
        targets = ["right"] * len(batch)
        score, explanation = te.functional.deterministic_evaluator(answer, targets, equal, "equality", all)
        return {"loss": (score, explanation), "accuracy": score.data / len(batch)}

    def fit(self, **options):
        validated = {"validation_step": self.step, "validation": [["v1", "v2", "v3"]], "monitor": "val_accuracy"}
        return fit(self.step, self.optimizer, [["a", "b"], ["c", "d"]], **{**validated, "max_epochs": 3, **options})


@pytest.fixture
def task(run):
    return Task()


def test_the_bill_is_right_to_the_question(task, run):
    te.functional.chat_completion(task.lm, task.chat, inputs={"message": ["before the training"]})
    before = task.counter.asked
    result = task.fit()
    assert result.questions.asked == task.counter.asked - before
    assert result.questions.by_kind["forward"].asked == 3 * (4 + 3)
    assert result.epochs[-1].questions == result.questions.asked
    assert run.questions().asked == task.counter.asked
    text = str(result)
    assert text.startswith("All 3 epochs are done.\nBest: epoch 1, val_accuracy 1.\n6 steps, of which 2 changed")
    assert f"{result.questions.asked} questions (21 forward" in text


def test_no_limit_is_passed_and_the_best_prompt_is_kept(run):
    """For each limit: as many questions at most, and the prompt of the best epoch that could be validated."""
    whole = Task()
    all_of_it = whole.fit(max_questions=10_000)
    assert all_of_it.reason == "All 3 epochs are done."
    total = whole.counter.asked
    for limit in (0, 1, 2, 5, 6, total // 4, total // 2, total - 4, total - 1, 2 * total):
        task = Task()
        result = task.fit(max_questions=limit)
        assert task.counter.asked <= limit
        assert result.questions.asked == task.counter.asked
        if limit > total:
            assert result.reason == "All 3 epochs are done."
        else:
            assert result.reason.startswith(f"Ended by max_questions={limit:,}: ")
        best = max((epoch.metrics.get("val_accuracy", 0.0) for epoch in result.epochs), default=0.0)
        assert (result.best_value or 0.0) == best
        assert (task.prompt.data.count(RULE) >= 2) == (best == 1.0)


def test_it_ends_before_the_step_and_validates_what_was_learnt(run):
    dear = Task()
    dear.fit(max_epochs=1)
    of_an_epoch = dear.counter.asked
    task = Task(enough=1)
    # Too few for the second step with its validation; enough for the first one with it.
    result = task.fit(max_questions=of_an_epoch - 1)
    (epoch,) = result.epochs
    assert (epoch.batches, epoch.metrics["val_accuracy"]) == (1, 1.0)
    assert result.steps.broken_off == 0
    assert "were left before step 2 of epoch 1: it needs about" in result.reason
    assert task.prompt.data == RULE


def test_a_step_that_is_dearer_than_all_before_is_broken_off_and_not_made(run):
    task = Task(enough=0)  # right, until ...

    def step(batch, index):
        if index == 1:
            task.counter.enough = 1
            task.step(batch, index)
        return task.step(batch, index)

    result = fit(step, task.optimizer, [["a", "b"], ["c", "d"], ["e", "f"]], max_questions=5)
    assert result.steps.broken_off == 1
    assert task.counter.asked == 5
    assert task.prompt.data == "Start."
    assert "would have asked more, and was not made" in result.reason
    assert [epoch.batches for epoch in result.epochs] == [1]


def test_the_budget_of_the_user_is_another_one(task):
    with te.budget(questions=3), pytest.raises(BudgetExceeded):
        task.fit(max_questions=1000)
    with te.budget(questions=3), pytest.raises(BudgetExceeded):
        Task().fit()


def test_a_resumed_training_counts_what_was_asked_before(task, tmp_path):
    task.fit(max_epochs=1, checkpoint_dir=tmp_path)
    before = task.counter.asked
    again = Task()
    result = again.fit(resume=tmp_path / "last.json", max_questions=before + 5)
    assert again.counter.asked <= 5
    assert result.reason.startswith(f"Ended by max_questions={before + 5}: ")
    assert again.prompt.data == task.prompt.data, "what was learnt before is kept"


def test_the_limit_of_a_resumed_training_is_held_where_steps_are_dearer_than_expected(task, tmp_path):
    task.fit(max_epochs=1, checkpoint_dir=tmp_path)
    again, before = Task(enough=9), task.counter.asked

    def step(batch, index):
        again.step(batch, index)
        return again.step(batch, index)

    options = {"validation_step": again.step, "validation": [["v1", "v2", "v3"]], "monitor": "val_accuracy"}
    options.update(max_epochs=3, resume=tmp_path / "last.json", max_questions=before + 7)
    result = fit(step, again.optimizer, [["a", "b"]], **options)
    assert again.counter.asked == 7
    assert "the validation of epoch 2 would have asked more, and was broken off" in result.reason


def test_the_rest_of_an_epoch_that_was_cut_short_is_trained_when_it_is_resumed(task, tmp_path):
    task.fit(max_epochs=1)
    asked = task.counter.asked
    first = Task(enough=5)
    first.fit(max_epochs=1, max_questions=asked - 1, checkpoint_dir=tmp_path)
    again = Task(enough=5)
    result = again.fit(max_epochs=1, resume=tmp_path / "last.json")
    assert [(epoch.epoch, epoch.batches) for epoch in result.epochs] == [(1, 2)]
    assert again.prompt.data.count(RULE) == first.prompt.data.count(RULE) + 2 or result.best_epoch is not None


@pytest.mark.parametrize("limit", [-1, 1.5, True, "9"])
def test_limits_that_are_none(task, limit):
    with pytest.raises(ValueError, match="max_questions"):
        task.fit(max_questions=limit)


def counting_by(monkeypatch, answer):
    """Let ``answer()`` give what the server says of its counts, however it is asked."""
    request, request_many = Admission.request, Admission.request_many

    def one(self, method, params, *callbacks):
        outcome = answer() if method == "count_questions" else request(self, method, params, *callbacks)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def many(self, requests, *callbacks):
        outcomes = request_many(self, requests, *callbacks)
        return [answer() if method == "count_questions" else each for (method, _), each in zip(requests, outcomes)]

    monkeypatch.setattr(Admission, "request", one)
    monkeypatch.setattr(Admission, "request_many", many)


def test_a_server_that_counts_no_questions(task, monkeypatch):
    counting_by(monkeypatch, lambda: MethodNotFound(-32601, "Method not found"))
    with pytest.raises(UsageError, match="max_questions needs a server that counts"):
        task.fit(max_questions=5)
    result = task.fit(max_epochs=1)
    assert (result.questions, result.epochs[0].questions) == (Ledger(), 0)


def test_a_connection_that_is_lost_while_questions_are_counted_ends_no_training(task, monkeypatch):
    request, losses = Call.request, []

    def unlucky(self, method, params):
        # Every other time.
        if method == "count_questions" and len(losses) % 2 == 0:
            losses.append(method)
            raise te.ConnectionLost("gone")
        losses.append(method)
        return request(self, method, params)

    monkeypatch.setattr(Call, "request", unlucky)
    result = task.fit(max_questions=1000, trials=te.Trials())
    assert result.questions.asked == task.counter.asked
    assert result.steps.repeated == 0
    assert result.steps.total == 6


def test_counts_that_begin_anew_with_the_server(task, monkeypatch):
    """After a restart without data the counts of the session are those since then."""
    answers = [10, 14, 3, 5]
    counting_by(monkeypatch, lambda: {"session": {"forward": {"asked": answers.pop(0)}}})
    assert task.fit(max_epochs=3).questions.asked == 4 + 3 + 2
    assert answers == []


# --- what is said at the end ------------------------------------------------------------------------


def test_a_run_without_improvement_says_why(run):
    task = Task(prompt="Start in a {tone} tone.")
    with pytest.warns(ParameterUnchanged):
        result = task.fit(max_epochs=1)
    lines = str(result).splitlines()
    assert lines[2] == "Nothing was learnt: 2 steps, of which 2 offered nothing that was taken"
    assert lines[3].startswith("  2 times: The parameter with the role 'prompt' keeps its data: ")
    assert result.questions.asked == task.counter.asked


def test_a_step_counts_once_also_where_only_one_of_its_parameters_was_changed():
    counts = StepCounts()
    counts.note(True, [ParameterUnchanged("the other one")])
    counts.note(False, [ParameterUnchanged("the other one")], 1)
    counts.note(False, [])
    assert (counts.changed, counts.rejected, counts.nothing_to_learn, counts.total) == (1, 1, 1, 3)
    assert sorted(counts.reasons.values()) == [1, 2]


def test_what_was_tried_on_the_batch_and_was_no_better_is_said(run):
    task = Task(enough=99)
    task.optimizer = te.TGD([task.prompt], model_client=task.lm, accept="batch")
    result = task.fit(max_epochs=1)
    assert (result.steps.rejected, result.steps.changed, task.prompt.data) == (2, 0, "Start.")
    assert "2 times: What the language model offered was tried on the batch, and was no better" in str(result)
    assert result.questions.asked == task.counter.asked


def test_a_training_with_nothing_to_learn_says_so(run):
    result = Task(enough=0).fit(max_epochs=1)
    assert "Nothing was learnt: 2 steps, of which 2 had nothing to learn." in str(result)


def test_the_end_is_told_and_shown(task):
    class Last(Callback):
        def on_fit_result(self, result):
            self.result = result

    class Older:
        """Written before there was ``on_fit_result``."""

        def on_fit_start(self, *arguments):
            pass

        on_batch_end = on_epoch_end = on_fit_end = on_fit_start

    file, last = io.StringIO(), Last()
    result = task.fit(max_epochs=1, callbacks=[Progress(file), last, Older()])
    assert last.result is result
    assert file.getvalue().splitlines()[-4:] == str(result).splitlines()
    assert str(result) in result._repr_html_()


# --- sizes and estimates ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("batch", "size"),
    [
        (["a", "b", "c"], 3),
        ((["a", "b"], ["x", "y"]), 2),
        ({"text": ["a", "b"], "label": ["x", "y"]}, 2),
        (("a text", "a label"), 1),
        ({"text": "a"}, 1),
        ("text", 1),
        ([], 1),
        ((), 1),
        (7, 1),
    ],
)
def test_how_many_samples_a_batch_has(batch, size):
    assert size_of(batch) == size


def test_how_many_samples_a_batch_of_variables_has(run):
    assert size_of(te.Variable(["a", "b"], role="r")) == 2
    assert size_of((te.Variable(["a", "b"], role="r"), ["x", "y"])) == 2


@pytest.mark.parametrize(
    ("batches", "samples"),
    [
        (None, 0),
        ([["a", "b"], ["c"]], 3),
        (te.DataLoader(list("abcde"), 2), 5),
        (te.DataLoader(list("abcde"), 2, drop_last=True), 4),
        (te.DataLoader(list("abcde"), None), 5),
        (iter([]), 0),
        (range(3), 12),
    ],
)
def test_how_many_samples_an_epoch_has(batches, samples):
    assert samples_in(batches, 4) == samples


def test_an_estimate_before_the_start():
    loader, held_out = te.DataLoader(list("a" * 25), 10), te.DataLoader(list("a" * 8), 4)
    expected = estimate(loader, held_out, max_epochs=2)
    assert (expected.least, expected.records, expected.most) == (2 * 33, 2 * 33 + 6, 2 * 33 + 6 + 100)
    assert str(expected) == "66 to 172 questions (with feedback by records about 72)"
    two = estimate([["a", "b"]], per_sample=2, parameters=3)
    assert (two.least, two.records, two.most) == (4, 7, 11)
    gated = estimate([["a", "b"]], per_sample=2, accept="batch")
    assert (gated.least, gated.records, gated.most) == (4, 9, 13)


def test_an_estimate_in_money_of_an_earlier_training():
    rows = [
        {"step": 1, "kind": "forward", "model": "m", "asked": 10, "usd": 0.1},
        {"step": 1, "kind": "optimizer", "model": "m", "asked": 1, "usd": 0.05},
    ]
    expected = estimate([["a"] * 10], like=Ledger.from_rows(rows))
    assert expected.usd == pytest.approx((0.1, 0.15, 0.15 + 20 * 0.01))
    assert str(expected).endswith("; $0.10 to $0.35 ($0.15)")
    unknown = Ledger.from_rows([{**rows[0], "unpriced": 3}])
    assert estimate([["a"]], like=unknown).usd is None
