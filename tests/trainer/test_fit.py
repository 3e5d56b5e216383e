"""Trainings against a real local backend, with Python functions as language models."""

from __future__ import annotations

import io
import json
from contextlib import nullcontext
from types import SimpleNamespace

import pytest

import tellurio_sync as te
from tellurio_sync.cognitive import Module
from tellurio_sync.data import DataLoader
from tellurio_sync.errors import ConnectionLost
from tellurio_sync.trainer import Callback, Trainer, fit
from tellurio_sync.trainer.callbacks import EpochResult, Progress
from tellurio_sync.trainer.checkpoint import CheckpointError, read, write
from tellurio_sync.trainer.steps import Means, StepOutput

RULE = "Add one."


class Counter:
    """A language model whose prompt grows by a rule with each step; it is right where enough rules are in it."""

    enough = 2

    def __init__(self):
        self.asked = 0

    def __call__(self, messages, **options):
        text = json.dumps(messages)
        self.asked += 1
        if "<IMPROVED>" in text:
            return f"<IMPROVED>{RULE * (text.count(RULE) + 1)}</IMPROVED>"
        if "feedback" in text.lower() and "variable_1" in text:
            return '{"variable_1": "More rules."}'
        return "right" if messages[0]["content"].count(RULE) >= self.enough else "wrong"


class Learner(Module):
    def __init__(self, lm):
        super().__init__()
        self.lm = lm
        self.prompt = te.Parameter("Start.", role="prompt")
        self.chat = [
            {"role": "system", "content": [self.prompt]},
            {"role": "user", "content": [te.Variable("{message}", role="message")]},
        ]

    def forward(self, message):
        return te.functional.chat_completion(self.lm, self.chat, inputs={"message": message})

    def training_step(self, batch, batch_idx):
        messages, labels = batch
        score, explanation = te.functional.exact_match_evaluator(self(messages), labels)
        return {"loss": (score, explanation), "accuracy": score.data / len(labels)}

    validation_step = test_step = training_step

    def configure_optimizers(self):
        return te.TGD(self.parameters(), model_client=self.lm, momentum=2)


class Recorder(Callback):
    def __init__(self):
        self.events = []

    def on_fit_start(self, first_epoch, last_epoch):
        self.events.append(("start", first_epoch, last_epoch))

    def on_batch_end(self, kind, batch_idx, batches, metrics):
        self.events.append((kind, batch_idx, batches))

    def on_epoch_end(self, result):
        self.events.append(("epoch", result.epoch))

    def on_fit_end(self, reason):
        self.events.append(("end", reason))


def quiet(**options):
    return Trainer(enable_progress_bar=False, enable_agent_summary=False, **options)


@pytest.fixture
def learner(run):
    lm = te.CallableModel(Counter())
    te.set_backward_model_client(lm)
    return Learner(lm)


@pytest.fixture
def loader():
    return DataLoader([(f"m{n}", "right") for n in range(4)], 2, shuffle=True, seed=0)


def test_a_module_is_trained_validated_and_tested(learner, loader, run, tmp_path):
    recorder = Recorder()
    trainer = quiet(max_epochs=2, default_root_dir=tmp_path, callbacks=[recorder])
    before = trainer.validate(learner, loader)
    result = trainer.fit(learner, loader, loader)
    after = trainer.test(learner, loader)
    assert before == {"loss": 0.0, "accuracy": 0.0}
    assert after == {"loss": 2.0, "accuracy": 1.0}
    assert learner.prompt.data.count(RULE) >= 2
    assert [epoch.epoch for epoch in result.epochs] == [1, 2]
    assert result.epochs[-1].metrics["val_accuracy"] == 1.0
    assert result.reason == "All 2 epochs are done."
    batches = [("train", 0, 2), ("train", 1, 2), ("val", 0, 2), ("val", 1, 2)]
    events = [event for event in recorder.events if event[0] not in ("test",)]
    assert events[2:] == [
        ("start", 1, 2),
        *batches,
        ("epoch", 1),
        *batches,
        ("epoch", 2),
        ("end", "All 2 epochs are done."),
    ]
    metrics = run.rest.list_metrics(run.project.namespace_slug, run.project.slug, run.uuid)
    logged = {(metric["name"], metric["step"]): metric["value"] for metric in metrics}
    assert logged["train_loss", 1] == result.epochs[0].metrics["train_loss"]
    assert logged["val_accuracy", 2] == 1.0
    assert logged["test_accuracy", 0] == 1.0
    assert logged["val_accuracy", 0] == 0.0
    assert learner.optimizers() is not None
    assert (tmp_path / "checkpoints" / "last.json").exists()
    assert not (tmp_path / "checkpoints" / "best.json").exists()


