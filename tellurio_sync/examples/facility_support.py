"""The demo: optimise the system prompt of a sentiment classifier for facility-support mails.

Run it with ``tellurio-sync demo``, or call :func:`main` in a script, a thread, a notebook, or a function inside a
running asyncio loop. It is a plain, synchronous training loop. The loop is :func:`train`; it trains a
:class:`Classifier`; the rest reads options and prints.

``training_loop.py`` beside this file is the same loop in thirty lines.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import tellurio_sync as te
from tellurio_sync.examples.data import SHIPPED_MAILS, Mail, Split, load_mails, shuffled_batches, split_mails
from tellurio_sync.examples.report import excerpt, gain, share, table, title
from tellurio_sync.examples.stand_in import stand_in
from tellurio_sync.local import data_dir_of_this_user
from tellurio_sync.model.language import ChatCompletionModel
from tellurio_sync.studio import Run

START_PROMPT = """\
Read the message of a customer of a facility service and tell its sentiment.
Answer with one word in lower case: neutral, positive or negative.
When in doubt, answer neutral."""

# --- what is trained ----------------------------------------------------------------------------


class Classifier:
    """A language model with a system prompt that can be improved.

    Attributes:
        prompt: the system prompt.
    """

    def __init__(self, lm: ChatCompletionModel, completion_args: dict[str, Any]) -> None:
        self._lm = lm
        self._completion_args = completion_args
        with te.batch():  # both in one round trip
            self.prompt = te.Parameter(START_PROMPT, role="system prompt of a sentiment classifier", requires_grad=True)
            message = te.Variable("{message}", role="message of a customer")
        self._chat = [{"role": "system", "content": [self.prompt]}, {"role": "user", "content": [message]}]

    def evaluate(self, mails: Sequence[Mail]) -> tuple[te.Variable, te.Variable]:
        """Answer all mails together: the number of right answers, and the explanation from which feedback starts.

        A mail that the language model does not answer counts as wrong; a warning says which, and why.
        """
        texts = [mail.text for mail in mails]
        labels = [mail.sentiment for mail in mails]
        answers = te.functional.chat_completion(
            self._lm, self._chat, inputs={"message": texts}, on_error="skip", **self._completion_args
        )
        return te.functional.exact_match_evaluator(answers, labels)

    def accuracy(self, mails: Sequence[Mail]) -> float:
        """The share of right answers; no graph is kept for a backward pass."""
        with te.no_grad():
            right, _ = self.evaluate(mails)
        return float(right.data / len(mails))


# --- the training loop --------------------------------------------------------------------------


class Checkpoint(NamedTuple):
    """Where the training stood after an epoch; epoch 0 is before the first."""

    epoch: int
    validation_accuracy: float
    prompt: str


def train(
    classifier: Classifier,
    optimizer: te.TGD,
    split: Split,
    run: Run,
    *,
    epochs: int,
    batch_size: int,
    seed: int,
    say: Callable[[str], None],
    after_step: Callable[[int, int, int], None] = lambda step, right, size: None,
) -> list[Checkpoint]:
    """Improve the classifier's prompt on the training mails, and check it on the validation mails after each epoch.

    The test mails are not used.  ``after_step`` gets the number of the step, how many of its mails were answered right,
    and how many there are.
    """
    checkpoints: list[Checkpoint] = []
    rng = random.Random(seed)
    step = 0

    def validate(train_accuracy: float | None = None) -> None:
        accuracy = classifier.accuracy(split.validation)
        run.log("validation_accuracy", accuracy, step=step)
        checkpoints.append(Checkpoint(len(checkpoints), accuracy, str(classifier.prompt.data)))
        say(_progress(checkpoints[-1], train_accuracy))

    say(PROGRESS_HEAD)
    validate()
    for _ in range(epochs):
        right_in_epoch = 0
        for batch in shuffled_batches(split.train, batch_size, rng):
            right, explanation = classifier.evaluate(batch)  # forward: answers, and how many of them are right
            step += 1
            run.log("train_accuracy", right.data / len(batch), step=step)  # of the prompt as it is before this step
            explanation.backward()  #                          backward: feedback on the prompt, in words
            optimizer.step()  #                                a new prompt, which heeds the feedback
            optimizer.clear_grad()
            right_in_epoch += right.data
            after_step(step, right.data, len(batch))
        validate(right_in_epoch / len(split.train))
    return checkpoints


# --- the demo -----------------------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo and return the exit code: 0 if it ran, 1 if it could not, with the reason in one line on stderr.

    Blocks until it is done: seconds with the stand-in. Starts no event loop, and does not change signal handlers.

    Args:
        argv: the options, as on the command line; None: no options. The arguments of the process are not used, because
            in a notebook they belong to the kernel.

    Raises:
        SystemExit: options that do not exist (2), or ``--help`` (0).
    """
    parser = _parser()
    options = parser.parse_args(argv or [])
    if options.model is None and options.lm_base_url is not None:
        parser.error("--lm-base-url needs --model: the name of a language model there")
    try:
        split = split_mails(load_mails(options.data), options.seed)
        page_url = _run(options, split)
    except (te.TellurioError, OSError, ValueError) as exc:
        print(f"tellurio-sync demo: {exc}", file=sys.stderr)
        return 1
    if page_url is not None and not options.quiet and _somebody_is_there():
        _let_look(page_url)
    return 0


