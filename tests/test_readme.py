"""The README's examples run as they stand, each in a fresh interpreter, as a reader would paste them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"
CODE = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
EXAMPLES = [code for code in CODE if "def test_" not in code]
TESTS = [code for code in CODE if "def test_" in code]

# The pages of the documentation: what is to be run is marked as Python there.
PAGES = [
    (page.name, number, code)
    for page in sorted((README.parent / "tellurio_sync" / "docs").glob("*.md"))
    for number, code in enumerate(re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL))
]

# What a reader sees when they have run them, in order.
OUTPUT = [
    r"Dear customer, we take care of it: My lamp is broken\.\n",
    r"<ITEM>Water the plants\.</ITEM><ITEM>Feed the cat\.</ITEM>\n"
    r"Here is the combined feedback we got for this specific first task and other variables: Say when\.\n",
    r"(\d+ of 10 right\n){4}",
    r"Variable created successfully\.\n100 replies after one round trip; Variable created successfully\.\n",
    r"failed: \[1\]\n\['answered', None, 'answered'\]\n",
    r"\[0\.0, 0\.2, 0\.4, 0\.6, 0\.8\]\n",
    r"1000 True\n",
    r"Say please\.\n",
]


@pytest.mark.slow
@pytest.mark.parametrize(("code", "output"), list(zip(EXAMPLES, OUTPUT, strict=True)), ids=range(len(OUTPUT)))
def test_an_example_of_the_readme(code: str, output: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=120, cwd=tmp_path
    )
    assert done.stderr == ""
    assert done.returncode == 0
    assert re.fullmatch(output, done.stdout), done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(("page", "number", "code"), PAGES, ids=lambda value: value if len(str(value)) < 40 else "")
def test_an_example_of_a_page(page: str, number: int, code: str, tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert done.returncode == 0, f"{page}, example {number}: {done.stderr}"


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
