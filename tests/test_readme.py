"""The README's examples run as they stand, each in a fresh interpreter, as a reader would paste them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"
DOCS = README.parent / "tellurio_sync" / "docs"

# In the README and on the pages: what is to be run is marked as Python there.
CODE = {
    (page.name, number): code
    for page in [README, *sorted(DOCS.glob("*.md"))]
    for number, code in enumerate(re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL))
}
TESTS = [code for code in CODE.values() if "def test_" in code]

# What a reader sees when they have run them.
OUTPUT = {
    ("README.md", 0): r"Dear customer, we take care of it: My lamp is broken\.\n",
    ("README.md", 1): r"<ITEM>Water the plants\.</ITEM><ITEM>Feed the cat\.</ITEM>\n"
    r"Here is the combined feedback we got for this specific first task and other variables: Say when\.\n",
    ("README.md", 2): r"(\d+ of 10 right\n){4}",
    ("client.md", 0): r"Variable created successfully\.\n100 replies after one round trip; "
    r"Variable created successfully\.\n",
    ("language-models.md", 0): r"failed: \[1\]\n\['answered', None, 'answered'\]\n",
    ("runs.md", 0): r"\[0\.0, 0\.2, 0\.4, 0\.6, 0\.8\]\n",
    ("round-trips.md", 0): r"1000 True\n",
    ("guarantees.md", 0): r"Say please\.\n",
}


@pytest.mark.slow
@pytest.mark.parametrize("place", OUTPUT, ids=lambda place: f"{place[0]}-{place[1]}")
def test_an_example_shows_what_it_should(place: tuple[str, int], tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", CODE[place]], capture_output=True, text=True, timeout=120, cwd=tmp_path
    )
    assert done.stderr == ""
    assert done.returncode == 0
    assert re.fullmatch(OUTPUT[place], done.stdout), done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("place", sorted(CODE.keys() - OUTPUT.keys()), ids=lambda place: f"{place[0]}-{place[1]}")
def test_an_example_of_a_page(place: tuple[str, int], tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CODE[place]], capture_output=True, text=True, timeout=120, cwd=tmp_path
    )
    assert done.returncode == 0, f"{place}: {done.stderr}"


def test_the_readme_has_three_examples() -> None:
    assert [number for page, number in CODE if page == "README.md"] == [0, 1, 2]


@pytest.mark.slow
def test_the_test_of_the_readme(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text("\n".join(TESTS), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=tmp_path,
    )
    assert "1 passed" in done.stdout, done.stdout


def test_every_target_that_the_readme_names_exists() -> None:
    makefile = README.with_name("Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"make ([a-z-]+)", README.read_text(encoding="utf-8")):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"the README names make {target}"
