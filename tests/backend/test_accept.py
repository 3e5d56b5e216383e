"""``accept="batch"``: new data is tried on the batch, and adopted only if it is better there."""

from __future__ import annotations

from typing import Any

import pytest

from tellurio_sync.backend.prompts import OPTIMIZER, PROPAGATOR, ChatMessage, read_blocks

from .rpc_client import RpcClient, RpcError, tag

WORDS = ["a", "b", "c", "d"]


class Learner:
    """A prompt that names the words which come out right; the optimizer's answers are given."""

    def __init__(self, rpc: RpcClient, offers: list[str], prompt: str = "", **defaults: Any) -> None:
        self.rpc, self.offers = rpc, offers
        self.questions: list[ChatMessage] = []
        self.forward: list[str] = []
        self.lm = rpc.model(self.answer)
        self.prompt = rpc.variable(prompt, "prompt", True, parameter=True)
        defaults = {"model_client": self.lm, "accept": "batch", **defaults}
        made = rpc.call("create_optimizer", optimizer_name="TGD", params=[self.prompt], defaults=defaults)
        self.optimizer_id = made["optimizer_id"]

    def answer(self, messages: list[ChatMessage]) -> str:
        if messages[0]["content"].startswith(OPTIMIZER):
            self.questions.append(messages[1])
            return f"<IMPROVED>{self.offers.pop(0)}</IMPROVED>"
        if messages[0]["content"].startswith(PROPAGATOR):
            return '{"variable_1": "Know more words."}'
        self.forward.append(messages[-1]["content"])
        word = messages[-1]["content"].rpartition(" ")[2]
        return "yes" if word in messages[0]["content"].split() else "no"

    def chat(self, words: Any = WORDS) -> dict[str, Any]:
        messages = [{"role": "system", "content": [self.prompt]}, {"role": "user", "content": "Word: {word}"}]
        return tag(self.rpc.run("ChatCompletion", self.lm, messages, {"word": words}))

    def evaluated(self, answers: dict[str, Any], target: Any = "yes") -> dict[str, Any]:
        return tag(self.rpc.run("ExactMatchEvaluator", answers, target)[1])

    def step(self, root: dict[str, Any], **params: Any) -> dict[str, Any]:
        self.rpc.backward(root, **{"feedback": "records", **params})
        self.forward.clear()
        result: dict[str, Any] = self.rpc.call("run_step", optimizer_id=self.optimizer_id)
        self.rpc.until("clear_step")
        self.rpc.call("clear_grad", optimizer_id=self.optimizer_id)
        return result

    @property
    def data(self) -> Any:
        return self.rpc.get(self.prompt)["data"]


def test_better_data_is_adopted(rpc: RpcClient) -> None:
    learner = Learner(rpc, ["a b"], "a")
    result = learner.step(learner.evaluated(learner.chat()))
    assert learner.data == "a b"
    assert "rejected" not in result
    assert learner.forward == [f"Word: {word}" for word in "bcda"], "the wrong ones first"


@pytest.mark.parametrize(
    ("before", "offer", "tried"),
    [
        ("a", "a", ""),  # the same: that is known without asking
        ("a b", "", "cd"),  # gains nothing: those that are right are not asked
        ("a b", "c", "cdab"),  # gains one, loses two
        ("a b", "c b", "cdab"),  # as good is not better
    ],
)
def test_what_is_not_better_is_not_adopted(rpc: RpcClient, before: str, offer: str, tried: str) -> None:
    learner = Learner(rpc, [offer or "nothing"], before)
    (text,) = learner.step(learner.evaluated(learner.chat()))["rejected"]
    assert learner.data == before
    assert text.startswith("The parameter with the role 'prompt' keeps its data: ")
    assert learner.forward == [f"Word: {word}" for word in tried]


def test_the_next_question_shows_what_was_rejected_until_the_data_is_another(rpc: RpcClient) -> None:
    learner = Learner(rpc, ["x", "a b", "a b c"], "a")
    for _ in range(3):
        learner.step(learner.evaluated(learner.chat()))
    first, second, third = (read_blocks(one["content"], "REJECTED") for one in learner.questions)
    assert (first, third) == ([], [])
    assert read_blocks(second[0], "DATA") == ["x"]
    assert read_blocks(second[0], "SCORE") == ["score 0 on 3 samples, where the current data has 0"]
    assert learner.data == "a b c"


def test_a_step_that_rejects_leaves_no_version_behind(rpc: RpcClient) -> None:
    learner = Learner(rpc, ["x"], "a", momentum=3)
    assert learner.step(learner.evaluated(learner.chat()))["state"] == []


def test_questions_and_graph_are_counted_as_they_are(rpc: RpcClient) -> None:
    learner = Learner(rpc, ["a b c d"], "a")
    learner.step(learner.evaluated(learner.chat()))
    counts = rpc.call("count_questions")["session"]
    assert (counts["forward"]["asked"], counts["optimizer"]["asked"]) == (8, 1)


def test_several_chats_and_texts_on_the_way_are_made_again(rpc: RpcClient) -> None:
    """Prompt, chat, Split, Add, another chat: each sample goes the whole way."""
    learner = Learner(rpc, ["a b"], "a")
    first = learner.chat()
    (part, *_) = rpc.run("Split", first, " ")
    suffix = rpc.variable([" a", " a", " x", " a"], "suffix")
    both = tag(rpc.run("Add", tag(part), suffix))
    messages = [{"role": "system", "content": [learner.prompt]}, {"role": "user", "content": [both]}]
    second = tag(rpc.run("ChatCompletion", learner.lm, messages))
    rpc.set_backward_model(rpc.model(lambda messages: "{" + ", ".join(names_in(messages)) + "}", "backward"))
    learner.step(learner.evaluated(second, ["yes", "yes", "yes", "no"]))
    # Samples 2 and 3 are wrong and stay so: nothing is adopted, and those that are right are not asked.
    assert learner.data == "a"
    assert sorted(learner.forward) == ["Word: c", "Word: d", "no a", "no x"]