def test_evaluating_asks_for_no_gradients_and_leaves_the_mode_as_it_is(learner, loader, tmp_path):
    seen = []

    class Watching(Module):
        def validation_step(self, batch, batch_idx):
            seen.append((te.is_grad_enabled(), self.training))

    module = Watching()
    quiet().validate(module, loader)
    assert seen == [(False, False)] * 2
    assert module.training
    assert te.is_grad_enabled()


def test_predictions_are_given_by_batch(learner, loader):
    learner.predict_step = lambda batch, index: learner(batch[0]).data
    assert quiet().predict(learner, loader) == [["wrong"] * 2] * 2


def test_the_best_epoch_is_kept_and_patience_ends_the_training(learner, loader, tmp_path, monkeypatch):
    monkeypatch.setattr(Counter, "enough", 100)
    values = iter([0.1, 0.5, 0.4, 0.5, 0.3, 0.9])
    prompts = []

    class Noted(Callback):
        def on_epoch_end(self, result):
            prompts.append(learner.prompt.data)

    learner.validation_step = lambda batch, index: {"quality": next(values)}
    trainer = quiet(max_epochs=6, default_root_dir=tmp_path, monitor="val_quality", patience=3, callbacks=[Noted()])
    result = trainer.fit(learner, loader, [None])
    assert (result.best_epoch, result.best_value) == (2, 0.5)
    assert len(result.epochs) == 5
    assert [epoch.is_best for epoch in result.epochs] == [True, True, False, False, False]
    assert result.reason == "Nothing was better than epoch 2: ended after 5."
    assert learner.prompt.data == prompts[1] != prompts[-1]
    best = read(tmp_path / "checkpoints" / "best.json")
    assert best["epoch"] == 2
    assert best["parameters"][0].data == prompts[1]


def test_less_may_be_better(learner, loader):
    values = iter([0.5, 0.4, 0.45])
    learner.validation_step = lambda batch, index: {"error": next(values)}
    result = quiet(max_epochs=3, enable_checkpointing=False, monitor="val_error", mode="min").fit(
        learner, loader, [None]
    )
    assert (result.best_epoch, result.best_value) == (2, 0.4)


def test_a_resumed_training_ends_as_the_undisturbed_one(run, tmp_path):
    def trained(directory, epochs, ckpt_path=None):
        lm = te.CallableModel(Counter())
        te.set_backward_model_client(lm)
        seen = []

        class Seeing(Learner):
            def training_step(self, batch, batch_idx):
                seen.append(tuple(batch[0]))
                return super().training_step(batch, batch_idx)

        learner = Seeing(lm)
        data = [(f"m{n}", "right") for n in range(6)]
        result = quiet(max_epochs=epochs, default_root_dir=directory, monitor="train_accuracy").fit(
            learner, DataLoader(data, 2, shuffle=True, seed=5), ckpt_path=ckpt_path
        )
        return learner, seen, result

    whole, all_seen, whole_result = trained(tmp_path / "whole", 4)
    _, first_seen, _ = trained(tmp_path / "parts", 2)
    path = tmp_path / "parts" / "checkpoints" / "last.json"
    resumed, later_seen, result = trained(tmp_path / "parts", 4, path)
    assert first_seen + later_seen == all_seen
    assert resumed.prompt.data == whole.prompt.data
    assert [epoch.epoch for epoch in result.epochs] == [3, 4]
    assert (result.best_epoch, result.best_value) == (whole_result.best_epoch, whole_result.best_value)
    (buffer,) = resumed.optimizers().state.values()
    (expected,) = whole.optimizers().state.values()
    assert [copy.data for copy, _ in buffer["momentum_buffer"]] == [
        copy.data for copy, _ in expected["momentum_buffer"]
    ]
    # Nothing is left to do: the best parameters are there all the same.
    again, seen, done = trained(tmp_path / "parts", 4, path)
    assert (seen, done.epochs, again.prompt.data) == ([], [], whole.prompt.data)


