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


def timed(function):
    """Seconds."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def observe(namespace, base_url, prompt, mails, batch_size, count):
    run = init(namespace, "Speed")
    lm = OpenAI(base_url=base_url, api_key="sk-test")
    set_backward_model_client("openai/gpt-4o-mini", client_args={"base_url": base_url})
    made = []
    seen = {"Variable": timed(lambda: made.extend(Variable("x", role="r") for _ in range(count))) / count}
    seen["Add"] = timed(lambda: [Add.apply(made[0], made[1]) for _ in range(count)]) / count
    trainer = Trainer(max_epochs=1, enable_checkpointing=False, enable_progress_bar=False, enable_agent_summary=False)
    classifier = Classifier(lm, prompt)
    loader = DataLoader(Mails(mails), batch_size=batch_size)
    seen["epoch"] = timed(lambda: trainer.fit(classifier, loader))
    run.finish()
    return seen


harness.main(observe)
