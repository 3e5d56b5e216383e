"""The story of a prompt and the samples, as a browser without script gets them."""

from __future__ import annotations

import ast
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tellurio_sync as te
from tellurio_sync.backend.page.words import compare, only_new
from tellurio_sync.backend.passes import PASSES_PER_RUN

from .conftest import RunningBackend
from .watched_run import Browser, WatchedRun, links_of


@pytest.fixture
def browser(backend: RunningBackend) -> Iterator[Browser]:
    with Browser(backend) as browser:
        yield browser


class Trained(WatchedRun):
    """A run whose prompt went through three versions: the second mended one sample, the third broke one.

    The model answers a word in capitals if the prompt names it.
    """

    def __init__(self, backend: RunningBackend) -> None:
        super().__init__(backend, name="calm_river_1")
        self.prompt = self.parameter("Shout: yes no", "system prompt")

        def model(messages: list[dict[str, str]]) -> str:
            word = messages[-1]["content"]
            return word.upper() if word in messages[0]["content"] else word

        self._lm = self.rpc.model(model, "answering")
        user = self.rpc.variable("{word}", "user prompt")
        self._chat = [{"role": "system", "content": [self.prompt]}, {"role": "user", "content": [user]}]
        for text in ("", "Shout: yes no maybe", "Shout: yes maybe"):
            if text:
                self.step(self.prompt, text)
            right = self.evaluate()
            self.log("accuracy", right / 3)

    def evaluate(self) -> int:
        words = ["yes", "no", "maybe"]
        output = self.rpc.run("ChatCompletion", self._lm, self._chat, {"word": words})
        tag = {"__variable__": True, "variable_id": output["variable_id"]}
        score, _ = self.rpc.run("ExactMatchEvaluator", tag, [word.upper() for word in words])
        return int(score["data"])


@pytest.fixture
def run(backend: RunningBackend) -> Iterator[Trained]:
    run = Trained(backend)
    yield run
    run.close()


def plain(html: str) -> str:
    """What is read, without tags."""
    return re.sub(r"\s+", " ", re.sub("<[^>]*>", "", html))


def part(page: str, name: str) -> str:
    """One part of a page, without those that follow."""
    return page.split(f'data-part="{name}"')[1].split("data-part")[0].split("<footer>")[0]


def test_the_newest_version_with_what_changed_why_and_what_came_of_it(browser: Browser, run: Trained) -> None:
    page = browser.look(f"{run.path}prompts/1/").text
    shown = part(page, "version")
    assert "Version 3" in shown
    assert "Shout: yes <del>no </del>maybe" in shown
    text = plain(shown)
    assert "The feedback that led to it Do better." in text
    assert "score 1 → 0.66667 (mean of 3 evaluated answers, before of 3)" in text
    assert "made by an optimizer in step 2" in text
    assert "What it broke 1 no v2: “NO” (1) → v3: “no” (0)" in text
    assert "What it mended 0" in text
    assert "perhaps" not in text
    assert [plain(chip).strip() for chip in re.findall("<li>.*?</li>", part(page, "versions"))] == [
        "v1",
        "v2 step 1",
        "v3 step 2",
    ]
    assert "accuracy1 step 10.66667 step 2" in text.replace("accuracy 1", "accuracy1")


def test_each_version_can_be_looked_at(browser: Browser, run: Trained) -> None:
    text = plain(part(browser.look(f"{run.path}prompts/1/?version=2").text, "version"))
    assert "score 0.66667 → 1" in text
    assert "What it mended 1 maybe v1: “maybe” (0) → v2: “MAYBE” (1)" in text
    first = plain(part(browser.look(f"{run.path}prompts/1/?version=1").text, "version"))
    assert "as it began" in first
    assert "feedback that led" not in first


def test_any_two_versions_are_compared(browser: Browser, run: Trained) -> None:
    page = browser.look(f"{run.path}prompts/1/?version=3&against=1").text
    assert "What changed since version 1" in page
    assert "Shout: yes <del>no</del><ins>maybe</ins>" in page
    # What is no version is no reason for an error.
    for query in ("version=99", "version=x", "against=0", "version=-1&against=1e9", "metric=none"):
        assert browser.look(f"{run.path}prompts/1/?{query}").status_code == 200


