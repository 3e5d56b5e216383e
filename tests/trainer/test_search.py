"""``te.search``: a pool of versions by gepa, with our answers, our steps and our ledger."""

from __future__ import annotations

import json
import re

import pytest

import tellurio_sync as te
from tellurio_sync.errors import BudgetExceeded
from tellurio_sync.trainer import CopiedTrainingData, Trials

WORDS = ["alpha", "bravo", "charlie", "delta", "echo", "foxtrot"]
SAMPLES = [(word, word.upper()) for word in WORDS]


class Learner:
    """A language model that answers right what its prompt names, and adds one word to it from what it is shown."""

    def __init__(self):
        self.asked = 0
        self.failing = False
        self.learns = True
        self.says = []  # instead, as the next prompts

    def __call__(self, messages, **options):
        self.asked += 1
        if self.failing and self.asked > 20:
            raise RuntimeError("out of order")
        text = json.dumps(messages)
        if "<IMPROVED>" in text and self.says:
            return f"<IMPROVED>{self.says.pop(0)}</IMPROVED>"
        if "<IMPROVED>" in text:
            known = re.search(r"Know:([\w ]*)\.", text)[1]
            new = [word for word in WORDS if word in text and word not in known][: 1 if self.learns else 0]
            return (
                f"<IMPROVED>Know:{known} {' '.join(new)}.</IMPROVED>" if new else f"<IMPROVED>Know:{known}.</IMPROVED>"
            )
        if "variable_1" in text:
            return '{"variable_1": "More words."}'
        word = messages[-1]["content"]
        return word.upper() if word in messages[0]["content"] else word


class Task:
    def __init__(self):
        self.model = Learner()
        self.lm = te.CallableModel(self.model)
        te.set_backward_model_client(self.lm)
        self.prompt = te.Parameter("Know:.", role="prompt")
        question = te.Variable("{word}", role="word")
        self.chat = [{"role": "system", "content": [self.prompt]}, {"role": "user", "content": [question]}]

    def forward(self, batch):
        return te.functional.chat_completion(self.lm, self.chat, inputs={"word": batch[0]})

    def evaluator(self, answers, batch):
        return te.functional.exact_match_evaluator(answers, batch[1], reduction_fn=None)

    def search(self, budget=200, **options):
        parameters = options.pop("parameters", [self.prompt])
        if isinstance(parameters, list):
            options = {"model_client": self.lm, **options}
        arguments = (parameters, self.forward, self.evaluator, SAMPLES, SAMPLES)
        return te.search(*arguments, budget=budget, **{"minibatch_size": 2, **options})


@pytest.fixture
def task(run):
    return Task()


def test_better_versions_are_found_and_the_best_is_put_back(task, run, capsys):
    result = task.search()
    assert [word for word in WORDS if word not in task.prompt.data] == []
    assert result.best.parameters == {"prompt": task.prompt.data}
    assert result.best.evaluation().mean == 1.0
    assert result.questions.asked == task.model.asked <= 200
    assert result.reason.startswith("Ended by budget=200: ")
    first = result.trials[1]
    assert (first.parents, first.parameters["prompt"]) == ((), "Know:.")
    assert first.scores["validation"] == (0.0,) * 6
    assert all(version.parents for version in list(result.trials)[1:])
    assert result.steps.changed >= 6
    assert result.gepa.best_candidate == result.best.parameters
    text = str(result)
    assert (
        f"Best: version {result.best.number} of {len(result.trials)}, 1 on 6 samples; the start: 0 on 6 samples" in text
    )
    assert result.trials.stopped == result.reason
    values = [row["value"] for row in run.metrics("search_best")]
    assert values == sorted(values)
    assert values[-1] == 1.0
    assert len(run.metrics("search_score")) == len(result.trials)
    assert capsys.readouterr().out == "", "what the library prints goes to the log"


@pytest.mark.parametrize("budget", [0, 5, 6, 11, 30, 61])
def test_no_budget_is_passed_and_the_best_so_far_is_there(run, budget):
    task = Task()
    result = task.search(budget)
    assert task.model.asked <= budget
    assert result.questions.asked == task.model.asked
    if budget < 6:
        assert (result.best, task.prompt.data) == (None, "Know:.")
    else:
        assert result.best.parameters["prompt"] == task.prompt.data
        assert result.best.evaluation().total == sum(word in task.prompt.data for word in WORDS)
    assert f"budget={budget}" in result.reason


def test_two_searches_with_the_same_seed_are_identical(run, tmp_path):
    for name in ("one.json", "two.json"):
        Task().search(90, seed=3, trials=Trials(tmp_path / name))
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "two.json").read_bytes()


