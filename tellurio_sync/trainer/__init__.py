"""The training loop, written once: :class:`Trainer` for modules, and below it :func:`fit` for any function.

Around it: what a training asks (``estimate``), how good parameters are (``evaluate``), and what was tried (``Trials``).
"""

from __future__ import annotations

from .callbacks import Callback, EpochResult
from .copying import CopiedTrainingData
from .estimate import Estimate, estimate
from .evaluation import Evaluation, evaluate
from .loop import FitResult, fit
from .search import SearchResult, search
from .trainer import Trainer
from .trials import Trials, TrialsError, Version

__all__ = [
    "Callback",
    "CopiedTrainingData",
    "EpochResult",
    "Estimate",
    "Evaluation",
    "FitResult",
    "SearchResult",
    "Trainer",
    "Trials",
    "TrialsError",
    "Version",
    "estimate",
    "evaluate",
    "fit",
    "search",
]
