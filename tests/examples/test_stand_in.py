"""The stand-in works from the text of each call alone: every test gives it text and reads text."""

from __future__ import annotations

import json

import pytest

from tellurio_sync.backend import prompts
from tellurio_sync.backend.prompts import ChatMessage, Part, Version
from tellurio_sync.backend.records import Record
from tellurio_sync.examples import stand_in as module
from tellurio_sync.examples.stand_in import GUIDANCE, MOST_SIGNS, Sign, read_signs, stand_in, words, write_signs

PROMPT = "Tell the sentiment. When in doubt, answer neutral."
WITH_SIGNS = "\n".join(
    [
        f"{PROMPT}\n\n{GUIDANCE}",
        '- negative: weak signs "leak"',
        '- neutral: clear signs "please"; weak signs "look"',
        '- positive: signs "great"; weak signs "work"',
    ]
)


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
        (WITH_SIGNS, "What a GREAT day!", "positive"),
        (WITH_SIGNS, "Great, great, great. Please come.", "neutral"),  # a word counts once: 2 to 3
        (WITH_SIGNS, "A leak", "negative"),
        (WITH_SIGNS, "Great work on the leak", "positive"),
        (WITH_SIGNS, "Please, great work", "neutral"),  # a draw with the answer for doubt
        (WITH_SIGNS, "The work on the leak", "neutral"),  # a draw of two others
        (WITH_SIGNS, "Greatest", "neutral"),
        (WITH_SIGNS, "", "neutral"),
        (f'{PROMPT}\n- a note: "leak" is a word', "A leak", "neutral"),  # no line of signs
    ],
)
def test_the_classifier_follows_the_signs_in_the_prompt(prompt: str, message: str, answer: str) -> None:
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
    narrow = propagated("A great leak", praise, prompt=WITH_SIGNS)["variable_1"]
    assert narrow == f'{praise} These words should speak more for "positive" and less for "negative": great, leak.'
    sure = WITH_SIGNS.replace('"great"', ", ".join(f'"great{letter}"' for letter in "abcd"))
    message = "greata greatb greatc greatd"
    assert module.NARROW == 8
    assert propagated(message, praise, prompt=sure)["variable_1"] == praise
    assert propagated(f"{message} leak", praise, prompt=sure)["variable_1"] != praise


def test_the_propagator_passes_praise_on_to_every_variable() -> None:
    praise = 'The answer "neutral" is right.'
    assert propagated("A leak", praise, ("variable_1", "variable_2")) == {"variable_1": praise, "variable_2": praise}


# --- optimizer ----------------------------------------------------------------------------------


def test_the_optimizer_moves_words_from_the_wrong_answer_to_the_right_one() -> None:
    feedback = "".join(
        f"<ITEM>{item}</ITEM>"
        for item in (
            lesson("negative", "neutral", "leak, water, please"),
            'The answer "neutral" is right.',
            lesson("negative", "positive", "great, leak, work"),
            lesson("negative", "positive", "water"),
        )
    )
    prompt = improved(prompts.optimizer_question(Part("system prompt", WITH_SIGNS), [feedback]).messages)
    assert prompt.startswith(f"{PROMPT}\n\n{GUIDANCE}\n")
    assert read_signs(prompt) == {
        "leak": Sign("negative", 3),  # 1 and two votes
        "water": Sign("negative", 2),
        "please": Sign("neutral", 2),  # 3 less one
        "look": Sign("neutral", 1),
        "great": Sign("negative", 1),  # as many votes for either: the new one
        "work": Sign("negative", 1),  # none left for positive, one for negative
    }


@pytest.mark.parametrize(
    ("lessons", "left"),
    [
        ([("negative", "neutral")] * 9, Sign("negative", 3)),  # not more than three
        ([("positive", "negative")], Sign("positive", 1)),
        ([("positive", "neutral"), ("neutral", "positive")], None),  # it tells nothing
        ([("negative", "positive"), ("neutral", "positive")], None),
    ],
)
def test_what_lessons_make_of_a_word(lessons: list[tuple[str, str]], left: Sign | None) -> None:
    signs = module.heeded(read_signs(WITH_SIGNS), [module.Lesson(*answers, ["leak"]) for answers in lessons])
    assert signs.pop("leak", None) == left
    assert signs == {word: sign for word, sign in read_signs(WITH_SIGNS).items() if word != "leak"}