def test_a_resumed_training_that_watches_another_metric_begins_to_watch_anew(learner, loader, tmp_path, monkeypatch):
    monkeypatch.setattr(Counter, "enough", 100)
    last = tmp_path / "checkpoints" / "last.json"
    learner.validation_step = lambda batch, index: {"quality": 5.0, "error": 5.0}
    quiet(max_epochs=1, default_root_dir=tmp_path, monitor="val_quality").fit(learner, loader, [None])
    learnt = learner.prompt.data
    # The quality of before is nothing that an error could be compared with.
    again = quiet(max_epochs=2, default_root_dir=tmp_path, monitor="val_error", mode="min")
    result = again.fit(learner, loader, [None], ckpt_path=last)
    assert (result.best_epoch, result.best_value) == (2, 5.0)
    # Nothing is watched any more: the last parameters stay.
    result = quiet(max_epochs=3, default_root_dir=tmp_path).fit(learner, loader, [None], ckpt_path=last)
    assert (result.best_epoch, result.best_value) == (None, None)
    assert learner.prompt.data == read(last)["parameters"][0].data != learnt


def test_a_training_that_has_ended_early_is_not_gone_on_with(learner, loader, tmp_path):
    learner.validation_step = lambda batch, index: {"quality": 1.0}
    trainer = quiet(max_epochs=9, default_root_dir=tmp_path, monitor="val_quality", patience=2)
    assert len(trainer.fit(learner, loader, [None]).epochs) == 3
    result = trainer.fit(learner, loader, [None], ckpt_path=tmp_path / "checkpoints" / "last.json")
    assert (result.epochs, result.reason) == ([], "Nothing was better than epoch 1: ended after 3.")


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_a_training_that_an_error_ends_goes_on_from_the_last_whole_epoch(learner, loader, tmp_path, error):
    """Of the epoch that was not finished, nothing is in the checkpoint: neither its parameters nor its samples."""
    last = tmp_path / "checkpoints" / "last.json"
    trainer = quiet(max_epochs=2, default_root_dir=tmp_path)
    step, seen, prompts = learner.training_step, [], []

    def broken(batch, index):
        seen.append(tuple(batch[0]))
        prompts.append(learner.prompt.data)
        if len(seen) == 4:
            raise error
        return step(batch, index)

    learner.training_step = broken
    with pytest.raises(error):
        trainer.fit(learner, loader)
    assert read(last)["parameters"][0].data == prompts[2]
    trainer.fit(learner, DataLoader(loader.dataset, 2, shuffle=True), ckpt_path=last)
    assert seen[4:] == seen[2:4]
    assert prompts[4:] == prompts[2:4]


def test_a_batch_is_begun_again_after_a_lost_connection(run, backend, loader):
    counter = Counter()

    def answer(messages, **options):
        text = counter(messages, **options)
        if counter.asked in (2, 14):
            backend.drop_connections()
        return text

    lm = te.CallableModel(answer)
    te.set_backward_model_client(lm)
    learner = Learner(lm)
    result = quiet(max_epochs=1, enable_checkpointing=False).fit(learner, loader)
    assert result.epochs[0].repeated >= 1
    assert result.epochs[0].batches == 2
    assert learner.prompt.data.count(RULE) == 2


def test_a_batch_that_stays_cut_off_ends_the_training(learner, loader):
    tries = []

    def lost(batch, index):
        tries.append(index)
        raise ConnectionLost("cut", was_sent=True)

    learner.training_step = lost
    with pytest.raises(ConnectionLost):
        quiet(retries=2, enable_checkpointing=False).fit(learner, loader)
    assert tries == [0, 0, 0]


def test_a_prediction_is_tried_again_after_a_lost_connection(learner, loader):
    tries = []

    def answer(batch, index):
        tries.append(index)
        if len(tries) in (2, 3):
            raise ConnectionLost("cut", was_sent=True)
        return len(batch[0])

    learner.predict_step = answer
    assert quiet(retries=2).predict(learner, loader) == [2, 2]
    assert tries == [0, 1, 1, 1]


