"""Mails as a user has them: long, with subject, greeting and signature, and with more labels than the demo reads."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from tellurio_sync.examples.data import load_mails

SUBJECTS = ("Request about our building", "Follow-up on your visit", "Note on the services at our site", "Our contract")
OPENINGS = (
    "I hope this message finds you well. My name is [Sender], and I am responsible for the offices on the third floor. "
    "We have been customers of yours for several years.",
    "I am writing to you on behalf of the residents of our house. We have used your services since the beginning of "
    "last year, for cleaning as well as for maintenance.",
    "My name is [Sender], and I work in the administration of a small company. Your team has looked after our rooms "
    "for some time now.",
)
CLOSINGS = (
    "Our rooms can be reached through the main entrance on working days. If you have questions about the details, "
    "you can reach me by phone in the mornings, or by mail at any time.",
    "The keys are with the caretaker, who is there until six in the evening. I have attached the plan of the floor "
    "and the number of our contract to this message.",
    "Somebody will be there during the usual hours. I have put my colleague in copy, who knows the building and "
    "can show your people the way.",
)
TEXT = """Subject: {subject}

Dear Support Team,

{opening}

{mail}

{closing}

Regards,
[Sender]"""


@pytest.fixture
def long_mails(tmp_path: Path) -> Path:
    """A file of them, made of the shipped mails."""
    rng = random.Random(0)
    entries = []
    for mail in load_mails():
        subject, opening, closing = rng.choice(SUBJECTS), rng.choice(OPENINGS), rng.choice(CLOSINGS)
        text = TEXT.format(subject=subject, opening=opening, mail=mail.text, closing=closing)
        labels = {"urgency": rng.choice(["low", "high"]), "sentiment": mail.sentiment, "categories": {"cleaning": True}}
        entries.append({"fields": {"input": text}, "answer": json.dumps(labels)})
    file = tmp_path / "long_mails.json"
    file.write_text(json.dumps(entries), encoding="utf-8")
    return file
