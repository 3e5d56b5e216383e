"""Thoughts are told from the answer, whatever template a model was trained on."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tellurio_sync.backend.reading.thoughts import CLOSING, Parted, part


@pytest.mark.parametrize(
    ("text", "thoughts", "answer"),
    [
        ("positive", "", "positive"),
        (" as it \nstands\n", "", " as it \nstands\n"),
        ("<think>\nhm\n</think>\n\npositive\n", "hm", "positive"),
        ("<THINK>hm</THINK>positive", "hm", "positive"),
        ("<thinking>a</thinking><thinking>b</thinking>c", "a\n\nb", "c"),
        ("\n<think></think>positive", "", "positive"),
        ("hm, so positive.\n</think>\n\npositive", "hm, so positive.", "positive"),
        ("hm</think>positive", "hm", "positive"),
        ("<think>x <think> y</think>z", "x <think> y", "z"),
        ("[THINK]hm[/THINK]positive", "hm", "positive"),
        ("◁think▷hm◁/think▷positive", "hm", "positive"),
        ("<|START_THINKING|>hm<|END_THINKING|><|START_RESPONSE|>positive", "hm", "positive"),
        (
            "<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>final<|message|>positive",
            "hm",
            "positive",
        ),
        # Thoughts stand at the beginning; what stands behind is the answer's own.
        ("Write <think> and </think> around it.", "", "Write <think> and </think> around it."),
        ("Close it with `</think>`.", "", "Close it with `</think>`."),
        ("<think>hm</think>Then write </think>.", "hm", "Then write </think>."),
    ],
)
def test_thoughts_and_answer(text: str, thoughts: str, answer: str) -> None:
    assert part(text) == Parted(thoughts, answer)


@pytest.mark.parametrize("text", ["<think>First, let me", "<think>a</think><thinking>b", "<think>"])
def test_thoughts_without_end_leave_no_answer(text: str) -> None:
    assert (part(text).answer, part(text).is_open) == ("", True)


@settings(deadline=None, max_examples=50)
@given(st.sampled_from(sorted(CLOSING)), st.text(), st.text())
def test_whatever_is_thought_and_answered_is_told_apart(opening: str, thought: str, answer: str) -> None:
    closing = CLOSING[opening]
    marks = [*CLOSING, *CLOSING.values(), "<|start"]
    if any(mark in text.lower() for mark in marks for text in (thought, answer, closing + answer)[:2]):
        return
    found = part(f"{opening}{thought}{closing}{answer}")
    assert (found.thoughts, found.answer) == (thought.strip(), answer.strip())
