"""The functions of the package as modules without state, so that a program can name its parts."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Sequence
from typing import Any

from ..autodiff import functional
from ..autodiff.functional import Reduction, Score, Target
from ..autodiff.messages import Inputs, Messages
from ..model.language import ChatCompletionModel
from ..model.variable import Variable
from .module import Module


class Add(Module):
    """``functional.add`` as a module."""

    def forward(self, x: Variable, y: Variable) -> Variable:
        """See ``functional.add``. One round trip."""
        return functional.add(x, y)


class Sum(Module):
    """``functional.sum`` as a module."""

    def forward(self, x: Sequence[Variable]) -> Variable:
        """See ``functional.sum``. One round trip."""
        return functional.sum(x)


class Split(Module):
    """``functional.split`` as a module."""

    def forward(
        self, x: Variable, sep: str | Variable | None = None, maxsplit: int | Variable = -1
    ) -> tuple[Variable, ...]:
        """See ``functional.split``. One round trip."""
        return functional.split(x, sep, maxsplit)


class ChatCompletion(Module):
    """``functional.chat_completion`` as a module."""

    def forward(
        self,
        forward_model_client: ChatCompletionModel | None,
        messages: Messages,
        inputs: Inputs | None = None,
        **completion_args: Any,
    ) -> Variable:
        """See ``functional.chat_completion``. One round trip."""
        return functional.chat_completion(forward_model_client, messages, inputs, **completion_args)


class DeterministicEvaluator(Module):
    """``functional.deterministic_evaluator`` as a module."""

    def forward(
        self,
        prediction: Variable,
        target: Target,
        eval_fn: Callable[[Any, Any], Score],
        eval_fn_purpose: str | Variable,
        success_fn: Callable[[list[Score]], bool] | None = None,
        reduction_fn: Reduction | None = builtins.sum,
        reduction_fn_purpose: str | Variable | None = "summation",
    ) -> tuple[Variable, Variable]:
        """See ``functional.deterministic_evaluator``. One round trip."""
        return functional.deterministic_evaluator(
            prediction, target, eval_fn, eval_fn_purpose, success_fn, reduction_fn, reduction_fn_purpose
        )


class ExactMatchEvaluator(Module):
    """``functional.exact_match_evaluator`` as a module."""

    def forward(
        self,
        prediction: Variable,
        target: Target,
        reduction_fn: Reduction | None = builtins.sum,
        reduction_fn_purpose: str | Variable | None = "summation",
    ) -> tuple[Variable, Variable]:
        """See ``functional.exact_match_evaluator``. One round trip."""
        return functional.exact_match_evaluator(prediction, target, reduction_fn, reduction_fn_purpose)


class LMJudgeEvaluator(Module):
    """``functional.lm_judge_evaluator`` as a module."""

    def forward(
        self,
        forward_model_client: ChatCompletionModel | None,
        messages: Messages,
        prediction: Variable,
        target: Target | None = None,
        inputs: Inputs | None = None,
        **options: Any,
    ) -> tuple[Variable, Variable]:
        """See ``functional.lm_judge_evaluator``, which names the ``options``. One round trip."""
        return functional.lm_judge_evaluator(forward_model_client, messages, prediction, target, inputs, **options)