def test_versions_are_marks_on_the_curve(browser: Browser, run: Trained) -> None:
    for path in (run.path, f"{run.path}prompts/1/?version=2"):
        page = browser.look(path).text
        (plot,) = [json.loads(found) for found in re.findall('<script type="application/json">(.*?)</script>', page)]
        (marks,) = [json.loads(found) for found in re.findall('id="marks">(.*?)</script>', page)]
        assert plot["runs"][0]["marks"] == [0.5, 1.5]
        assert [(mark["label"], mark["v"]) for mark in marks] == [("v2", 2), ("v3", 3)]
        assert urljoin(path, marks[0]["href"]) == f"{run.path}prompts/1/?version=2"
        # The other axes come when they are asked for.
        line = browser.look(f"{run.path}series.json?metric=accuracy").json()["runs"][0]
        assert line.keys() == {"label", "y", "marks"}
        assert line["marks"] == [0.5, 1.5]
        for axis in "tv":
            line |= browser.look(f"{run.path}series.json?metric=accuracy&axis={axis}").json()["runs"][0]
        assert [int(at) for at in line["v"]] == [1, 2, 3], "each value belongs to one version"
        assert len(line["t"]) == 3
        assert line["t"] == sorted(line["t"])
        assert abs(line["t"][0] - time.time()) < 600, "seconds since 1970"
    assert [mark["isHere"] for mark in marks] == [True, False]


@pytest.mark.parametrize("path", ["prompts/0/", "prompts/2/", "prompts/x/", "samples/999/", "samples/x/"])
def test_what_there_is_not(browser: Browser, run: Trained, path: str) -> None:
    assert browser.look(run.path + path).status_code == 404


def test_a_sample_that_was_not_asked_under_just_these_versions_is_told_apart(browser: Browser, run: Trained) -> None:
    run.step(run.prompt, "Shout: maybe")
    run.step(run.prompt, "Shout: no maybe")
    run.evaluate()
    text = plain(part(browser.look(f"{run.path}prompts/1/?version=5").text, "version"))
    assert "made by an optimizer in step 4" in text
    assert "What it broke 0" in text
    assert "What it mended 0" in text
    # Under version 3 and version 5 they were asked, under version 4 they were not.
    assert "1 perhaps: not evaluated just before and after yes v3: “YES” (1) → v5: “yes” (0)" in text
    assert "1 perhaps: not evaluated just before and after no v3: “no” (0) → v5: “NO” (1)" in text


def test_the_best_value_names_the_version_that_it_came_with(browser: Browser, run: Trained) -> None:
    for value in (0.9, 0.4, 0.6):
        run.log("loss", value)
    answer = browser.look(run.path)
    page = answer.text
    assert "highest 1 at step 1, with v2" in plain(part(page, "metric accuracy"))
    assert "lowest 0.4 at step 1, with v3" in plain(part(page, "metric loss"))
    assert '?version=2">v2</a>' in part(page, "metric accuracy")
    assert f"{run.path}prompts/1/?version=2" in links_of(answer)


# --- to take away ---------------------------------------------------------------------------------


def test_a_version_is_exported(browser: Browser, run: Trained, tmp_path: Path) -> None:
    versions = f"{run.path}prompts/1/versions/"
    text = browser.look(f"{versions}2.txt")
    assert text.text == "Shout: yes no maybe"
    assert text.headers["Content-Disposition"] == 'attachment; filename="system_prompt_v2.txt"'
    markdown = browser.look(f"{versions}2.md").text
    assert markdown == (
        "# system prompt, version 2\n\n```text\nShout: yes no maybe\n```\n\n## Feedback\n\n> Do better.\n"
    )
    exported = browser.look(f"{versions}2.json").json()
    assert (exported["format"], exported["data"]) == ("tellurio parameter", "Shout: yes no maybe")
    (tmp_path / "prompt.json").write_text(browser.look(f"{versions}2.json").text, encoding="utf-8")
    loaded = te.load(tmp_path / "prompt.json")
    assert type(loaded) is te.Parameter
    assert (loaded.data, loaded.role, loaded.requires_grad) == ("Shout: yes no maybe", "system prompt", True)
    for missing in ("9.txt", "2.exe", "x.txt"):
        assert browser.look(versions + missing).status_code == 404


