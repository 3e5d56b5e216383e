"""The scripted language model of these tests: it answers all four kinds of question, and says what it saw."""

from __future__ import annotations

import json

from tellurio_sync.backend.prompts import CRITIC, OPTIMIZER, PROPAGATOR, read_blocks
from tellurio_sync.testing import Failure


def answer(messages: list[dict[str, str]]) -> str | Failure:
    first_line, user = messages[0]["content"].splitlines()[0], messages[-1]["content"]
    if first_line == CRITIC:
        return f"{read_blocks(user, 'DATA')[0]} is not {read_blocks(user, 'TARGET')[0]}"
    if first_line == PROPAGATOR:
        (feedback,) = read_blocks(user, "FEEDBACK")
        parts = read_blocks(user, "VARIABLE")
        return json.dumps({read_blocks(part, "NAME")[0]: f"Mind: {feedback}" for part in parts})
    if first_line == OPTIMIZER:
        # The second message: the last one may be a correction.
        asked = messages[1]["content"]
        (variable,) = read_blocks(asked, "VARIABLE")
        seen = read_blocks(asked, "FEEDBACK")
        if "UNUSABLE" in seen:
            return "no tags"
        number = len(read_blocks(asked, "HISTORY"))
        return f"Here: <IMPROVED>{read_blocks(variable, 'DATA')[0]}, {seen[0]} ({number})</IMPROVED>"
    if first_line.startswith("JUDGE"):
        prediction, _, rest = user.partition(" against ")
        target = rest.split(",")[0]
        return json.dumps({"score": int(prediction == target), "explanation": f"{prediction} for {target}"})
    if "FAIL" in user:
        return Failure(400, "The endpoint was told to refuse sk-test.")
    return user.upper()
