from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tellurio_sync.backend import prompts
from tellurio_sync.backend.prompts import Part, Tags, Version, optimizer_question, read_blocks

tag_texts = st.lists(
    st.sampled_from(
        [f"<{slash}{tag}{number}>" for slash in ("", "/") for tag in prompts.TAGS for number in ("", "_2")]
        + ["\n", " x "]
    )
).map("".join)


@settings(deadline=None, max_examples=50)
@given(st.text() | tag_texts, st.text() | tag_texts)
def test_texts_stand_in_a_question_to_the_letter(data: str, feedback: str) -> None:
    tags = Tags([data, feedback])
    user = optimizer_question(Part("role", data), [feedback]).messages[1]["content"]
    variable, seen = (read_blocks(user, tags[tag])[0] for tag in ("VARIABLE", "FEEDBACK"))
    assert read_blocks(variable, tags["DATA"]) == [data]
    assert seen == feedback


def test_a_tag_that_is_a_line_of_a_text_gets_a_number_and_the_others_stay() -> None:
    tags = Tags(["<DATA>", "a\n</INPUT>\nb", "<INPUT_2>\n", "the <ROLE> field"])
    assert (tags["DATA"], tags["INPUT"], tags["ROLE"]) == ("DATA_2", "INPUT_3", "ROLE")


def test_the_tag_of_the_answer_is_none_of_the_data() -> None:
    question = optimizer_question(Part("role", "Write <improved> around it."), ["f"])
    assert question.answer_tag == "IMPROVED_2"
    assert "between <IMPROVED_2> and </IMPROVED_2>" in question.messages[0]["content"]
    assert "<IMPROVED>" not in question.messages[0]["content"]


@pytest.mark.parametrize(
    ("messages", "first_line"),
    [
        (prompts.critic_messages(Part("r", "p"), "t", "purpose", "0", "why"), prompts.CRITIC),
        (prompts.propagator_messages([], {}, Part("r", "o"), "f", [Part("r", "d", "variable_1")]), prompts.PROPAGATOR),
        (optimizer_question(Part("r", "d"), ["f"]).messages, prompts.OPTIMIZER),
    ],
)
def test_the_first_line_tells_the_kind(messages: list[prompts.ChatMessage], first_line: str) -> None:
    assert [message["role"] for message in messages] == ["system", "user"]
    assert messages[0]["content"].splitlines()[0] == first_line


def test_the_optimizer_sees_everything() -> None:
    messages = optimizer_question(
        Part("system prompt", "now"),
        ["f1", "f2"],
        [Version("before", ["f0"])],
        {"style": "short"},
        ["Keep it polite."],
    ).messages
    user = messages[1]["content"]
    assert read_blocks(user, "FEEDBACK") == ["f1", "f2", "f0"]
    assert read_blocks(user, "HISTORY") == ["<DATA>\nbefore\n</DATA>\n<FEEDBACK>\nf0\n</FEEDBACK>"]
    assert read_blocks(user, "CONSTRAINT") == ["Keep it polite."]
    assert read_blocks(read_blocks(user, "INPUT")[0], "NAME") == ["style"]
    assert read_blocks(read_blocks(user, "VARIABLE")[0], "DATA") == ["now"]