@pytest.mark.parametrize("data", ["one line", "two\nlines 'and' \"quotes\"\n", "", 0.5, ["a", None], "half \ud83d"])
def test_the_lines_that_restore_a_version_do_that(browser: Browser, backend: RunningBackend, data: Any) -> None:
    run = WatchedRun(backend)
    run.parameter(data, "what it is for")
    page = browser.look(f"{run.path}prompts/1/").text
    run.close()
    lines = re.search('id="restore">(.*?)</pre>', page, re.DOTALL)
    assert lines is not None
    code = lines[1].replace("&#39;", "'").replace("&#34;", '"')
    (assignment,) = ast.parse(code).body
    assert isinstance(assignment, ast.Assign)
    assert ast.unparse(assignment.targets[0]) == "prompt.data"
    assert ast.literal_eval(assignment.value) == data


def test_values_are_exported(browser: Browser, run: Trained) -> None:
    run.log("accuracy", None)
    run.log("accuracy", "=1+1")
    page = browser.look(f"{run.path}values.csv?metric=accuracy")
    assert page.headers["Content-Type"] == "text/csv; charset=utf-8"
    assert page.text.splitlines()[:2] == ["step,value", f"0,{2 / 3}"]
    assert page.text.splitlines()[-2:] == ["3,null", '4,"""=1+1"""']
    assert browser.look(f"{run.path}values.csv?metric=none").text.splitlines() == ["step,value"]


def test_nothing_is_taken_away_without_the_key(backend: RunningBackend, run: Trained) -> None:
    with Browser(backend, token="") as stranger:
        for path in ("values.csv?metric=accuracy", "series.json?metric=accuracy", "prompts/1/versions/1.txt"):
            answer = stranger.look(run.path + path)
            assert (answer.status_code, answer.content) == (401, b"")
        for path in ("prompts/1/", "samples/", "samples/1/"):
            assert stranger.look(run.path + path).status_code == 401


# --- samples --------------------------------------------------------------------------------------


def rows(page: str, name: str = "samples") -> list[str]:
    return [plain(row).strip() for row in re.findall("<tr>(<td.*?)</tr>", part(page, name), re.DOTALL)]


def test_every_question_is_a_sample(browser: Browser, run: Trained) -> None:
    page = browser.look(f"{run.path}samples/").text
    assert "1 to 11 of 11" in plain(page), "nine answers and two steps"
    assert rows(page)[0].startswith("forward sample 2 maybe MAYBE 1")


def test_the_questions_of_each_step(browser: Browser, run: Trained) -> None:
    shown = rows(browser.look(run.path).text.replace("</td>", " </td>"), "usage")
    assert [row.split(" 0 ")[0].replace("  ", " ") for row in shown[-3:]] == [
        "after the last 3 3 forward",
        "2 4 3 forward, 1 optimizer",
        "1 4 3 forward, 1 optimizer",
    ]


def test_samples_are_filtered(browser: Browser, run: Trained) -> None:
    def found(query: str) -> list[str]:
        return rows(browser.look(f"{run.path}samples/?{query}").text)

    assert len(found("purpose=optimizer")) == 2
    assert len(found("purpose=forward")) == 9
    assert len(found("state=wrong")) == 2
    assert len(found("state=right")) == 7
    assert len(found("version=1")) == 3
    assert len(found("q=YES&purpose=forward")) == 9, "it stands in the prompts"
    assert found("q=what nobody said") == []
    assert found("state=error") == []
    assert len(browser.look(f"{run.path}samples/?page=7").text) > 0


def test_what_a_change_broke_and_mended(browser: Browser, run: Trained) -> None:
    def found(query: str) -> list[str]:
        return rows(browser.look(f"{run.path}samples/?{query}").text)

    (broken,) = found("change=broke&version=3")
    assert broken.startswith("forward sample 1 no no before: “NO” 1 → 0")
    assert found("change=mended&version=3") == []
    (mended,) = found("change=mended&version=2")
    assert mended.startswith("forward sample 2 maybe MAYBE before: “maybe” 0 → 1")
    assert len(found("change=mended&version=3&before=1")) == 1, "between any two versions"
    assert found("change=broke") == [broken], "of the newest version"
    assert "Choose a version" in browser.look(f"{run.path}samples/?change=broke&version=1").text


def test_one_sample_whole(browser: Browser, run: Trained) -> None:
    links = links_of(browser.look(f"{run.path}samples/?change=broke&version=3"))
    (link,) = [one for one in links if re.search(r"samples/\d+/$", one)]
    text = plain(browser.look(link).text)
    assert "score 0" in text
    assert "Answerno" in text
    assert "systemShout: yes maybe userno" in text
    assert "v1NO1 v2NO1 v3no0" in text, "the same sample at other times"
    assert "system prompt, version 3" in text


