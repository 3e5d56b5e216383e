"""The stand-in works from the text of each call alone: every test gives it text and reads text."""

from __future__ import annotations

import json

import pytest

from tellurio_sync.backend import prompts
from tellurio_sync.backend.prompts import ChatMessage, Part, Version
from tellurio_sync.examples import stand_in as module
from tellurio_sync.examples.stand_in import MAX_RULES, RULES_HEADING, read_rules, stand_in, words, write_rules

PROMPT = "Tell the sentiment. When in doubt, answer neutral."
WITH_RULES = f"""{PROMPT}

{RULES_HEADING}
- "please": neutral +2, positive -2
- "great": positive +2, negative -1
- "leak": negative +1"""


def classified(prompt: str, message: str) -> str:
    return stand_in([{"role": "system", "content": prompt}, {"role": "user", "content": message}])


def propagated(
    message: str, feedback: str, names: tuple[str, ...] = ("variable_1",), prompt: str = PROMPT
) -> dict[str, str]:
    conversation = [{"role": "system", "content": prompt}, {"role": "user", "content": message}]
    variables = [Part("system prompt", prompt, name) for name in names]
    output = Part("response", "neutral")
    answer = stand_in(prompts.propagator_messages(conversation, {"message": message}, output, feedback, variables))
    result: dict[str, str] = json.loads(answer)
    return result


def improved(messages: list[ChatMessage]) -> str:
    (prompt,) = prompts.read_blocks(stand_in(messages), prompts.IMPROVED)
    return prompt


def lesson(better: str, worse: str, seen: str) -> str:
    return f'Some feedback. These words should speak more for "{better}" and less for "{worse}": {seen}.'


@pytest.mark.parametrize("name", ["CRITIC", "PROPAGATOR", "OPTIMIZER", "IMPROVED"])
def test_its_constants_are_those_of_the_backend(name: str) -> None:
    assert getattr(module, name) == getattr(prompts, name)


def test_it_reads_blocks_as_the_backend_writes_them() -> None:
    tags = prompts.Tags([])
    text = tags.group("PREDICTION", tags.leaf("ROLE", "answer"), tags.leaf("DATA", "a <DATA> b\n\nc"))
    for tag in ("PREDICTION", "ROLE", "DATA", "TARGET"):
        assert module.read_blocks(text, tag) == prompts.read_blocks(text, tag)


# --- classifier ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompt", "message", "answer"),
    [
        (PROMPT, "What a great day!", "neutral"),
        ("When in doubt, answer positive.", "A leak.", "positive"),
        ("Tell the sentiment.", "A leak.", "unknown"),
        (WITH_RULES, "What a GREAT day!", "positive"),
        (WITH_RULES, "Great, great, great. Please look.", "neutral"),  # a word counts once: 2 to 0
        (WITH_RULES, "A leak", "negative"),
        (WITH_RULES, "Great work on the leak", "positive"),
        (WITH_RULES, "Greatest", "neutral"),
        (WITH_RULES, "", "neutral"),
        (f'{PROMPT}\n- "bad": negative +1, positive +1', "bad", "negative"),  # a draw without the answer for doubt
        (f'{PROMPT}\n- "bad": negative +0', "bad", "neutral"),
    ],
)
def test_the_classifier_follows_the_rules_in_the_prompt(prompt: str, message: str, answer: str) -> None:
    assert classified(prompt, message) == answer


# --- critic -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prediction", "target", "feedback"),
    [
        ("neutral", "negative", 'The answer "neutral" is wrong, "negative" would have been right.'),
        ("neutral", "neutral", 'The answer "neutral" is right.'),
        ("neutral", None, 'The answer "neutral" is right.'),
    ],
)
def test_the_critic_names_prediction_and_target(prediction: str, target: str | None, feedback: str) -> None:
    request = prompts.critic_messages(Part("response", prediction), target, "exact match", "0", "It was compared.")
    assert stand_in(request) == feedback


# --- propagator ---------------------------------------------------------------------------------


