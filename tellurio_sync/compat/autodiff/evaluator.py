"""``afnio.autodiff.evaluator``."""

from __future__ import annotations

from ...autodiff.function import DeterministicEvaluator, ExactMatchEvaluator, LMJudgeEvaluator

__all__ = ["DeterministicEvaluator", "ExactMatchEvaluator", "LMJudgeEvaluator"]
