"""What is declared about versions, and what the checks run, agree."""

from __future__ import annotations

import re
from configparser import ConfigParser
from pathlib import Path

import pytest

import tellurio_sync

ROOT = Path(__file__).parents[1]
CI = ROOT / ".ci"
pytestmark = pytest.mark.skipif(not CI.is_dir(), reason="only in the repository and in its source distribution")


def setup_cfg() -> ConfigParser:
    config = ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    return config


def bounds(*extras: str) -> dict[str, str]:
    """The lowest versions that are declared for the core and these extras."""
    config = setup_cfg()
    texts = [config["options"]["install_requires"], *(config["options.extras_require"][extra] for extra in extras)]
    return dict(re.findall(r"^([\w.-]+)>=([\w.]+)", "\n".join(texts), re.MULTILINE))


def pins(name: str) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for line in (CI / name).read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            package, version = re.match(r"([\w.-]+)==([^;\s]+)", line).groups()  # type: ignore[union-attr]
            found.setdefault(_plain(package), set()).add(version)
    return found


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _release(version: str) -> list[int]:
    """The numbers of a version, without zeros at the end: 25 is 25.0."""
    numbers = [int(number) for number in re.findall(r"\d+", version)]
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return numbers


def test_the_job_with_the_lowest_versions_installs_what_is_declared_as_lowest() -> None:
    """After a change of setup.cfg: `.ci/freeze lowest`."""
    installed = pins("lowest.txt")
    for name, version in bounds("keyring", "local", "speed", "test").items():
        assert {tuple(_release(pin)) for pin in installed[_plain(name)]} == {tuple(_release(version))}, name


def test_every_library_that_is_declared_is_held_by_the_constraints() -> None:
    """After a change of setup.cfg: `.ci/freeze latest`."""
    held = pins("constraints.txt")
    for name, version in bounds("keyring", "local", "speed", "test", "dev").items():
        assert all(_release(pin) >= _release(version) for pin in held[_plain(name)]), name


def targets() -> dict[str, list[str]]:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    return {name: needs.split("##")[0].split() for name, needs in re.findall(r"^([a-z-]+): *(.*)$", text, re.MULTILINE)}


def test_make_check_is_everything_that_ci_runs_on_one_python() -> None:
    """On the others, CI runs parts of it."""
    run = (CI / "run").read_text(encoding="utf-8")
    used = set(re.findall(r"^[^#\n]*\bmake ([a-z-]+)(?= [A-Z])", run, re.MULTILINE))
    assert {"check", "test", "test-core"} <= used
    parts_of_test = {"test-core", "test-borders"}
    assert used - {"check", "install"} - parts_of_test <= set(targets()["check"])
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for part in parts_of_test:
        recipe = re.search(rf"^{part}: install .*\n\t(.*)$", makefile, re.MULTILINE)
        assert recipe is not None
        assert "-m 'not slow and not interop'" in recipe.group(1)


def test_ci_holds_every_installation_to_versions_that_are_known() -> None:
    run = (CI / "run").read_text(encoding="utf-8").replace("\\\n", " ")
    making = [line for line in run.splitlines() if re.match(r"^[^#]*\bmake [a-z-]+ .*VENV=", line)]
    assert len(making) >= 5
    assert [line for line in making if "CONSTRAINTS=" not in line] == []


def test_the_pythons_named_in_the_metadata_are_those_that_wheels_are_built_for() -> None:
    config = setup_cfg()
    named = re.findall(r"Python :: (3\.\d+)$", config["metadata"]["classifiers"], re.MULTILINE)
    assert config["options"]["python_requires"] == f">={named[0]}"
    built = re.findall(r'"cp3(\d+)-\*"', (CI / "cibuildwheel.toml").read_text(encoding="utf-8"))
    assert {f"3.{minor}" for minor in built} >= set(named)
    run = (CI / "run").read_text(encoding="utf-8")
    assert all(version in run for version in named)


def test_the_newest_section_of_the_changelog_is_this_version_with_its_date() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    sections = re.findall(r"^## (.*)$", text, re.MULTILINE)
    released = [section for section in sections if section != "Unreleased"]
    assert re.fullmatch(rf"{re.escape(tellurio_sync.__version__)} - \d{{4}}-\d\d-\d\d", released[0])
    assert sections.index(released[0]) <= 1
