"""Mails to a facility service, sorted by their sentiment: the training of a prompt, from data set to checkpoint.

The peer's own layers do it: a module, a data set drawn by weights, a loader, a trainer, files for what was learnt.
"""

import os

import harness
from afnio import load, save, set_backward_model_client
from afnio.models.openai import OpenAI
from afnio.tellurio import init
from afnio.trainer import Trainer
from afnio.utils.data import DataLoader, WeightedRandomSampler
from classifier import Classifier, Mails


def observe(namespace, base_url, directory, prompt, train, validation, epochs, batch_size):
    run = init(namespace, "Facility Support", name="training")
    lm = OpenAI(base_url=base_url, api_key="sk-test")
    set_backward_model_client("openai/gpt-4o-mini", client_args={"base_url": base_url})
    classifier = Classifier(lm, prompt)
    mails = Mails(train)
    sampler = WeightedRandomSampler(mails.weights(), len(mails), seed=0)
    loader = DataLoader(mails, batch_size=batch_size, sampler=sampler)
    held_out = DataLoader(Mails(validation), batch_size=len(validation))

    trainer = Trainer(max_epochs=epochs)
    seen = {"before": trainer.validate(classifier, held_out)}
    trainer.fit(classifier, loader, held_out)
    seen["after"] = trainer.validate(classifier, held_out)
    seen["tested"] = trainer.test(classifier, held_out)
    learnt = classifier.instructions
    seen["prompt"] = learnt.prompt.data

    path = os.path.join(directory, "instructions.hf")
    save(learnt.state_dict(), path)
    again = Classifier(lm, prompt)
    again.instructions.load_state_dict(load(path))
    seen["loaded"] = again.instructions.prompt.data == learnt.prompt.data
    seen["loaded one answers alike"] = trainer.validate(again, held_out)
    run.finish()
    return seen


harness.main(observe)
