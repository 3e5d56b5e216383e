"""How long it takes to make Variables, to run functions, and to train for an epoch."""

import time

import harness
from afnio import Variable, set_backward_model_client
from afnio.autodiff.basic_ops import Add
from afnio.models.openai import OpenAI
from afnio.tellurio import init
from afnio.trainer import Trainer
from afnio.utils.data import DataLoader
from classifier import Classifier, Mails

WARM_UP = 10


def timed(function, count=1):
    """Seconds, and seconds of this process's processors, of one call of ``count`` in a row."""
    start, cpu = time.perf_counter(), time.process_time()
    for _ in range(count):
        function()
    return {"time": (time.perf_counter() - start) / count, "CPU": (time.process_time() - cpu) / count}


def warm(function, count):
    """The same after a few that are not counted: what is used for the first time is loaded then."""
    timed(function, WARM_UP)
    return timed(function, count)


def observe(namespace, base_url, prompt, mails, batch_size, count):
    run = init(namespace, "Speed")
    lm = OpenAI(base_url=base_url, api_key="sk-test")
    set_backward_model_client("openai/gpt-4o-mini", client_args={"base_url": base_url})
    made = []
    seen = {"Variable": warm(lambda: made.append(Variable("x", role="r", requires_grad=True)), count)}
    seen["Add"] = warm(lambda: Add.apply(made[0], made[1]), count)
    trainer = Trainer(max_epochs=1, enable_checkpointing=False, enable_progress_bar=False, enable_agent_summary=False)
    classifier = Classifier(lm, prompt)
    loader = DataLoader(Mails(mails), batch_size=batch_size)
    seen["epoch"] = timed(lambda: trainer.fit(classifier, loader))
    run.finish()
    return seen


harness.main(observe)
