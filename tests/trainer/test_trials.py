"""``te.Trials``: what was tried, in a file that any program can read; two equal trainings make the same one."""

from __future__ import annotations

import json

import pytest

import tellurio_sync as te
from tellurio_sync.ledger import Ledger
from tellurio_sync.trainer import CopiedTrainingData, Evaluation, Trials, TrialsError
from tellurio_sync.trainer.copying import LONG, copied_characters, texts_in

from .test_questions import RULE, Task


@pytest.fixture
def trials():
    trials = Trials()
    trials.add({"prompt": "one"}, note="the start")
    trials.add({"prompt": "two"}, [1], "step 1", questions=11)
    trials.add({"prompt": "three"}, [1], "step 2", questions=22, copied=70)
    trials.add({"prompt": "both"}, [2, 3], "a merge", questions=33)
    trials.score(1, Evaluation((0.0, 1.0)), metrics={"val_loss": 0.5})
    trials.score(2, [1.0, 1.0], metrics={"val_loss": float("nan")})
    trials.score(3, [1.0, None])
    trials.end("Enough.", Ledger.from_rows([{"step": 1, "kind": "forward", "model": "m", "asked": 33, "usd": 0.5}]))
    return trials


def test_versions_with_parents_and_scores(trials):
    assert [version.number for version in trials] == [1, 2, 3, 4]
    assert [version.parameters["prompt"] for version in trials.lineage(4)] == ["one", "two", "three", "both"]
    assert [version.number for version in trials.lineage(3)] == [1, 3]
    assert trials.best().number == 2
    assert trials.best(metric="val_loss").number == 1, "NaN is no value"
    assert trials.best("other samples") is None
    assert trials[3].evaluation().mean is None, "not evaluated on all samples"
    assert trials[4].evaluation() is None
    assert trials.find({"prompt": "three"}).number == 3
    assert trials.find({"prompt": "four"}) is None


def test_of_equals_the_first_is_the_best_and_less_may_be_better():
    trials = Trials()
    for value in (1.0, 0.5, 0.5):
        trials.score(trials.add({"p": value}).number, [value], metrics={"loss": value})
    assert trials.best().number == 1
    assert trials.best(metric="loss", mode="min").number == 2


def test_a_file_and_back(trials, tmp_path):
    path = tmp_path / "sub" / "trials.json"
    trials.save(path)
    again = Trials.load(path)
    assert again == trials
    again.save(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == path.read_bytes()
    content = json.loads(path.read_text())
    assert content["format"] == "tellurio_sync trials"
    assert content["versions"][3]["parents"] == [2, 3]
    assert content["versions"][2]["scores"] == {"validation": [1.0, None]}
    assert again[2].metrics["val_loss"] != again[2].metrics["val_loss"], "NaN came back as NaN"
    assert again.path is None


def test_bound_to_a_file_each_change_is_written_and_gone_on_with(tmp_path):
    path = tmp_path / "trials.json"
    trials = Trials(path)
    assert not path.exists()
    trials.add({"prompt": ["a", "b"]})
    assert Trials.load(path) == trials
    trials.score(1, [0.5])
    assert Trials.load(path)[1].scores == {"validation": (0.5,)}
    trials.end("Enough.")
    again = Trials(path)
    assert again.add({"prompt": "c"}, [1]).number == 2
    assert len(Trials.load(path)) == 2


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("no JSON", "is not JSON"),
        ("[]", "lacks"),
        ('{"format": "another"}', "lacks"),
        ('{"format": "tellurio_sync trials", "version": 99}', "version 99"),
        ('{"format": "tellurio_sync trials", "version": 1}', "damaged"),
        (
            '{"format": "tellurio_sync trials", "version": 1, "stopped": null, "questions": [], "versions": [{}]}',
            "damaged",
        ),
        (
            '{"format": "tellurio_sync trials", "version": 1, "stopped": null, "questions": [], "versions": ['
            '{"number": 2, "parents": [], "parameters": {}, "note": "", "metrics": {}, "scores": {}, "questions": 0,'
            ' "copied": 0}]}',
            "not numbered",
        ),
    ],
)
def test_a_file_that_holds_no_trials_says_which_and_why(tmp_path, content, text):
    path = tmp_path / "trials.json"
    path.write_text(content)
    with pytest.raises(TrialsError, match=text) as caught:
        Trials(path)
    assert "trials.json" in str(caught.value)
    assert path.read_text() == content


def test_wrong_numbers_and_data(trials):
    for number in (0, 5, -1):
        with pytest.raises(IndexError, match="There is no version"):
            trials[number]
    with pytest.raises(IndexError):
        trials.add({"prompt": "x"}, [9])
    with pytest.raises(TypeError):
        trials.add({"prompt": object()})
    assert len(trials) == 4