def names_in(messages: list[ChatMessage]) -> list[str]:
    found = []
    for sample in read_blocks(messages[1]["content"], "SAMPLE"):
        for variable in read_blocks(sample, "VARIABLE"):
            found.append(f'"{read_blocks(variable, "NAME")[0]}": "be better"')
    return found


def test_a_single_sample_is_tried_too(rpc: RpcClient) -> None:
    learner = Learner(rpc, ["b", "a"], "x")
    learner.step(learner.evaluated(learner.chat("a")))
    assert learner.data == "x"
    learner.step(learner.evaluated(learner.chat("a")))
    assert learner.data == "a"


def test_batches_whose_feedback_was_gathered_are_tried_together(rpc: RpcClient) -> None:
    learner = Learner(rpc, ["a c"], "b")
    rpc.backward(learner.evaluated(learner.chat(["a", "b"])), feedback="records")
    learner.step(learner.evaluated(learner.chat(["c", "d"])))
    assert sorted(learner.forward) == [f"Word: {word}" for word in "abcd"]
    assert learner.data == "a c"


def test_two_parameters_are_tried_together(rpc: RpcClient) -> None:
    learner = Learner(rpc, [], "a")
    other = rpc.variable("b", "other", True, parameter=True)
    model = rpc.model(lambda messages: "<IMPROVED>c d</IMPROVED>", "writer")
    defaults = {"model_client": model, "accept": "batch"}
    made = rpc.call("create_optimizer", optimizer_name="TGD", params=[learner.prompt, other], defaults=defaults)
    learner.optimizer_id = made["optimizer_id"]
    messages = [{"role": "system", "content": [learner.prompt, other]}, {"role": "user", "content": "Word: {word}"}]
    answers = tag(rpc.run("ChatCompletion", learner.lm, messages, {"word": [*WORDS, "c", "d"]}))
    learner.step(learner.evaluated(answers))
    assert (learner.data, rpc.get(other)["data"]) == ("c d", "c d")
    assert len(learner.forward) == 6


def test_scores_of_functions_and_critics_will_do(rpc: RpcClient) -> None:
    learner = Learner(rpc, ["a b c"], "d")
    rpc.set_backward_model(rpc.model(lambda messages: '{"variable_1": "be better"}', "backward"))
    score = rpc.function(lambda prediction, target: 0.5 if prediction == target else -1, "score")
    explanation = rpc.run("DeterministicEvaluator", learner.chat(), "yes", score, "likeness", None, None, None)[1]
    learner.step(tag(explanation), feedback="critic")
    assert learner.data == "a b c"


def test_a_sample_that_cannot_be_answered_any_more_counts_as_wrong(rpc: RpcClient) -> None:
    learner = Learner(rpc, ["a b refused"], "a")
    answer = learner.answer

    def refusing(messages: list[ChatMessage]) -> str:
        if "refused" in messages[0]["content"].split() and messages[-1]["content"] == "Word: a":
            raise ValueError("not this one")
        return answer(messages)

    rpc.functions["model"] = refusing
    (text,) = learner.step(learner.evaluated(learner.chat()))["rejected"]
    assert "score 1 on 4 samples, where the current data has 1" in text


def test_without_an_evaluator_there_is_nothing_to_try_on(rpc: RpcClient) -> None:
    learner = Learner(rpc, ["a"])
    gradient = rpc.variable("Be better.", "feedback")
    rpc.call("append_grad", variable_id=learner.prompt["variable_id"], gradient=gradient)
    with pytest.raises(RpcError, match="nothing to try the new data on"):
        rpc.call("run_step", optimizer_id=learner.optimizer_id)
    assert learner.data == ""


def test_a_function_of_the_client_is_no_way_that_can_be_gone_again(rpc: RpcClient) -> None:
    learner = Learner(rpc, ["a"])
    rpc.set_backward_model(learner.lm)  # asked, as the function passes on nothing but words
    forward = rpc.function(lambda inputs: {"outputs": [{"data": inputs[0], "role": "r"}], "is_list": False}, "forward")
    backward = rpc.function(lambda gradients, wanted: gradients, "backward")
    out = rpc.run("ClientFunction", "Same", forward, backward, [learner.chat()])
    with pytest.raises(RpcError, match="where Same is on the way"):
        learner.step(learner.evaluated(tag(out)))
    assert learner.data == ""


def test_another_setting_is_refused(rpc: RpcClient) -> None:
    with pytest.raises(RpcError, match="`accept` must be 'batch' or null"):
        Learner(rpc, [], accept="always")


def test_without_it_nothing_is_tried_and_the_settings_are_as_ever(rpc: RpcClient) -> None:
    learner = Learner(rpc, ["x"], "a", accept=None)
    learner.step(learner.evaluated(learner.chat()))
    assert (learner.data, learner.forward) == ("x", [])
    lm = rpc.model(lambda messages: "")
    made = rpc.call("create_optimizer", optimizer_name="TGD", params=[learner.prompt], defaults={"model_client": lm})
    assert "accept" not in made["defaults"]
