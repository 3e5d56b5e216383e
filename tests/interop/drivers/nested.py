"""Functions of the user that use the server themselves while it waits for them, from three threads."""

import threading

import harness
from afnio import Variable, set_backward_model_client
from afnio.autodiff.basic_ops import Add
from afnio.autodiff.evaluator import DeterministicEvaluator
from afnio.cognitive import Parameter, functional
from afnio.tellurio import init

PATIENCE = 120


def alike(prediction, target):
    """1 if a graph that is made, evaluated and thrown away here says so."""
    both = Add.apply(Variable(str(prediction), role="prediction"), Variable("!", role="mark"))
    score, _ = functional.exact_match_evaluator(both, f"{target}!")
    return score.data


def mean(scores):
    return Variable(sum(scores) / len(scores), role="mean").data


def all_of(scores):
    return Variable(sum(scores), role="sum").data == len(scores)


def work(number):
    prompt = Parameter(data=f"text {number}", role="prompt", requires_grad=True)
    text = Add.apply(prompt, Variable(" end", role="ending"))
    one, _ = DeterministicEvaluator.apply(text, f"text {number} end", alike, "exact match", None, None, None)
    letters = Variable(["a", "b", "a", "a"], role="letters", requires_grad=True)
    many, explanation = DeterministicEvaluator.apply(letters, ["a"] * 4, alike, "exact match", all_of, mean, "mean")
    explanation.backward()
    return [text.data, one.data, many.data, [gradient.role for gradient in letters.grad]]


def observe(namespace, base_url):
    run = init(namespace, "Nested")
    set_backward_model_client("openai/gpt-4o", client_args={"base_url": base_url, "api_key": "sk-test"})
    seen = {}

    def keep(number):
        seen[str(number)] = harness.attempt(work, number)

    threads = [threading.Thread(target=keep, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    run.finish()
    return seen


harness.main(observe)
