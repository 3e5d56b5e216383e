from __future__ import annotations

import pytest

from tellurio_sync.backend import prompts
from tellurio_sync.backend.prompts import Part, Version, leaf, read_blocks


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", ""),
        ("two\nlines", "two\nlines"),
        ("</DATA>", " </DATA>"),
        ("<DATA>\nx\n</DATA>", " <DATA>\nx\n </DATA>"),
        ("a <DATA> b\n<OTHER>", "a <DATA> b\n<OTHER>"),
        ("<ITEM>x</ITEM>", "<ITEM>x</ITEM>"),
    ],
)
def test_a_leaf_can_be_read_back_whatever_it_holds(text: str, found: str) -> None:
    assert read_blocks(leaf("DATA", text), "DATA") == [found]


@pytest.mark.parametrize(
    ("messages", "first_line"),
    [
        (prompts.critic_messages(Part("r", "p"), "t", "purpose", "0", "why"), prompts.CRITIC),
        (prompts.propagator_messages([], {}, Part("r", "o"), "f", [Part("r", "d", "variable_1")]), prompts.PROPAGATOR),
        (prompts.optimizer_messages(Part("r", "d"), ["f"]), prompts.OPTIMIZER),
    ],
)
def test_the_first_line_tells_the_kind(messages: list[prompts.ChatMessage], first_line: str) -> None:
    assert [message["role"] for message in messages] == ["system", "user"]
    assert messages[0]["content"].splitlines()[0] == first_line


def test_the_optimizer_sees_everything() -> None:
    messages = prompts.optimizer_messages(
        Part("system prompt", "now"),
        ["f1", "f2"],
        [Version("before", ["f0"])],
        {"style": "short"},
        ["Keep it polite."],
    )
    user = messages[1]["content"]
    assert read_blocks(user, "FEEDBACK") == ["f1", "f2", "f0"]
    assert read_blocks(user, "HISTORY") == ["<DATA>\nbefore\n</DATA>\n<FEEDBACK>\nf0\n</FEEDBACK>"]
    assert read_blocks(user, "CONSTRAINT") == ["Keep it polite."]
    assert read_blocks(read_blocks(user, "INPUT")[0], "NAME") == ["style"]
    assert read_blocks(read_blocks(user, "VARIABLE")[0], "DATA") == ["now"]