def _somebody_is_there() -> bool:
    """Whether a person reads the output and can press a key."""
    try:
        return sys.stdin.isatty() and sys.stdout.isatty()
    except (AttributeError, ValueError):  # there is none, or it is closed
        return False


def _let_look(page_url: str) -> None:
    """The local server ends with this program: so this waits as long as somebody wants to look at its page."""
    try:
        input(f"\nLook at it now: {page_url}\nEnter ends the demo, and the page with it. ")
    except (EOFError, KeyboardInterrupt):
        print()


def _run(options: argparse.Namespace, split: Split) -> str | None:
    """Train, and return the address at which the run can be looked at; None: not while this program runs only."""
    say = _say_nothing if options.quiet else _say
    started = time.monotonic()
    # A separate session, so that the login of a notebook that calls this stays as it is.
    with te.Session() as session:
        te.login(mode=options.mode, data_dir=options.data_dir)
        limit = contextlib.nullcontext() if options.budget is None else te.budget(usd=options.budget)
        with te.init(options.namespace, options.project, config=_settings(options)) as run, limit:
            link = run.link if session.page_url else None
            say(_introduction(options, split, run))
            lm, completion_args = _language_model(options)
            te.set_backward_model_client(lm, completion_args=completion_args)
            classifier = Classifier(lm, completion_args)
            optimizer = te.TGD([classifier.prompt], model_client=lm, momentum=options.momentum, **completion_args)

            steps = options.epochs * -(-len(split.train) // options.batch_size)

            def after_step(step: int, right: int, size: int) -> None:
                say(f"        step {step} of {steps}, {right} of {size} right, {used(lm)} so far")

            test_before = classifier.accuracy(split.test)
            checkpoints = train(
                classifier,
                optimizer,
                split,
                run,
                epochs=options.epochs,
                batch_size=options.batch_size,
                seed=options.seed,
                say=say,
                # The stand-in needs no patience, and costs nothing.
                **({} if options.model is None else {"after_step": after_step}),
            )
            # If several are equal, the latest, because it has learnt from more mails.
            best = max(checkpoints, key=lambda checkpoint: (checkpoint.validation_accuracy, checkpoint.epoch))
            classifier.prompt.data = best.prompt
            test_after = classifier.accuracy(split.test)
            run.log("test_accuracy", test_before, step=0)
            run.log("test_accuracy", test_after, step=1)
            metrics = run.rest.list_metrics(run.project.namespace_slug, run.project.slug, run.uuid)
            bill = asked(run)

    if options.model is not None:
        say(f"\nUsed: {used(lm)}.")
    if bill:
        say(f"\nAsked: {bill}.")
    say(f"\nKept: the prompt after epoch {best.epoch}, the best on the validation mails.")
    say(title("The learnt prompt"))
    say(excerpt(best.prompt))
    say(title("The metrics of the run, as the server has them"))
    say(_metrics_table(metrics))
    say(title("The accuracy"))
    rows = [
        ("validation", split.validation, checkpoints[0].validation_accuracy, best.validation_accuracy),
        ("held-out test", split.test, test_before, test_after),
    ]
    cells = [(name, str(len(mails)), share(a), share(b), gain(a, b)) for name, mails, a, b in rows]
    _say(table(["mails", "number", "before", "after", "gain"], cells))
    say(_farewell(options, time.monotonic() - started))
    return link


def _settings(options: argparse.Namespace) -> dict[str, Any]:
    """What distinguishes this run from others, for a comparison of them."""
    names = ("epochs", "batch_size", "momentum", "seed")
    return {"model": options.model or "stand-in", **{name: getattr(options, name) for name in names}}


def _language_model(options: argparse.Namespace) -> tuple[ChatCompletionModel, dict[str, Any]]:
    """The language model, and the arguments for each chat."""
    if options.model is None:
        return te.CallableModel(stand_in), {}
    lm = te.OpenAI(
        base_url=options.lm_base_url,
        api_key=options.lm_api_key,
        max_concurrency=options.max_concurrency,
        cache=True,  # a demo that is run again pays for new questions only
    )
    return lm, {"model": options.model}


def asked(run: Run) -> str:
    """The questions of a run by what they were for, in words; nothing where the server does not count them."""
    try:
        return str(run.questions())
    except te.errors.UsageError:
        return ""


def used(lm: ChatCompletionModel) -> str:
    """The tokens and the cost of a model so far, in words."""
    usage = lm.get_usage()
    amount = usage["cost"]["amount"]
    cost = "cost unknown" if amount is None else f"${amount:.4f}"
    return f"{usage['total_tokens']:,} tokens, {cost}"


# --- options ------------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tellurio-sync demo",
        description="Optimise the system prompt of a sentiment classifier for facility-support mails.",
        epilog="Without --model, a small program that follows the rules in the prompt stands in for a language model.",
    )
    add = parser.add_argument
    add("--data", type=Path, default=SHIPPED_MAILS, metavar="FILE", help="labelled mails (default: the package's)")
    add("--model", metavar="NAME", help="a real language model, such as gpt-4o (default: the stand-in)")
    add("--lm-base-url", metavar="URL", help="its OpenAI-compatible endpoint (default: OpenAI's)")
    add("--lm-api-key", metavar="KEY", help="its key (default: OPENAI_API_KEY); any text if the endpoint needs none")
    add("--max-concurrency", type=_positive, metavar="N", help="questions to it at once (default: as many as it bears)")
    add("--budget", type=float, metavar="USD", help="end before the questions cost more than this")
    add("--epochs", type=_positive, default=6, metavar="N", help="passes over the training mails (%(default)s)")
    add("--batch-size", type=_positive, default=10, metavar="N", help="mails per step (%(default)s)")
    add("--momentum", type=int, default=1, metavar="N", help="earlier prompts shown to the optimizer (%(default)s)")
    add("--seed", type=int, default=0, metavar="N", help="of the split and of the order of the mails (%(default)s)")
    mode = os.environ.get("TELLURIO_MODE") or "local"
    add(
        "--mode",
        choices=["local", "online"],
        default=mode,
        help="which server (default: TELLURIO_MODE, else a local one)",
    )
    add(
        "--data-dir",
        type=Path,
        metavar="DIR",
        help="where the local server keeps the run (default: with your other runs)",
    )
    add("--namespace", metavar="NAME", help="where the project is (default: your own)")
    add("--project", default="Facility Support", metavar="NAME", help="what the run belongs to (%(default)s)")
    add("--quiet", action="store_true", help="print the accuracy table only")
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, not {text}")
    return number