def test_it_is_shown_in_a_terminal_and_in_a_notebook(trials):
    assert repr(trials) == "<Trials: 4 versions, best: version 2 with 1, 33 questions>"
    lines = str(trials).splitlines()
    assert lines[1].split() == ["1", "the", "start", "0.5", "the", "start"]
    assert lines[4].split() == ["4", "2,", "3", "a", "merge"]
    assert lines[5:] == ["Enough.", "33 questions (33 forward), $0.5000"]
    trials.add({"prompt": "<b>"}, note="<i>")
    html = trials._repr_html_()
    assert "&lt;b&gt;" in html
    assert html.count("<b>") == 1, "the title"
    assert "<i>" not in html
    assert "2 (best)" in html
    assert repr(Trials()) == "<Trials: 0 versions>"
    assert "0 versions" in Trials()._repr_html_()
    assert "<table" not in Trials()._repr_html_()


def test_a_version_is_restored(trials, run):
    prompt = te.Parameter("now", role="prompt")
    trials[2].restore({"prompt": prompt, "another": te.Parameter("stays", role="other")})
    assert prompt.data == "two"
    with pytest.raises(TrialsError, match="has prompt, which is not among"):
        trials[2].restore({})


# --- in a training ------------------------------------------------------------------------------------


def scored_fit(task, **options):
    """A training whose validation gives the score of each sample."""

    def validate(batch, index):
        answer = te.functional.chat_completion(task.lm, task.chat, inputs={"message": batch})
        scores = te.functional.exact_match_evaluator(answer, ["right"] * len(batch), reduction_fn=None)
        return {"loss": scores, "accuracy": sum(scores[0].data) / len(batch)}

    return task.fit(validation_step=validate, validation=[["v1", "v2"], ["v3"]], **options)


def test_a_training_notes_each_version_its_parent_and_its_validation(run, tmp_path):
    trials, task = Trials(tmp_path / "trials.json"), Task(enough=3)
    result = scored_fit(task, trials=trials)
    assert [version.parameters["prompt"].count(RULE) for version in trials] == [0, 1, 2, 3]
    assert [version.parents for version in trials] == [(), (1,), (2,), (3,)]
    assert [version.note for version in trials] == [
        "the start",
        "step 1 of epoch 1",
        "step 2 of epoch 1",
        "step 1 of epoch 2",
    ]
    assert [version.scores.get("validation") for version in trials] == [None, None, (0.0,) * 3, (1.0,) * 3]
    assert trials[3].metrics["val_accuracy"] == 0.0
    assert trials.best() is trials[4]
    assert trials.stopped == result.reason
    assert trials.questions == result.questions
    assert 0 < trials[2].questions < trials[3].questions < trials[4].questions <= task.counter.asked
    assert Trials.load(tmp_path / "trials.json") == trials


def test_two_identical_trainings_make_identical_files(run, tmp_path):
    for name in ("one.json", "two.json"):
        scored_fit(Task(enough=3), trials=Trials(tmp_path / name))
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "two.json").read_bytes()


def test_a_training_that_goes_on_finds_its_version(run, tmp_path):
    path = tmp_path / "trials.json"
    first = Task(enough=5)
    first.fit(max_epochs=1, trials=Trials(path), checkpoint_dir=tmp_path)
    again = Task(enough=5)
    again.fit(max_epochs=2, trials=Trials(path), resume=tmp_path / "last.json", monitor=None)
    trials = Trials.load(path)
    assert [version.parents for version in trials] == [(), (1,), (2,), (3,), (4,)]
    assert trials.questions.asked == first.counter.asked + again.counter.asked


def test_a_prompt_that_copies_training_data_is_warned_of(run):
    secret = "My name is Ada Lovelace, and the code of my front door is 1815, please be quick."
    task = Task()
    task.counter.says = f"Answer well. {secret} Be brief."
    trials = Trials()
    with pytest.warns(CopiedTrainingData, match="step 1 of epoch 1") as caught:
        result = te.fit(task.step, task.optimizer, [[secret, "b"]], trials=trials)
    (warning,) = [one.message for one in caught if isinstance(one.message, CopiedTrainingData)]
    assert "Lovelace" not in str(warning)
    assert warning.characters == trials[2].copied == len(secret)
    assert "copied long passages of the training data: 1" in str(result)


@pytest.mark.parametrize(
    ("new", "old", "copied"),
    [
        ("x" + "ab" * 40 + "y", "", 80),
        ("x" + "ab" * 40 + "y", "ab" * 40, 0),
        ("ab" * (LONG // 2), "", 0),
        ("ab" * (LONG // 2) + "a", "", LONG + 1),
        ("", "", 0),
        ("nothing of it", "", 0),
    ],
)
def test_how_much_is_copied(new, old, copied):
    assert copied_characters(new, old, ["other", "ab" * 50]) == copied


def test_white_space_does_not_hide_a_copy():
    sample = " ".join(f"word{number}" for number in range(20))
    assert copied_characters(sample.replace(" ", "\n\n"), "", [sample]) == len(sample)


def test_texts_are_found_wherever_they_are():
    class Mail:
        def __init__(self):
            self.text, self.tags, self.number = "a", ["b", ("c",)], 7

    assert list(texts_in([Mail(), {"x": "d", "y": ["e", None, 1]}, ("f",)])) == ["a", "b", "c", "d", "e", "f"]
