"""One training of the benchmark of questions, in an environment that holds the product that trains.

``python learning_worker.py WAY TASK``: TASK is a JSON file with ``url`` of the endpoint, ``prompt``, ``train``,
``validation`` and ``test`` (lists of [text, label]), ``batches`` (of indices), and ``epoch`` (batches per validation).
Prints ``RESULT`` and a JSON object: ``curve`` (questions so far and validation accuracy, at each validation) and
``test``, the accuracy of the best prompt on the test mails.  Needs nothing of this package but for its own ways.
"""

from __future__ import annotations

import json
import sys
import urllib.request
from pathlib import Path
from typing import Any

TASK = json.loads(Path(sys.argv[2]).read_text(encoding="utf-8"))
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def get(path: str) -> Any:
    """What the endpoint says."""
    with _OPENER.open(TASK["url"] + path, timeout=60) as response:
        return json.load(response)


def chat(system: str, user: str) -> str:
    """The endpoint's answer."""
    messages = [{"role": "system", "content": system}] * bool(system) + [{"role": "user", "content": user}]
    body = json.dumps({"model": "scripted", "messages": messages}).encode()
    request = urllib.request.Request(TASK["url"] + "/v1/chat/completions", body, {"Content-Type": "application/json"})
    with _OPENER.open(request, timeout=60) as response:
        text: str = json.load(response)["choices"][0]["message"]["content"]
        return text


def shown(mail: str) -> str:
    """A mail as all ways send it."""
    return f"Mail: {mail} (end of mail)"


def verdict(given: str, wanted: str) -> str:
    """What an evaluator of the program's own says."""
    return (
        f'The answer "{given}" is right.'
        if given == wanted
        else f'The answer "{given}" is wrong, "{wanted}" would have been right.'
    )


class Record:
    """Validations of a training: the curve, and the prompt that was best, of equals the first."""

    def __init__(self) -> None:
        self.curve: list[tuple[int, float]] = []
        self.best = (-1.0, "")

    def validated(self, accuracy: float, prompt: str) -> None:
        self.curve.append((get("/total")["total"], accuracy))
        if accuracy > self.best[0]:
            self.best = (accuracy, prompt)

    def validate(self, prompt: str) -> None:
        get("/phase/validation")
        self.validated(accuracy_of(prompt, TASK["validation"]), prompt)

    def print(self) -> None:
        get("/phase/test")
        print("RESULT", json.dumps({"curve": self.curve, "test": accuracy_of(self.best[1], TASK["test"])}), flush=True)


def accuracy_of(prompt: str, mails: list[Any]) -> float:
    return sum(chat(prompt, shown(text)) == label for text, label in mails) / len(mails)


# --- this package -------------------------------------------------------------------------------


def train_here(record: Record, feedback: str, **options: Any) -> None:
    import tellurio_sync as te

    te.login(mode="local")
    with te.init(project_display_name="questions"):
        lm = te.OpenAI(base_url=TASK["url"] + "/v1", api_key="none")
        te.set_backward_model_client(lm, completion_args={"model": "scripted"})
        prompt = te.Parameter(TASK["prompt"], role="system prompt of a sentiment classifier")
        messages = [
            {"role": "system", "content": [prompt]},
            {"role": "user", "content": [te.Variable("{mail}", role="mail")]},
        ]
        optimizer = te.TGD([prompt], model_client=lm, model="scripted", **options)
        record.validate(str(prompt.data))
        for number, batch in enumerate(TASK["batches"], 1):
            get("/phase/step")
            mails = [TASK["train"][index] for index in batch]
            inputs = {"mail": [shown(text) for text, _ in mails]}
            answers = te.functional.chat_completion(lm, messages, inputs=inputs, model="scripted")
            _, explanation = te.functional.exact_match_evaluator(answers, [label for _, label in mails])
            explanation.backward(feedback=feedback)
            optimizer.step()
            optimizer.clear_grad()
            if number % TASK["epoch"] == 0:
                record.validate(str(prompt.data))


