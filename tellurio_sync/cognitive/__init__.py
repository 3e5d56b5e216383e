"""Programs as trees of modules, in the shape that PyTorch users know.

A :class:`Module` holds Parameters, models, chats, functions and other modules as plain attributes, and finds them
there.  The ready modules are the functions of the package as objects.
"""

from __future__ import annotations

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
    "Split",
    "Sum",
]
