"""The functions of ``run_function``, by name."""

from __future__ import annotations

import inspect
from typing import Any

from ..objects import Objects
from ..refused import Refused
from ..wire import decode
from .chat import ChatCompletion
from .client_function import ClientFunction
from .evaluators import DeterministicEvaluator, ExactMatchEvaluator
from .judge import LMJudgeEvaluator
from .op import Op
from .text_ops import Add, Split, Sum

FUNCTIONS: dict[str, type[Op]] = {
    op.__name__: op
    for op in (
        *(Add, Sum, Split, ChatCompletion, DeterministicEvaluator, ExactMatchEvaluator, LMJudgeEvaluator),
        ClientFunction,
    )
}
_SIGNATURES = {name: inspect.signature(op) for name, op in FUNCTIONS.items()}


def bind(objects: Objects, name: str, args: list[Any], kwargs: dict[str, Any]) -> Op:
    """The function ``name`` with its arguments, decoded as they are now (protocol §G).

    Raises:
        Refused: there is no such function, or it does not take these arguments.
        UnknownVariable, UnknownModel: a reference to an unknown id.
    """
    op = FUNCTIONS.get(name)
    if op is None:
        raise Refused(f"No function named {name!r} is known; there are {', '.join(FUNCTIONS)}.")
    try:
        bound = _SIGNATURES[name].bind(*args, **kwargs)
    except TypeError as exc:
        raise Refused(f"{name}: {exc}.") from None
    arguments = decode(objects, dict(bound.arguments))
    # The name of what collects further keyword arguments is no argument itself.
    arguments.update(arguments.pop("completion_args", {}))
    made = op(**arguments)
    made.arguments = arguments
    return made