def test_a_search_is_gone_on_with_from_its_folder(run, tmp_path):
    first = Task()
    before = first.search(60, folder=tmp_path)
    again = Task()
    result = again.search(130, folder=tmp_path)
    assert [version.parameters for version in result.trials][: len(before.trials)] == [
        version.parameters for version in before.trials
    ]
    assert result.trials[1].parameters == {"prompt": "Know:."}
    assert len(result.trials) > len(before.trials)
    assert result.trials.questions.asked == first.model.asked + again.model.asked <= 130
    assert again.prompt.data == result.best.parameters["prompt"]
    assert Trials.load(tmp_path / "trials.json") == result.trials


def test_several_parameters_at_once_by_an_optimizer(task):
    task.other = te.Parameter("Know:.", role="other")
    task.chat.insert(1, {"role": "system", "content": [task.other]})
    optimizer = te.TGD([task.prompt, task.other], model_client=task.lm)
    result = task.search(60, parameters=optimizer, at_once="all")
    assert set(result.trials[1].parameters) == {"prompt", "other"}
    assert result.trials[2].parameters["prompt"] != "Know:."
    assert result.trials[2].parameters["other"] != "Know:."


def test_one_parameter_after_the_other(task):
    task.other = te.Parameter("Know:.", role="other")
    task.chat.insert(1, {"role": "system", "content": [task.other]})
    result = task.search(60, parameters={"a": task.prompt, "b": task.other}, model_client=task.lm)
    second = result.trials[2]
    assert [second.parameters["a"], second.parameters["b"]].count("Know:.") == 1
    assert result.questions.by_kind["optimizer"].asked == result.steps.total, "the other one is not asked about"


def test_a_candidate_that_is_worse_never_replaces_the_best(task):
    task.model.says = ["Know: alpha bravo charlie delta echo.", *["Know: nothing."] * 100]
    # All samples in each round, so that the last one tries a candidate, too.
    result = task.search(60, minibatch_size=6)
    assert task.prompt.data == "Know: alpha bravo charlie delta echo." == result.best.parameters["prompt"]
    assert len(result.trials) == 2
    assert result.rejected >= 1
    assert len(task.model.says) < 100, "a worse one was tried last"


def test_what_is_learnt_nowhere_says_why(task):
    task.model.learns = False
    result = task.search(50)
    assert len(result.trials) == 1
    assert "Nothing was learnt" in str(result)
    assert result.steps.nothing_to_learn > 0
    asked = result.questions.by_kind["forward"].asked
    assert asked == 6 + 2 * result.steps.total, "what is not new is not tried"


def test_a_failure_ends_it_and_the_versions_so_far_are_kept(task, tmp_path):
    task.model.failing = True
    with pytest.raises(te.RemoteError, match="out of order"):
        task.search(folder=tmp_path)
    trials = Trials.load(tmp_path / "trials.json")
    assert len(trials) >= 1
    assert trials.stopped == "Broken off: SamplesFailed."
    assert trials.questions.asked == task.model.asked, "it counts when the search is gone on with"


def test_the_budget_of_the_user_is_another_one(task):
    with te.budget(questions=20), pytest.raises(BudgetExceeded):
        task.search(1000)


def test_copied_training_data_is_warned_of(task, monkeypatch):
    long = "the customer Ada Lovelace wrote that the code of her front door is eighteen fifteen"
    monkeypatch.setattr("tests.trainer.test_search.WORDS", [long])
    samples = [(long, long.upper())]
    with pytest.warns(CopiedTrainingData, match="a step of the search"):
        result = te.search(
            [task.prompt], task.forward, task.evaluator, samples, samples, budget=20, model_client=task.lm
        )
    assert result.trials[2].copied == len(long)
    assert result.steps.copied == 1


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"budget": -1}, ValueError, "max_questions"),
        ({"train": []}, ValueError, "train has no samples"),
        ({"evaluator": lambda answers, batch: [0.0] * len(batch[0])}, TypeError, "as Variables"),
        (
            {"evaluator": lambda answers, batch: te.functional.exact_match_evaluator(answers, batch[1])},
            TypeError,
            "reduc",
        ),
    ],
)
def test_wrong_arguments_say_what_to_do(task, change, error, text):
    given = {
        "parameters": [task.prompt],
        "forward": task.forward,
        "evaluator": task.evaluator,
        "train": SAMPLES,
        "validation": SAMPLES,
        "budget": 100,
        "model_client": task.lm,
    }
    with pytest.raises(error, match=text):
        te.search(**{**given, **change})


def test_a_parameter_without_a_text(task):
    with pytest.raises(TypeError, match="must hold a text"):
        task.search(parameters=[te.Parameter(["a", "b"], role="list")])


def test_without_the_extra_it_says_what_to_install(task, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "gepa.api", None)
    with pytest.raises(ModuleNotFoundError, match=r"tellurio_sync\[search\]"):
        task.search()
