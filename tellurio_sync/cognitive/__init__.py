"""Programs as trees of modules, in the shape that PyTorch users know.

A :class:`Module` holds Parameters, models, chats, functions and other modules as plain attributes, and finds them
there.  The ready modules are the functions of the package as objects.
"""

from __future__ import annotations

from ..autodiff.functional import (
    add,
    chat_completion,
    deterministic_evaluator,
    exact_match_evaluator,
    lm_judge_evaluator,
    split,
    sum,
)
from ..autodiff.messages import MultiTurnMessages, is_multi_turn_messages
from ..model.variable import Parameter
from .functions import (
    Add,
    ChatCompletion,
    DeterministicEvaluator,
    ExactMatchEvaluator,
    LMJudgeEvaluator,
    Split,
    Sum,
)
from .module import LoadedKeys, Module

__all__ = [
    "Add",
    "ChatCompletion",
    "DeterministicEvaluator",
    "ExactMatchEvaluator",
    "LMJudgeEvaluator",
    "LoadedKeys",
    "Module",
    "MultiTurnMessages",
    "Parameter",
    "Split",
    "Sum",
    "add",
    "chat_completion",
    "deterministic_evaluator",
    "exact_match_evaluator",
    "is_multi_turn_messages",
    "lm_judge_evaluator",
    "split",
    "sum",
]
