"""From a model that fails on one sample to the user's loop, which goes on without paying again."""

from __future__ import annotations

import json
import pickle

import pytest

import tellurio_sync as te
from tellurio_sync.errors import SamplesFailed, SamplesLeftOut

from ..backend.scripted import answer_like_a_model

MAILS = [f"mail {i}" for i in range(10)]


class Agent:
    """A model that fails on one mail, and on feedback about another."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.is_well = False

    def __call__(self, messages: list[dict[str, str]], **arguments: object) -> str:
        text = messages[-1]["content"]
        self.asked.append(text)
        if not self.is_well and (text == "mail 3" or ("MAIL 5" in text and "<FEEDBACK>" in text)):
            raise ValueError("this one not")
        return answer_like_a_model(messages)


def chat(model: te.CallableModel, prompt: te.Variable) -> list[dict[str, object]]:
    return [{"role": "system", "content": [prompt]}, {"role": "user", "content": [te.Variable("{mail}", role="mail")]}]


def test_the_error_is_complete_wherever_it_goes(session: te.Session) -> None:
    agent = Agent()
    model, prompt = te.CallableModel(agent), te.Parameter("Be brief.", role="prompt")
    with pytest.raises(SamplesFailed) as caught:
        te.functional.chat_completion(model, chat(model, prompt), inputs={"mail": MAILS})
    error = pickle.loads(pickle.dumps(caught.value))
    for one in (caught.value, error):
        assert "1 of 10 samples failed (counted from 0): sample 3: " in str(one)
        assert "this one not" in str(one)
        assert one.results == [None if i == 3 else f"MAIL {i}" for i in range(10)]
        assert [(failure.index, failure.kind) for failure in one.failures] == [(3, "function")]
    json.dumps(error.data)
    # A loop that goes on: only what failed is asked again.
    agent.asked.clear()
    agent.is_well = True
    missing = [failure.index for failure in error.failures]
    again = te.functional.chat_completion(model, chat(model, prompt), inputs={"mail": [MAILS[i] for i in missing]})
    answers = list(error.results)
    for index, answer in zip(missing, again.data):
        answers[index] = answer
    assert answers == [f"MAIL {i}" for i in range(10)]
    assert agent.asked == ["mail 3"]


def test_a_step_goes_on_without_bad_samples(session: te.Session) -> None:
    agent = Agent()
    model, prompt = te.CallableModel(agent), te.Parameter("Be brief.", role="prompt")
    te.set_backward_model_client(model)
    optimizer = te.TGD([prompt], model_client=model)
    with pytest.warns(SamplesLeftOut, match="sample 3: .*this one not"):
        answers = te.functional.chat_completion(model, chat(model, prompt), {"mail": MAILS}, on_error="skip")
    assert answers.data == [None if i == 3 else f"MAIL {i}" for i in range(10)]
    score, explanation = te.functional.exact_match_evaluator(answers, ["other"] * 10)
    assert score.data == 0
    agent.asked.clear()
    with pytest.warns(SamplesLeftOut, match="1 of 10 samples failed .* sample 5: ") as caught:
        explanation.backward(feedback="critic")
    assert len(caught) == 1
    # 9 critics, and one question about the prompt for each but the one without criticism.
    assert len(agent.asked) == 9 + 9
    (gradient,) = prompt.grad
    assert gradient.data.count("<ITEM></ITEM>") == 2
    optimizer.step()
    assert prompt.data == "Be brief., better"


def test_too_many_fail_the_pass_which_can_be_tried_again(session: te.Session) -> None:
    agent = Agent()
    model, prompt = te.CallableModel(agent), te.Parameter("Be brief.", role="prompt")
    te.set_backward_model_client(model)
    answers = te.functional.chat_completion(model, chat(model, prompt), {"mail": MAILS[4:6]})
    with pytest.raises(SamplesFailed, match="sample 1: "):
        answers.backward(te.Variable(["bad", "bad"], role="feedback"), max_failed=0.4, feedback="critic")
    assert prompt.grad == []
    agent.is_well = True
    answers.backward(te.Variable(["bad", "bad"], role="feedback"), max_failed=0.0, feedback="critic")
    assert len(prompt.grad) == 1
