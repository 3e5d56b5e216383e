"""No answer stops a reader: degenerate ones, up to hundreds of thousands of characters, are read or refused at once.

A reader that went back over what it has read would take hours for some of these; ``in_thread`` finds that.
"""

from __future__ import annotations

import pytest

from tellurio_sync.backend.reading.answers import BadAnswer, placeholders, read_feedback, read_improved, read_judgement
from tellurio_sync.backend.reading.completion import read_completion
from tellurio_sync.backend.reading.loose_json import objects
from tellurio_sync.backend.reading.thoughts import part
from tests.conftest import in_thread

SIZE = 10_000
FLOODS = [
    "```json" + "\n" * SIZE + "{",
    "{" * SIZE,
    '{"a":' * SIZE,
    '{"a' * SIZE,
    '{"a": "' * SIZE,
    "{'a': '" * SIZE,
    '{"a": [' * SIZE,
    '{"a": "' + "\\" * SIZE,
    '{"a": "' + "\\u" * SIZE,
    '{"a": "' + '"x' * SIZE,
    '{"a": "' + '"' + " " * 39 + "x" * SIZE,
    '{"a": ' + "9" * SIZE,
    '{"a": ' + "/*" * SIZE,
    '{"a": ' + "//\n" * SIZE,
    "{ " * SIZE + '"a"',
    '{"a": 1, ' * SIZE,
    "<think>" * SIZE,
    "</think>" * SIZE + "{",
    "<think></think>" * SIZE + "{}",
    "<think>" + "</think" * SIZE,
    "<IMPROVED>" * SIZE,
    "</IMPROVED>" * SIZE,
    "<IMPROVED></IMPROVED>" * SIZE,
    "<IMPROVED>" + "```\n" * SIZE + "</IMPROVED>",
    "<IMPROVED>" + "{a" * SIZE + "</IMPROVED>",
    "<" * SIZE,
    " " * SIZE + "x",
    "◁think▷" * SIZE,
]


def read_all(answer: str) -> None:
    part(answer)
    objects(answer)
    objects(answer, inner_quotes=True)
    placeholders(answer)
    read_completion(200, "", answer.encode())
    read_completion(500, "text/html", answer.encode())
    for read in (read_feedback(["a"]), read_judgement, read_improved("old {x}")):
        try:
            read(answer)
        except BadAnswer:
            continue


@pytest.mark.parametrize("flood", FLOODS, ids=range(len(FLOODS)))
def test_a_flood_is_read_to_its_end(flood: str) -> None:
    in_thread(read_all, flood)
