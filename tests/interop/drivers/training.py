"""Mails to a facility service, sorted by their sentiment: the training of a prompt, from data set to checkpoint.

The peer's own layers do it: a module, a data set drawn by weights, a loader, a trainer, files for what was learnt.
"""

import os

import harness
from afnio import Variable, load, save, set_backward_model_client
from afnio.cognitive import ChatCompletion, ExactMatchEvaluator, Module, Parameter
from afnio.models.openai import OpenAI
from afnio.optim import TGD
from afnio.tellurio import init
from afnio.trainer import Trainer
from afnio.utils.data import DataLoader, Dataset, WeightedRandomSampler


class Mails(Dataset):
    def __init__(self, mails):
        self.mails = mails

    def __len__(self):
        return len(self.mails)

    def __getitem__(self, index):
        text, sentiment = self.mails[index]
        return Variable(text, role="message of a customer"), Variable(sentiment, role="sentiment")

    def weights(self):
        """The rarer its sentiment, the more often a mail is drawn."""
        labels = [sentiment for _, sentiment in self.mails]
        return [1 / labels.count(label) for label in labels]


class Instructions(Module):
    """What is learnt, apart from the language model: a checkpoint of this needs no model to be loaded."""

    def __init__(self, prompt):
        super().__init__()
        self.prompt = Parameter(data=prompt, role="system prompt of a sentiment classifier", requires_grad=True)


class Classifier(Module):
    def __init__(self, lm, prompt):
        super().__init__()
        self.lm = lm
        self.instructions = Instructions(prompt)
        self.messages = [
            {"role": "system", "content": [self.instructions.prompt]},
            {"role": "user", "content": [Variable("{message}", role="message of a customer")]},
        ]
        self.chat = ChatCompletion()
        self.evaluator = ExactMatchEvaluator()
        self.completion_args = {"model": "gpt-4o-mini"}

    def forward(self, message):
        return self.chat(self.lm, self.messages, inputs={"message": message}, **self.completion_args)

    def training_step(self, batch, batch_idx):
        messages, sentiments = batch
        return self.evaluator(self(messages), sentiments)

    validation_step = test_step = training_step

    def configure_optimizers(self):
        return TGD(self.parameters(), model_client=self.lm, momentum=3, **self.completion_args)


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