def test_another_error_is_raised_at_once(learner, loader):
    tries = []

    def broken(batch, index):
        tries.append(index)
        raise KeyError("mine")

    learner.training_step = broken
    with pytest.raises(KeyError, match="mine"):
        quiet(enable_checkpointing=False).fit(learner, loader)
    assert tries == [0]


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("end", ["nothing", "an error"])
def test_gradients_are_cleared_at_the_server_too_where_a_step_calls_nothing(learner, count, end):
    """They are cleared with the first call of a step, if there is one."""
    prompts = [learner.prompt, te.Parameter("Another.", role="prompt")][:count]
    optimizers = [te.TGD([prompt], model_client=learner.lm) for prompt in prompts]
    for prompt in prompts:
        prompt.grad = [te.Variable("left over")]

    def step(batch, batch_idx):
        if end == "an error":
            raise ValueError("mine")

    def there():
        replies = [client.call("get_variable", {"variable_id": prompt.variable_id}) for prompt in prompts]
        return [reply["result"]["grad"] for reply in replies]

    class Look(Callback):
        def on_batch_end(self, kind, batch_idx, batches, metrics):
            seen.append(there())

    client, seen = te.current_session().client, []
    with pytest.raises(ValueError, match="mine") if end == "an error" else nullcontext():
        fit(step, optimizers, [1], callbacks=[Look()])
    assert [*seen, there()] == [[[]] * count] * (1 if end == "an error" else 2)
    assert [prompt.grad for prompt in prompts] == [[]] * count


def test_a_batch_without_an_output_is_passed_over(learner, loader):
    learner.training_step = lambda batch, index: None
    before = learner.prompt.data
    result = quiet(enable_checkpointing=False).fit(learner, loader)
    assert result.epochs[0].metrics == {}
    assert learner.prompt.data == before


def test_fit_takes_plain_functions(learner):
    optimizer = learner.configure_optimizers()
    result = fit(learner.training_step, optimizer, [(["m"], ["right"])], max_epochs=2)
    assert [epoch.metrics["train_loss"] for epoch in result.epochs] == [0.0, 0.0]
    assert learner.prompt.data == RULE * 2


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"max_epochs": 0}, ValueError, "max_epochs"),
        ({"max_epochs": 1.5}, ValueError, "max_epochs"),
        ({"mode": "up"}, ValueError, "mode"),
        ({"patience": 3}, ValueError, "needs monitor"),
        ({"patience": 0, "monitor": "x"}, ValueError, "at least 1"),
        ({"min_delta": -1.0}, ValueError, "min_delta"),
        ({"retries": -1}, ValueError, "retries"),
        ({"train": "text"}, TypeError, "train"),
        ({"train": 3}, TypeError, "train"),
        ({"optimizers": []}, TypeError, "optimizers"),
        ({"validation": [1]}, ValueError, "validation_step"),
        ({"monitor": "nothing"}, ValueError, "It has: train_loss"),
        ({"train": iter([(["m"], ["right"])]), "max_epochs": 2}, ValueError, "train .* only once"),
        (
            {"validation_step": len, "validation": iter([[1]]), "max_epochs": 2},
            ValueError,
            "validation .* only once",
        ),
    ],
)
def test_wrong_arguments_are_refused(learner, options, error, text):
    arguments = {
        "training_step": learner.training_step,
        "optimizers": learner.configure_optimizers(),
        "train": [(["m"], ["right"])],
    }
    learner.training_step = lambda batch, index: (1, te.Variable("e", "e"))
    arguments["training_step"] = learner.training_step
    with pytest.raises(error, match=text):
        fit(**{**arguments, **options})


def test_what_can_be_read_only_once_is_enough_for_one_epoch(learner):
    batches = iter([(["m"], ["right"])])
    result = fit(learner.training_step, learner.configure_optimizers(), batches, max_epochs=1)
    assert result.epochs[0].batches == 1


def test_missing_batches_are_named(learner):
    trainer = quiet()
    for call in (trainer.fit, trainer.validate, trainer.test, trainer.predict):
        with pytest.raises(ValueError, match="batches"):
            call(learner)


# --- checkpoints ---------------------------------------------------------------------------------------


