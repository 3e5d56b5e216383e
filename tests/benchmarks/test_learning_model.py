"""The scripted model of the benchmark of questions keeps to its rules, and the benchmark still counts."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tellurio_sync.backend import prompts
from tellurio_sync.backend.records import Record
from tellurio_sync.examples.data import SHIPPED_MAILS
from tellurio_sync.examples.facility_support import START_PROMPT
from tellurio_sync.examples.stand_in import read_signs, stand_in

from .learning_model import answer
from .learning_table import task, train

WRONG = 'Mail: A leak again! (end of mail) The answer "neutral" is wrong, "negative" would have been right.'
LESSON = 'These words should speak more for "negative" and less for "neutral": again, leak.'


def asked(text: str, system: str = "You help.") -> tuple[str, str]:
    return answer([{"role": "system", "content": system}, {"role": "user", "content": text}])


def test_the_trained_prompt_is_followed() -> None:
    assert asked("A leak.", START_PROMPT) == ("forward", "neutral")


def test_the_questions_of_the_backend_are_answered_as_the_stand_in_does() -> None:
    record = Record("neutral", target="negative", is_right=False, inputs={"mail": "A leak again!"})
    messages = prompts.optimizer_question(prompts.Part("prompt", START_PROMPT), [], records=[record]).messages
    assert answer(messages) == ("optimizer", stand_in(messages))


def test_of_a_wrong_answer_the_words_of_its_mail_are_the_lesson() -> None:
    assert asked(WRONG) == ("propagator", LESSON)
    assert asked("Nothing is known here.") == ("critic", "There is nothing to say.")


@pytest.mark.parametrize("lesson", [WRONG, LESSON])
@pytest.mark.parametrize("form", ["Send it between <IMPROVED_VARIABLE> and </IMPROVED_VARIABLE>.", "```\nform\n```"])
def test_a_better_prompt_is_made_of_what_stands_in_the_question(lesson: str, form: str) -> None:
    kind, text = asked(f"{form}\n{START_PROMPT}\n{lesson}")
    assert kind == "optimizer"
    assert {"again", "leak"} == set(read_signs(text))
    # And from nothing else.
    assert read_signs(asked(f"{form}\n{START_PROMPT}")[1]) == {}
    again = asked(f"{form}\n{text}\nMail: More mud! (end of mail) " + WRONG.partition(") ")[2])[1]
    assert {"again", "leak", "mud"} <= set(read_signs(again))


@pytest.mark.slow
def test_a_step_of_ten_costs_eleven_questions_at_most() -> None:
    given = task(SHIPPED_MAILS, 0, 1)
    rows = {way: train(way, Path(sys.executable), given, 120) for way in ("records", "critic")}
    samples = sum(map(len, given["batches"]))
    assert rows["records"].questions["forward"] == samples
    assert rows["records"].questions["optimizer"] <= len(given["batches"])
    assert rows["records"].questions["critic"] == rows["records"].questions["propagator"] == 0
    assert rows["critic"].questions["propagator"] > 0
    assert rows["records"].words < rows["critic"].words
    assert rows["records"].best > 0.4