# --- printing -----------------------------------------------------------------------------------

PROGRESS_HEAD = f"{'epoch':>5}   {'training':>10}   {'validation':>10}   {'prompt':>12}"


def _say(text: str) -> None:
    # Flushed, so that progress shows at once in a pipe too.
    print(text, flush=True)


def _say_nothing(text: str) -> None:
    """In the place of ``_say``, for ``--quiet``."""


def _progress(checkpoint: Checkpoint, train_accuracy: float | None) -> str:
    training = "" if train_accuracy is None else share(train_accuracy)
    size = f"{len(checkpoint.prompt):,} chars"
    return f"{checkpoint.epoch:>5}   {training:>10}   {share(checkpoint.validation_accuracy):>10}   {size:>12}"


def _introduction(options: argparse.Namespace, split: Split, run: Run) -> str:
    source = "of this package" if options.data == SHIPPED_MAILS else f"of {options.data}"
    if options.model is None:
        model = "a stand-in for one: a small program that follows rules it finds in text"
    else:
        model = f"{options.model} at {options.lm_base_url or 'OpenAI'}"
    train, validation, test = map(len, split)
    return "\n".join(
        [
            title("Optimising the prompt of a sentiment classifier"),
            f"mails            {train + validation + test} {source}",
            f"                 {train} to train, {validation} to validate, {test} held out to test",
            f"language model   {model}",
            f"run              {run.name}, project {run.project.display_name}",
            f"watch it         {run.link}",
            "",
        ]
    )


def _metrics_table(metrics: list[dict[str, Any]]) -> str:
    series: dict[str, list[float]] = {}
    for metric in metrics:
        series.setdefault(metric["name"], []).append(float(metric["value"]))
    return table(
        ["metric", "values", "first", "last", "lowest", "highest"],
        [
            [name, str(len(values)), *map(share, (values[0], values[-1], min(values), max(values)))]
            for name, values in series.items()
        ],
    )


def _farewell(options: argparse.Namespace, seconds: float) -> str:
    lines = [f"\nDone in {seconds:.1f} s. Where to look next:"]
    if options.model is None:
        lines += [
            "- a real language model, here one of Ollama:",
            "  tellurio-sync demo --model llama3.2 --lm-base-url http://127.0.0.1:11434/v1 --lm-api-key none",
        ]
    if options.mode == "local":
        lines += [
            "- the run is kept; this serves its page again, at the address that it prints:",
            f"  tellurio-sync backend --data-dir {options.data_dir or data_dir_of_this_user()}",
        ]
    lines += [
        "- your own mails: tellurio-sync demo --data FILE; what a file looks like: examples/data.py",
        f"- the loop in thirty lines: {Path(__file__).with_name('training_loop.py')}",
        "- all options: tellurio-sync demo --help",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