# --- textgrad -----------------------------------------------------------------------------------


def train_textgrad(record: Record) -> None:
    import textgrad as tg
    from textgrad.autograd import StringBasedFunction
    from textgrad.engine import EngineLM

    class Engine(EngineLM):  # type: ignore[misc]
        model_string = "scripted"

        def generate(self, prompt: str, system_prompt: str | None = None, **options: Any) -> str:
            return chat(system_prompt or "", prompt)

        __call__ = generate

    engine = Engine()
    tg.set_backward_engine(engine, override=True)
    prompt = tg.Variable(TASK["prompt"], requires_grad=True, role_description="system prompt of a sentiment classifier")
    model = tg.BlackboxLLM(engine, prompt)
    evaluate = StringBasedFunction(
        lambda prediction, target: verdict(prediction.value, target.value), "says whether the answer is right"
    )
    optimizer = tg.TextualGradientDescent([prompt], engine=engine)
    record.validate(prompt.value)
    for number, batch in enumerate(TASK["batches"], 1):
        get("/phase/step")
        optimizer.zero_grad()
        losses = []
        for text, label in (TASK["train"][index] for index in batch):
            answered = model(tg.Variable(shown(text), requires_grad=False, role_description="mail"))
            target = tg.Variable(label, requires_grad=False, role_description="right answer")
            losses.append(evaluate(inputs={"prediction": answered, "target": target}))
        tg.sum(losses).backward()
        optimizer.step()
        if number % TASK["epoch"] == 0:
            record.validate(prompt.value)


# --- gepa ---------------------------------------------------------------------------------------


def train_gepa(record: Record) -> None:
    import gepa
    from gepa import EvaluationBatch

    size = len(TASK["batches"][0])

    class Adapter:
        propose_new_texts = None

        def evaluate(self, batch: list[Any], candidate: dict[str, str], capture_traces: bool = False) -> Any:
            is_validation = len(batch) > size
            get("/phase/validation" if is_validation else "/phase/step")
            outputs = [chat(candidate["prompt"], shown(text)) for text, _ in batch]
            scores = [float(output == label) for output, (_, label) in zip(outputs, batch)]
            get("/phase/step")
            if is_validation:
                record.validated(sum(scores) / len(scores), candidate["prompt"])
            return EvaluationBatch(outputs, scores, list(zip(batch, outputs)) if capture_traces else None)

        def make_reflective_dataset(self, candidate: Any, evaluated: Any, components: list[str]) -> Any:
            records = [
                {"Inputs": shown(text), "Generated Outputs": output, "Feedback": verdict(output, label)}
                for (text, label), output in evaluated.trajectories
            ]
            return dict.fromkeys(components, records)

    class Silent:
        def log(self, message: str) -> None:
            """Say nothing."""

    class Batches:
        """The same batches as for all others."""

        def next_minibatch_ids(self, loader: Any, state: Any) -> list[int]:
            batches: list[list[int]] = TASK["batches"]
            return batches[state.i % len(batches)]

    done = {"steps": 0}

    def stop(state: Any) -> bool:
        done["steps"] += 1
        return done["steps"] > len(TASK["batches"])

    gepa.optimize(
        seed_candidate={"prompt": TASK["prompt"]},
        trainset=TASK["train"],
        valset=TASK["validation"],
        adapter=Adapter(),
        reflection_lm=lambda prompt: chat("", prompt if isinstance(prompt, str) else prompt[-1]["content"]),
        candidate_selection_strategy="current_best",
        batch_sampler=Batches(),
        stop_callbacks=stop,
        logger=Silent(),
        seed=0,
    )


WAYS = {
    "records": lambda record: train_here(record, "records"),
    "accept": lambda record: train_here(record, "records", accept="batch"),
    "critic": lambda record: train_here(record, "critic"),
    "textgrad": train_textgrad,
    "gepa": train_gepa,
}

if __name__ == "__main__":
    RECORD = Record()
    WAYS[sys.argv[1]](RECORD)
    RECORD.print()