# --- words ----------------------------------------------------------------------------------------


def marked(before: str, after: str) -> str:
    signs = {"same": "{}", "new": "[+{}]", "gone": "[-{}]"}
    return "".join(signs[piece.kind].format(piece.text) for piece in compare(before, after))


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("", "", ""),
        ("a", "a", "a"),
        ("", "new", "[+new]"),
        ("gone", "", "[-gone]"),
        ("Answer in one word.", "Answer in two words.", "Answer in [-one word][+two words]."),
        ("a\nb\nc\n", "a\nx\nb\nc\n", "a\n[+x\n]b\nc\n"),
        ("- one\n- two\n", "- one\n- one and a half\n- two\n", "- one\n[+- one and a half\n]- two\n"),
        ("a b", "a  b", "a[- ][+  ]b"),
    ],
)
def test_what_changed_is_marked_word_by_word(before: str, after: str, expected: str) -> None:
    assert marked(before, after) == expected


texts = st.text("ab \n.", max_size=40)


@given(texts, texts)
@settings(deadline=None)
def test_the_pieces_make_both_texts(before: str, after: str) -> None:
    pieces = compare(before, after)
    assert "".join(piece.text for piece in pieces if piece.kind != "new") == before
    assert "".join(piece.text for piece in pieces if piece.kind != "gone") == after
    assert all(piece.text for piece in pieces)
    assert "".join(piece.text for piece in only_new(pieces)) == after


def test_huge_texts_are_compared_all_the_same() -> None:
    before = "".join(f"line {i}\n" for i in range(20_000))
    pieces = compare(before, before.replace("9", "nine"))
    assert "".join(piece.text for piece in pieces if piece.kind != "new") == before


# --- graphs ---------------------------------------------------------------------------------------


def test_a_backward_pass_is_a_picture(browser: Browser, backend: RunningBackend) -> None:
    run = WatchedRun(backend)
    assert "No backward pass yet." in browser.look(f"{run.path}graph/").text
    prompt = run.parameter("Be <brief>.", "system prompt")
    other = run.rpc.variable(" Always.", "ending")
    feedback = run.rpc.variable("Say <please>.", "feedback")
    for _ in range(2):
        output = run.rpc.run("Add", prompt, other)
        run.rpc.backward({"__variable__": True, "variable_id": output["variable_id"]}, feedback)
    page = browser.look(f"{run.path}graph/").text
    titles = re.findall("<title>(.*?)</title>", page)[1:]
    assert "system prompt. Be &lt;brief&gt;." in titles
    assert "Add" in titles
    feedbacks = [title for title in titles if title.endswith("Say &lt;please&gt;.")]
    assert len(feedbacks) == 2, "on the way to the output, and on to the prompt"
    numbers = re.findall(r'<option value="(\d+)"(?: selected)?>\d{4}-', page)
    assert len(numbers) == 2
    svg = browser.look(f"{run.path}graph/graph.svg?pass={numbers[1]}")
    assert (svg.status_code, svg.headers["Content-Type"]) == (200, "image/svg+xml; charset=utf-8")
    assert "Be &lt;brief&gt;." in svg.text
    assert (
        '[label="Add", shape=box, style=rounded]' in browser.look(f"{run.path}graph/graph.dot?pass={numbers[0]}").text
    )
    for missing in ("graph/?pass=999", "graph/graph.svg?pass=999", f"graph/graph.png?pass={numbers[0]}"):
        assert browser.look(run.path + missing).status_code == 404
    run.close()


def test_the_last_passes_are_kept(backend: RunningBackend, browser: Browser) -> None:
    run = WatchedRun(backend)
    prompt, feedback = run.parameter("a", "prompt"), run.rpc.variable("f", "feedback")
    other = run.rpc.variable("b", "b")
    for _ in range(PASSES_PER_RUN + 3):
        output = run.rpc.run("Add", prompt, other)
        run.rpc.backward({"__variable__": True, "variable_id": output["variable_id"]}, feedback)
    page = browser.look(f"{run.path}graph/").text
    numbers = re.findall(r'<option value="(\d+)"(?: selected)?>\d{4}-', page)
    assert numbers == [str(number) for number in range(PASSES_PER_RUN + 3, 3, -1)]
    run.close()
