"""Language models behind HTTP: chats, usage and cost, feedback through conversations, the judge, consent."""

import os

import harness
from afnio import Variable, cognitive, get_backward_model_client, set_backward_model_client
from afnio.autodiff.evaluator import DeterministicEvaluator
from afnio.autodiff.lm_ops import ChatCompletion
from afnio.cognitive import Parameter, functional
from afnio.models.openai import AsyncOpenAI, OpenAI
from afnio.tellurio import init


def chat(system, user):
    return [{"role": "system", "content": [system]}, {"role": "user", "content": [user]}]


def before_a_backward_model():
    return {
        "getter": harness.attempt(get_backward_model_client),
        "path": harness.attempt(set_backward_model_client, "gpt-4o"),
        "provider": harness.attempt(set_backward_model_client, "other/model"),
    }


def backward_model(base_url):
    completion_args = {"temperature": 0.5, "max_tokens": 7}
    set_backward_model_client(
        "openai/gpt-4o", client_args={"base_url": base_url, "api_key": "sk-back"}, completion_args=completion_args
    )
    client = get_backward_model_client()
    return [client._provider, client._model, client._completion_args, type(client._client).__name__]


def chats(base_url):
    model = OpenAI(base_url=base_url, api_key="sk-test")
    system = Parameter(data="You are kind.", role="system prompt", requires_grad=True)
    user = Variable("Greet {name}", role="user query")
    zero = model.get_usage()
    one = ChatCompletion.apply(model, chat(system, user), inputs={"name": "Ann"}, model="gpt-4o", temperature=0.25)
    # Protocol §C.1: before the reply.
    after_one = model.get_usage()
    batch = functional.chat_completion(
        model, chat(system, user), inputs={"name": Variable(["Bea", "Cem"], role="names")}, model="gpt-4o-2024-08-06"
    )
    after_three = model.get_usage()
    by_module = cognitive.ChatCompletion()(model, chat(system, user), {"name": "Dee"}, model="unknown")
    after_four = model.get_usage()
    model.clear_usage()
    seen = {
        "zero": zero,
        "one": [one.data, one.role, one.requires_grad, one.grad_fn.name()],
        "edges": [[edge[0] and edge[0].name(), edge[1]] for edge in one.grad_fn.next_functions],
        "batch": batch.data,
        "module": by_module.data,
        "usage": [after_one, after_three, after_four, model.get_usage()],
        "asynchronous": ChatCompletion.apply(
            AsyncOpenAI(base_url=base_url, api_key="sk-test"), chat(system, user), {"name": "Eve"}, model="gpt-4o"
        ).data,
        "default address": ChatCompletion.apply(
            OpenAI(api_key="sk-test"), chat(system, user), {"name": "Fay"}, model="gpt-4o"
        ).data,
    }
    seen["errors"] = {
        "no model name": harness.attempt(ChatCompletion.apply, model, chat(system, user), {"name": "x"}),
        "refused": harness.attempt(
            ChatCompletion.apply, model, chat(system, Variable("FAIL", role="u")), {"name": "x"}, model="gpt-4o"
        ),
        "no client": harness.attempt(ChatCompletion.apply, None, chat(system, user), model="gpt-4o"),
    }
    return seen


def feedback(base_url):
    model = OpenAI(base_url=base_url, api_key="sk-test")
    system = Parameter(data="You tell colours.", role="system prompt", requires_grad=True)
    user = Variable("Colour of {thing}?", role="user query")
    answer = functional.chat_completion(model, chat(system, user), inputs={"thing": "grass"}, model="gpt-4o")

    def exact(prediction, target):
        return int(prediction == target)

    _, explanation = DeterministicEvaluator.apply(answer, "green", exact, "exact match", None, None, None)
    used = get_backward_model_client().get_usage()["total_tokens"]
    explanation.backward()
    seen = {"scalar": [[gradient.data, gradient.role] for gradient in system.grad], "input": len(user.grad)}
    seen["usage came before the flags fell"] = get_backward_model_client().get_usage()["total_tokens"] > used

    prompt = Parameter(data="You tell colours.", role="system prompt", requires_grad=True)
    answers = functional.chat_completion(model, chat(prompt, user), inputs={"thing": ["sky", "sea"]}, model="gpt-4o")
    _, explanation = functional.exact_match_evaluator(answers, ["blue", "blue"])
    explanation.backward()
    seen["batch"] = [gradient.data for gradient in prompt.grad]

    happy = Parameter(data="You tell colours.", role="system prompt", requires_grad=True)
    answers = functional.chat_completion(model, chat(happy, user), inputs={"thing": ["sky", "sea"]}, model="gpt-4o")
    _, explanation = functional.deterministic_evaluator(
        answers, ["blue", "blue"], exact, "exact match", lambda scores: len(scores) == 2, sum, "summation"
    )
    explanation.backward()
    seen["success"] = [gradient.data for gradient in happy.grad]
    return seen


def judged(base_url):
    model = OpenAI(base_url=base_url, api_key="sk-test")
    messages = chat(
        Parameter(data="JUDGE the prediction.", role="judge prompt", requires_grad=True),
        Variable("{prediction} against {target}, in {language}", role="query"),
    )
    prediction = Variable("green", role="colour", requires_grad=True)
    score, explanation = functional.lm_judge_evaluator(
        model, messages, prediction, "red", inputs={"language": "English"}, model="gpt-4o"
    )
    explanation.backward()
    seen = {
        "scalar": [score.data, explanation.data, score.role, explanation.role],
        "prediction": len(prediction.grad),
        "prompt": len(messages[0]["content"][0].grad),
    }
    predictions = Variable(["green", "red"], role="colours", requires_grad=True)
    score, explanation = functional.lm_judge_evaluator(
        model, messages, predictions, ["red", "red"], inputs={"language": "English"}, model="gpt-4o", eval_mode=False
    )
    explanation.backward()
    seen["batch"] = [score.data, explanation.data]
    seen["prediction in training"] = len(predictions.grad)
    seen["prompt in training"] = len(messages[0]["content"][0].grad)
    seen["reserved name"] = harness.attempt(
        functional.lm_judge_evaluator, model, messages, prediction, "red", inputs={"target": "x"}, model="gpt-4o"
    )
    return seen


def without_consent(base_url):
    os.environ["ALLOW_API_KEY_SHARING"] = "false"
    return harness.attempt(OpenAI, base_url=base_url, api_key="sk-test")


def observe(namespace, base_url):
    run = init(namespace, "Models")
    seen = {
        "before": before_a_backward_model(),
        "backward model": backward_model(base_url),
        "chats": chats(base_url),
        "feedback": feedback(base_url),
        "judged": judged(base_url),
        "without consent": without_consent(base_url),
    }
    run.finish()
    return seen


harness.main(observe)
