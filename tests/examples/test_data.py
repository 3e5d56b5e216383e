from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tellurio_sync.examples.data import SENTIMENTS, SHIPPED_MAILS, Mail, load_mails, shuffled_batches, split_mails


def entry(text: Any = "Hello", answer: Any = '{"sentiment": "neutral"}') -> dict[str, Any]:
    return {"fields": {"input": text}, "answer": answer}


def written(path: Path, content: Any) -> Path:
    file = path / "mails.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return file


def test_the_shipped_mails_are_short_distinct_and_of_every_sentiment() -> None:
    mails = load_mails()
    assert len({mail.text for mail in mails}) == len(mails) >= 80
    assert max(len(mail.text) for mail in mails) < 400
    assert all(count >= 20 for count in Counter(mail.sentiment for mail in mails).values())
    assert {mail.sentiment for mail in mails} == set(SENTIMENTS)


def test_long_mails_with_further_labels_are_read(long_mails: Path) -> None:
    mails = load_mails(long_mails)
    assert [mail.sentiment for mail in mails] == [mail.sentiment for mail in load_mails()]
    assert min(len(mail.text) for mail in mails) > 400


def test_further_members_of_an_answer_are_ignored(tmp_path: Path) -> None:
    answer = json.dumps({"sentiment": "positive", "urgency": "high", "categories": {}})
    assert load_mails(written(tmp_path, [entry("Hi", answer)])) == [Mail("Hi", "positive")]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{oops", "is not a JSON file"),
        ("", "is not a JSON file"),
        ({"mails": []}, "must hold a JSON list"),
        ([], "at least one entry"),
        ([entry(), "text"], 'entry 2 of 2: expected the text of the mail at ["fields"]["input"]'),
        ([{"answer": "{}"}], 'entry 1 of 1: expected the text of the mail at ["fields"]["input"]'),
        ([{"fields": "Hello"}], "expected the text of the mail"),
        ([entry(text=7)], "expected the text of the mail"),
        ([entry(text=" \n")], "not empty"),
        ([{"fields": {"input": "Hello"}}], 'expected "answer" to be a string of JSON'),
        ([entry(answer="neutral")], 'expected "answer" to be a string of JSON'),
        ([entry(answer={"sentiment": "neutral"})], 'expected "answer" to be a string of JSON'),
        ([entry(answer='["neutral"]')], "one of neutral, positive, negative, not None"),
        ([entry(answer='{"urgency": "low"}')], "one of neutral, positive, negative, not None"),
        ([entry(), entry(answer='{"sentiment": "Neutral"}')], 'entry 2 of 2: expected the "sentiment"'),
        ([entry(answer='{"sentiment": ["neutral"]}')], "not ['neutral']"),
    ],
)
def test_a_wrong_file_gets_an_error_that_names_file_entry_and_form(tmp_path: Path, content: Any, said: str) -> None:
    file = written(tmp_path, content)
    with pytest.raises(ValueError) as caught:
        load_mails(file)
    assert str(caught.value).startswith(str(file))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_utf_8_gets_a_clear_error(tmp_path: Path) -> None:
    file = tmp_path / "mails.json"
    file.write_bytes(b'["\xff"]')
    with pytest.raises(ValueError, match="is not a JSON file"):
        load_mails(file)


def test_a_missing_file_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load_mails(tmp_path / "nowhere.json")


def test_a_split_is_complete_disjoint_and_keeps_the_shares() -> None:
    mails = load_mails()
    split = split_mails(mails, seed=3)
    assert sorted(mail.text for part in split for mail in part) == sorted(mail.text for mail in mails)
    for sentiment in SENTIMENTS:
        overall = sum(mail.sentiment == sentiment for mail in mails) / len(mails)
        for part in split:
            share = sum(mail.sentiment == sentiment for mail in part) / len(part)
            assert share == pytest.approx(overall, abs=0.05)
    assert len(split.train) > len(split.test) > len(split.validation)


def test_a_split_depends_on_the_seed_alone() -> None:
    mails = load_mails()
    assert split_mails(mails, 1) == split_mails(mails, 1)
    assert split_mails(mails, 1).test != split_mails(mails, 2).test


def test_three_mails_of_a_sentiment_are_enough_and_two_are_not() -> None:
    mails = [Mail(f"{sentiment} {i}", sentiment) for sentiment in SENTIMENTS for i in range(3)]
    assert [len(part) for part in split_mails(mails, 0)] == [3, 3, 3]
    with pytest.raises(ValueError, match=r"three negative mails .* got 2"):
        split_mails(mails[:-1], 0)


def test_batches_hold_every_mail_once_in_an_order_of_their_own() -> None:
    mails = load_mails()
    rng = random.Random(0)
    first, second = (list(shuffled_batches(mails, 20, rng)) for _ in range(2))
    assert [len(batch) for batch in first] == [20, 20, 20, 20, 10]
    assert sorted(mail.text for batch in first for mail in batch) == sorted(mail.text for mail in mails)
    assert first != second


def test_a_file_from_windows_is_read(tmp_path):
    path = tmp_path / "mails.json"
    path.write_bytes(b"\xef\xbb\xbf" + SHIPPED_MAILS.read_bytes())
    assert load_mails(path) == load_mails()