def test_a_checkpoint_is_json_and_comes_back(tmp_path):
    with te.suppress_variable_notifications():
        content = {
            "epoch": 1,
            "state": {0: {"buffer": [(te.Parameter("p", "r"), [te.Variable([1, None], "g")])]}},
            "text": "ä\n",
            "numbers": [1, 2.5, True, None],
            "__odd__": {"__variable__": 1},
        }
    path = tmp_path / "new" / "c.json"
    write(path, content)
    assert json.loads(path.read_text(encoding="utf-8"))["format"] == "tellurio_sync training checkpoint"
    back = read(path)
    ((copy, gradients),) = back["state"][0]["buffer"]
    assert type(copy) is te.Parameter
    assert (copy.data, copy.role, copy.variable_id) == ("p", "r", None)
    assert gradients[0].data == [1, None]
    assert back["text"] == "ä\n"
    assert back["numbers"] == [1, 2.5, True, None]


def test_a_failed_write_leaves_the_former_file(tmp_path):
    path = tmp_path / "c.json"
    write(path, {"epoch": 1})
    with pytest.raises(TypeError, match="cannot hold a object"):
        write(path, {"epoch": object()})
    assert read(path)["epoch"] == 1
    assert [file.name for file in tmp_path.iterdir()] == ["c.json"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not JSON"),
        ("[]", "lacks"),
        ('{"format": "other"}', "lacks"),
        ('{"format": "tellurio_sync training checkpoint", "version": 9}', "version 9"),
        (
            '{"format": "tellurio_sync training checkpoint", "version": 1, "x": {"__variable__": "Evil"}}',
            "damaged",
        ),
    ],
)
def test_what_is_no_checkpoint_is_refused(tmp_path, text, reason):
    path = tmp_path / "c.json"
    path.write_text(text)
    with pytest.raises(CheckpointError, match=reason):
        read(path)


def test_a_checkpoint_of_another_training_is_refused(learner, loader, tmp_path):
    quiet(max_epochs=1, default_root_dir=tmp_path).fit(learner, loader)
    learner.second = te.Parameter("another", role="prompt")
    with pytest.raises(CheckpointError, match=r"1 optimizers with 1 parameters, this one 1 with 2"):
        quiet(max_epochs=2, default_root_dir=tmp_path).fit(
            learner, loader, ckpt_path=tmp_path / "checkpoints" / "last.json"
        )


# --- steps and progress ----------------------------------------------------------------------------------


def test_means_leave_out_what_a_batch_does_not_have():
    means = Means()
    means.add({"a": 1.0, "b": 4.0})
    means.add({"a": 2.0})
    assert means.now("x_") == {"x_a": 1.5, "x_b": 4.0}


@pytest.mark.parametrize(
    ("output", "text"),
    [
        ("text", "must return"),
        ((1, 2, 3), "must return"),
        ((1, "text"), "explanation is a str"),
        ({"loss": 3}, "must return"),
        ({"accuracy": "high"}, "'accuracy' of step"),
    ],
)
def test_an_output_of_another_form_is_refused(output, text):
    with pytest.raises(TypeError, match=text):
        StepOutput("step", output)


def test_numbers_of_all_kinds_are_metrics():
    with te.suppress_variable_notifications():
        score, explanation = te.Variable([1, 0], "score"), te.Variable("e", "explanation")
    output = StepOutput("step", {"loss": (score, explanation), "n": SimpleNamespace(item=lambda: 3), "b": True})
    assert output.metrics == {"loss": 0.5, "n": 3.0, "b": 1.0}
    assert output.explanation is explanation


def test_progress_is_a_line_for_each_epoch():
    file = io.StringIO()
    progress = Progress(file)
    progress.on_fit_start(1, 2)
    progress.on_batch_end("train", 0, 2, {"loss": 1.0})
    progress.on_epoch_end(EpochResult(1, {"train_loss": 0.5}, 2, repeated=1, cost=0.01, is_best=True))
    progress.on_fit_end("done.")
    assert file.getvalue().splitlines() == [
        "epoch 1 of 2  train_loss 0.5  $0.0100  1 repeated after a lost connection  best so far",
        "done.",
    ]


def test_progress_in_a_terminal_rewrites_its_line():
    file = io.StringIO()
    file.isatty = lambda: True
    progress = Progress(file)
    progress.on_fit_start(1, 1)
    progress.on_batch_end("train", 0, None, {"loss": 1.0})
    progress.on_epoch_end(EpochResult(1, {}))
    assert file.getvalue() == "\r\033[Ktrain batch 1  loss 1\r\033[Kepoch 1 of 1  \n"
