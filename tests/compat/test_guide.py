"""The table of *Moving from afnio*: every public name has an answer, and what the answer names is there."""

from __future__ import annotations

import importlib
import itertools
import re
from pathlib import Path
from typing import Any

import pytest

import tellurio_sync as te
from tellurio_sync.studio import Run

PAGE = Path(te.__file__).parent / "docs" / "moving-from-afnio.md"
TABLE = PAGE.read_text(encoding="utf-8").partition("## Name by name")[2]
ROWS = [tuple(cell.strip() for cell in line.strip("|\n ").split(" | ")) for line in TABLE.splitlines() if "|" in line][
    2:
]

# What stands before a dot on the right, and what it is there.
ROOTS = {"te": te, "model": te.ChatCompletionModel, "run": Run}
SAME = "the same names"

# Public names of afnio 0.3.7, as its documentation and its packages list them, which a program may use.
NAMES = """
    Variable Parameter Node GradientEdge MultiTurnMessages backward no_grad is_grad_enabled set_grad_enabled save load
    get_backward_model_client set_backward_model_client suppress_variable_notifications
    Function.forward setup_context autodiff.decorators.evaluator backward(inputs=GradientEdge) Node.apply autodiff.utils
    basic_ops lm_ops Add Sum Split ChatCompletion DeterministicEvaluator ExactMatchEvaluator LMJudgeEvaluator
    cognitive.Module eval_fn models.EmbeddingModel models.TextCompletionModel OpenAI AsyncOpenAI
    model.chat achat model.complete acomplete model.embed aembed get_config get_provider get_usage update_usage
    register_model check_consent register_optimizer TGD tgd Optimizer configure_logging set_logger_level
    login init log Run RunStatus RunOrg RunProject RunUser Project create_project get_project delete_project
    tellurio.client.TellurioClient load_username save_username get_config_path TellurioWebSocketClient
    tellurio.run_context trainer.Trainer fit validate test predict DataLoader Dataset Sampler RandomSampler
    SequentialSampler WeightedRandomSampler FacilitySupport TREC SentimentAnalyzer append_grad_local create_node
"""


def spans(cell: str) -> list[str]:
    """The code in a cell, with ``a.{b,c}`` written out."""
    return list(itertools.chain.from_iterable(written_out(code) for code in re.findall(r"`([^`]+)`", cell)))


def written_out(code: str) -> list[str]:
    found = re.fullmatch(r"([\w.]*)\{([\w,]+)\}([\w.]*)", code)
    return [code] if found is None else [f"{found[1]}{name}{found[3]}" for name in found[2].split(",")]


def resolve(path: str) -> Any:
    """What a dotted name on the right stands for; of calls, only what is called first."""
    root, _, rest = path.partition(".")
    if root == "tellurio_sync":
        names = path.split(".")
        for count in range(len(names), 0, -1):
            try:
                value: Any = importlib.import_module(".".join(names[:count]))
            except ModuleNotFoundError:
                continue
            rest = ".".join(names[count:])
            break
    else:
        value = ROOTS[root]
    for name in filter(None, rest.split(".")):
        # Fields of a dataclass are not attributes of the class.
        value = getattr(value, name, None) or value.__annotations__[name]
    return value


def named(cell: str) -> list[str]:
    """The dotted names in a cell that begin with one that is known."""
    begins = "|".join([*ROOTS, "tellurio_sync"])
    return [found[0] for code in spans(cell) for found in re.finditer(rf"\b({begins})(\.[A-Za-z_]\w*)+", code)]


def test_every_row_has_both_sides() -> None:
    assert len(ROWS) > 30
    for row in ROWS:
        assert len(row) == 2, row
        assert all(row), row


@pytest.mark.parametrize("name", NAMES.split())
def test_every_public_name_of_afnio_is_answered(name: str) -> None:
    answered = " ".join(code for left, _ in ROWS for code in (*spans(left), left))
    assert re.search(rf"(?<!\w){re.escape(name)}(?!\w)", answered), f"{name} is in no row"


@pytest.mark.parametrize(("left", "right"), ROWS, ids=[left for left, _ in ROWS])
def test_what_a_right_hand_side_names_is_there(left: str, right: str) -> None:
    paths = named(right)
    for path in paths:
        assert resolve(path) is not None, path
    assert (
        paths or SAME in right or re.match(r"none|it gets|call the `openai`|`backward\(|`get_usage`|`logging", right)
    ), right


@pytest.mark.parametrize(
    ("left", "right"), [row for row in ROWS if SAME in row[1]], ids=[left for left, right in ROWS if SAME in right]
)
def test_the_same_names_are_the_same(left: str, right: str) -> None:
    place = resolve(spans(right)[0].rstrip("."))
    names = [code.rpartition(".")[2] for code in spans(left)]
    if isinstance(place, type):  # `Trainer`: `fit`, ... or `Function.forward`, ...
        names = [name for name in names if name != place.__name__]
        documented = f"{place.__doc__} {dir(place)}"
        assert all(name in documented for name in names), names
    else:
        assert [name for name in names if not hasattr(place, name)] == []


def test_a_name_that_is_not_there_would_be_found() -> None:
    for path in ("te.no_such", "tellurio_sync.no_such.Run", "model.no_such", "run.no_such"):
        with pytest.raises((AttributeError, KeyError)):
            resolve(path)
