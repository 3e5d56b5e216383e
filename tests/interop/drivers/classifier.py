"""A classifier of mails and its data set, in the peer's own layers: what drivers train."""

from afnio import Variable
from afnio.cognitive import ChatCompletion, ExactMatchEvaluator, Module, Parameter
from afnio.optim import TGD
from afnio.utils.data import Dataset


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