def test_the_propagator_adds_the_words_of_the_message_to_a_mistake() -> None:
    mistake = 'The answer "neutral" is wrong, "negative" would have been right.'
    more = 'These words should speak more for "negative" and less for "neutral": again, data, leak.'
    assert propagated("The leak, again:\n<DATA>\nA leak!", mistake) == {"variable_1": f"{mistake} {more}"}
    assert propagated("!", mistake) == {"variable_1": mistake}


def test_the_propagator_asks_for_more_where_a_right_answer_won_narrowly() -> None:
    praise = 'The answer "positive" is right.'
    narrow = propagated("A great leak", praise, prompt=WITH_RULES)["variable_1"]
    assert narrow == f'{praise} These words should speak more for "positive" and less for "neutral": great, leak.'
    sure = WITH_RULES.replace("+2", f"+{module.NARROW}")
    assert propagated("A great leak", praise, prompt=sure)["variable_1"] == praise


def test_the_propagator_passes_praise_on_to_every_variable() -> None:
    praise = 'The answer "neutral" is right.'
    assert propagated("A leak", praise, ("variable_1", "variable_2")) == {"variable_1": praise, "variable_2": praise}


# --- optimizer ----------------------------------------------------------------------------------


def test_the_optimizer_moves_points_from_the_wrong_answer_to_the_right_one() -> None:
    feedback = "".join(
        f"<ITEM>{item}</ITEM>"
        for item in (
            lesson("negative", "neutral", "leak, water"),
            'The answer "neutral" is right.',
            lesson("negative", "positive", "great, leak"),
        )
    )
    prompt = improved(prompts.optimizer_question(Part("system prompt", WITH_RULES), [feedback]).messages)
    assert prompt.startswith(f"{PROMPT}\n\n{RULES_HEADING}\n")
    rules = {word: {a: n for a, n in points.items() if n} for word, points in read_rules(prompt).items()}
    assert rules == {
        "leak": {"negative": 3, "neutral": -1, "positive": -1},
        "water": {"negative": 1, "neutral": -1},
        "great": {"positive": 1},
        "please": {"neutral": 2, "positive": -2},
    }


def test_the_optimizer_reads_every_feedback_and_no_earlier_one() -> None:
    request = prompts.optimizer_question(
        Part("system prompt", PROMPT),
        [lesson("negative", "neutral", "leak"), lesson("positive", "neutral", "great")],
        [Version(WITH_RULES, [lesson("negative", "neutral", "ancient")])],
        constraints=["Stay short."],
    ).messages
    assert set(read_rules(improved(request))) == {"leak", "great"}


@pytest.mark.parametrize("feedback", ["", 'The answer "neutral" is right.', "Be more polite."])
def test_the_optimizer_leaves_a_prompt_alone_that_made_no_mistake(feedback: str) -> None:
    for prompt in (PROMPT, WITH_RULES):
        assert improved(prompts.optimizer_question(Part("system prompt", prompt), [feedback]).messages) == prompt


def test_what_it_learns_changes_its_answer() -> None:
    message = "Nobody came about the leak"
    feedback = propagated(message, 'The answer "neutral" is wrong, "negative" would have been right.')["variable_1"]
    prompt = improved(prompts.optimizer_question(Part("system prompt", PROMPT), [feedback]).messages)
    assert classified(PROMPT, message) == "neutral"
    assert classified(prompt, message) == "negative"


def test_the_strongest_rules_stay() -> None:
    rules = {f"word{i:04d}": module.Counter(positive=i + 1) for i in range(MAX_RULES + 50)}
    kept = list(read_rules(write_rules(PROMPT, rules)))
    assert kept == [f"word{i:04d}" for i in range(MAX_RULES + 49, 49, -1)]


def test_rules_without_points_are_not_written() -> None:
    assert write_rules(WITH_RULES, {"great": module.Counter(positive=0)}) == PROMPT


def test_rules_read_back_as_they_were_written() -> None:
    rules = read_rules(WITH_RULES)
    assert rules["please"] == {"neutral": 2, "positive": -2}
    assert read_rules(write_rules(WITH_RULES, rules)) == rules


def test_words_are_lower_case_long_enough_and_not_too_common() -> None:
    assert words("I DON’T think the 3 lifts are OK, don't you? Café") == {"don't", "think", "lifts", "caf"}