def test_a_word_that_tells_nothing_is_weakened_first() -> None:
    mixed = [module.Lesson("negative", "neutral", ["please"]), module.Lesson("positive", "neutral", ["please", "new"])]
    signs = module.heeded(read_signs(WITH_SIGNS), mixed)
    assert signs["please"] == Sign("neutral", 2)
    assert signs["new"] == Sign("positive", 1)


def test_the_optimizer_reads_every_feedback_and_no_earlier_one() -> None:
    request = prompts.optimizer_question(
        Part("system prompt", PROMPT),
        [lesson("negative", "neutral", "leak"), lesson("positive", "neutral", "great")],
        [Version(WITH_SIGNS, [lesson("negative", "neutral", "ancient")])],
        constraints=["Stay short."],
    ).messages
    assert set(read_signs(improved(request))) == {"leak", "great"}


def test_the_optimizer_learns_from_right_samples_however_sure_they_are() -> None:
    """A word in them speaks for their answer, or tells nothing, if it stands in a sample of another answer, too."""
    prompt = WITH_SIGNS.replace('"great"', ", ".join(f'"great{letter}"' for letter in "abcde"))
    right = "greata greatb greatc greatd greate office"
    assert module._close_rival(prompt, right) is None
    records = [
        Record("neutral", target="negative", is_right=False, inputs={"message": "The office floods: please look"}),
        Record("positive", target="positive", is_right=True, inputs={"message": right}),
    ]
    question = prompts.optimizer_question(Part("system prompt", prompt), [], records=records)
    signs = read_signs(improved(question.messages))
    assert "office" not in signs
    assert signs["greata"] == Sign("positive", 3)
    assert signs["floods"] == Sign("negative", 1)
    assert signs["please"] == Sign("neutral", 2)


@pytest.mark.parametrize("feedback", ["", 'The answer "neutral" is right.', "Be more polite."])
def test_the_optimizer_leaves_a_prompt_alone_that_made_no_mistake(feedback: str) -> None:
    for prompt in (PROMPT, WITH_SIGNS):
        assert improved(prompts.optimizer_question(Part("system prompt", prompt), [feedback]).messages) == prompt


def test_what_it_learns_changes_its_answer() -> None:
    message = "Nobody came about the leak"
    feedback = propagated(message, 'The answer "neutral" is wrong, "negative" would have been right.')["variable_1"]
    prompt = improved(prompts.optimizer_question(Part("system prompt", PROMPT), [feedback]).messages)
    assert classified(PROMPT, message) == "neutral"
    assert classified(prompt, message) == "negative"


def test_the_strongest_signs_of_each_answer_stay() -> None:
    signs = {f"{answer}{i:02d}": Sign(answer, 1 + i % 3) for answer in ("good", "bad") for i in range(MOST_SIGNS + 10)}
    kept = read_signs(write_signs(PROMPT, signs))
    for answer in ("good", "bad"):
        weights = [sign.weight for sign in kept.values() if sign.answer == answer]
        assert weights == [3] * 10 + [2] * 10


def test_the_words_of_an_answer_are_one_line() -> None:
    prompt = write_signs(WITH_SIGNS, {"b": Sign("x", 1), "a": Sign("x", 1), "c": Sign("x", 3)})
    assert prompt == f'{PROMPT}\n\n{GUIDANCE}\n- x: clear signs "c"; weak signs "a", "b"'


def test_without_signs_nothing_is_written() -> None:
    assert write_signs(WITH_SIGNS, {}) == PROMPT


def test_signs_read_back_as_they_were_written() -> None:
    signs = read_signs(WITH_SIGNS)
    assert signs["please"] == Sign("neutral", 3)
    assert read_signs(write_signs(WITH_SIGNS, signs)) == signs


def test_words_are_lower_case_long_enough_and_not_too_common() -> None:
    assert words("I DON’T think the 3 lifts are OK, don't you? Café") == {"don't", "think", "lifts", "caf"}
