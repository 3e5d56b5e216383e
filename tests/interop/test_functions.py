"""Functions without a language model: what afnio gets for outputs, and which graph it sees."""

from __future__ import annotations

from typing import Any

import pytest

from tellurio_sync.testing import ScriptedBackend

from .conftest import Drive


@pytest.fixture(scope="module")
def seen(drive: Drive, backend: ScriptedBackend) -> Any:
    return drive("functions", namespace=backend.namespace)


LEAF, NOTHING = ["AccumulateGrad", 0], [None, 0]


def output(data: Any, role: str, name: str, *edges: list[Any], output_nr: int = 0) -> dict[str, Any]:
    """An output that needs a gradient."""
    return {
        "data": data,
        "role": role,
        "requires_grad": True,
        "is_leaf": False,
        "output_nr": output_nr,
        "grad_fn": [f"{name}Backward0", list(edges)],
    }


def leaf(data: Any, role: str) -> dict[str, Any]:
    """An output that needs none."""
    return {"data": data, "role": role, "requires_grad": False, "is_leaf": True, "output_nr": 0, "grad_fn": None}


# Protocol §G.1, §F.7, §F.8.
GRAPH = {
    "add": output("abcdef", "first input and second input", "Add", LEAF, NOTHING),
    "registered": True,
    "waiting": [],
    "reused accumulator": True,
    "split is a tuple": True,
    "of a part": ["AddBackward0", [["SplitBackward0", 1], NOTHING]],
    "no grad needed": leaf("defdef", "second input and second input"),
    "grad mode": False,
    "no grad": leaf("abcdef", "first input and second input"),
    "server's view": {"data": "abcdef", "is_leaf": False, "output_nr": 0, "requires_grad": True},
    "in place": ["sumabc", "sum and first input", True],
}


@pytest.mark.parametrize("case", GRAPH)
def test_graph(seen: Any, case: str) -> None:
    assert seen["graph"][case] == GRAPH[case]


def parts(*data: Any, edges: tuple[list[Any], ...] = (LEAF,)) -> list[Any]:
    return [output(part, f"split part {i} of sentence", "Split", *edges, output_nr=i) for i, part in enumerate(data)]


# Protocol §G.2.
TEXT_OPS = {
    "add numbers": output(3, "x and y", "Add", LEAF, LEAF),
    "add lists": output(["ac", "bd"], "x and y", "Add", LEAF, LEAF),
    "sum numbers": output(6, "x and y and z", "Sum", LEAF, LEAF, LEAF),
    "sum texts": output("<ITEM>abc</ITEM><ITEM>def</ITEM>", "first input and second input", "Sum", LEAF, LEAF),
    "sum lists": output([4, 6], "x and y", "Sum", LEAF, LEAF),
    "split": parts("afnio", "is", "great!"),
    "split functional": parts("a", "b-c"),
    # This layer makes a Variable of `maxsplit`.
    "split module": parts("a", "b", edges=(LEAF, NOTHING)),
    "split list": parts(["a", "d"], ["b", ""], ["c", ""]),
    "add functional": output("ab", "x and y", "Add", LEAF, LEAF),
    "add module": output("ab", "x and y", "Add", LEAF, LEAF),
}


@pytest.mark.parametrize("case", TEXT_OPS)
def test_text_ops(seen: Any, case: str) -> None:
    assert seen["text ops"][case] == TEXT_OPS[case]


def compared(purpose: str, prediction: str, target: str, score: int) -> str:
    return (
        f"The evaluation function, designed for '{purpose}', compared the <DATA> field of the predicted variable "
        f"('{prediction}') with the <DATA> field of the target variable ('{target}'), resulting in a score: {score}."
    )


def aggregated(purpose: str, reduction: str, score: float) -> str:
    return (
        f"The evaluation function, designed for '{purpose}', compared the <DATA> fields of the predicted variable and "
        "the target variable across all samples in the batch, generating individual scores for each pair. These scores "
        f"were then aggregated using the reduction function '{reduction}', resulting in a final aggregated score: "
        f"{score}."
    )


# Score, explanation, and how many Variables were given.
EVALUATORS = {
    "deterministic": (0, compared("exact match", "green", "red", 0), 2),
    "target is a text": (1, compared("exact match", "red", "red", 1), 1),
    "batch": (1, aggregated("exact match", "summation", 1), 2),
    "batch, mean": (0.5, aggregated("sameness", "mean", 0.5), 1),
    "batch, not reduced": ([1, 0], [compared("sameness", "a", "a", 1), compared("sameness", "b", "c", 0)], 1),
    "exact": (0, compared("exact match", "green", "red", 0), 2),
    "exact, batch": (1, aggregated("exact match", "summation", 1), 1),
    # This layer makes a Variable of the purpose.
    "exact, module": (2, aggregated("exact match", "summation", 2), 2),
}


@pytest.mark.parametrize("case", EVALUATORS)
def test_evaluators(seen: Any, case: str) -> None:
    score, explanation, variables = EVALUATORS[case]
    name = "DeterministicEvaluator" if not case.startswith("exact") else "ExactMatchEvaluator"
    edges = [LEAF, NOTHING][:variables]
    assert seen["evaluators"][case] == [
        output(score, "Evaluation result score of colour", name, *edges),
        output(explanation, "Evaluation result explanation of colour", name, *edges, output_nr=1),
    ]


ERRORS = {
    ("text ops", "list and scalar"): "A list and a scalar cannot be added.",
    ("text ops", "lengths"): "Lists of different lengths cannot be added",
    ("text ops", "null"): "A missing value (null) cannot be added.",
    ("text ops", "no arguments"): "Add: missing a required argument: 'x'.",
    ("evaluators", "lengths"): "must have the same length",
    ("evaluators", "purpose"): "`eval_fn_purpose`",
    ("evaluators", "function"): "the function's own text",
}


@pytest.mark.parametrize("case", ERRORS)
def test_the_server_s_texts_reach_the_user(seen: Any, case: tuple[str, str]) -> None:
    error = seen[case[0]]["errors"][case[1]]["error"]
    assert error["type"] == "RuntimeError"
    assert ERRORS[case] in error["text"]
