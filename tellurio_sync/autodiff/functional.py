"""The functions of the package. Each is one long call to the server: one round trip (protocol §G).

All raise ``TypeError`` for an argument of the wrong type and what ``Function.apply`` raises.
"""

from __future__ import annotations

import builtins
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, Union

from ..errors import RemoteProtocolError
from ..model.data import plain
from ..model.language import ChatCompletionModel
from ..model.variable import Variable
from ..parallel import on_executor
from ..tracing import TRACERS, span
from .function import (
    Add,
    ChatCompletion,
    DeterministicEvaluator,
    ExactMatchEvaluator,
    LMJudgeEvaluator,
    Split,
    Sum,
)
from .left_out import check_on_error
from .messages import (
    Inputs,
    Messages,
    check_inputs,
    check_lengths,
    check_messages,
    check_model,
    columns_of,
    parts_of,
    plain_inputs,
    warn_of_unused_inputs,
)

if TYPE_CHECKING:
    from concurrent.futures import Executor

__all__ = [
    "add",
    "chat_completion",
    "deterministic_evaluator",
    "exact_match_evaluator",
    "lm_judge_evaluator",
    "split",
    "sum",
]

Score = Union[int, float]
Reduction = Callable[[list[Score]], Score]
OnError = Literal["raise", "skip"]
Target = Union[str, list[str], Variable]


def add(x: Variable, y: Variable) -> Variable:
    """Texts joined, numbers added, lists element by element."""
    _check_variable("x", x)
    _check_variable("y", y)
    return _single(Add.apply(x, y))


def sum(x: Sequence[Variable]) -> Variable:
    """The sum of numbers; texts each as ``<ITEM>text</ITEM>``; lists element by element."""
    if not isinstance(x, (list, tuple)):
        raise TypeError(f"x must be a list of Variables, not {type(x).__name__}")
    for index, variable in enumerate(x):
        _check_variable(f"x[{index}]", variable)
    return _single(Sum.apply(list(x)))


def split(x: Variable, sep: str | Variable | None = None, maxsplit: int | Variable = -1) -> tuple[Variable, ...]:
    """The parts of a text as ``str.split`` makes them; of a list of texts, output i holds all i-th parts."""
    _check_variable("x", x)
    parts = Split.apply(x, sep, maxsplit)
    return parts if isinstance(parts, tuple) else (parts,)


def chat_completion(
    forward_model_client: ChatCompletionModel | None,
    messages: Messages,
    inputs: Inputs | None = None,
    on_error: OnError = "raise",
    **completion_args: Any,
) -> Variable:
    """The answer of a language model; a list of answers if any input is a list.

    Args:
        forward_model_client: the model that answers.
        messages: the chat, ``[{"role": "system", "content": [Variable, ...]}, ...]``.
        inputs: values for the placeholders ``{name}`` in the messages.
        on_error: what becomes of a batch in which the model fails on some samples, after all have been asked.
            ``"raise"``: ``SamplesFailed``, whose ``results`` hold the answers to the others. ``"skip"``: the answer to
            such a sample is None, which evaluators count as wrong and ``backward`` leaves out; a ``SamplesLeftOut``
            warning names them. If all samples fail it is raised in any case, and so it is by servers that cannot
            skip.
        completion_args: passed on to the model, such as ``model="gpt-4o"`` or ``temperature=0``.

    A sample that is None in a Variable with a list as data is not asked about: its answer is None.

    Raises:
        SamplesFailed: some samples of the batch failed (see ``on_error``).
        UsageError: lists of the batch that differ in length.
    """
    check_on_error(on_error)
    check_model("forward_model_client", forward_model_client)
    check_messages(messages)
    inputs = plain_inputs(inputs)
    check_inputs(inputs)
    warn_of_unused_inputs(messages, inputs)
    check_lengths({**parts_of(messages), **columns_of(inputs)})
    with _question(forward_model_client, completion_args):
        return _single(
            ChatCompletion.apply(forward_model_client, messages, inputs, on_error=on_error, **completion_args)
        )


def deterministic_evaluator(
    prediction: Variable,
    target: Target,
    eval_fn: Callable[[Any, Any], Score],
    eval_fn_purpose: str | Variable,
    success_fn: Callable[[list[Score]], bool] | None = None,
    reduction_fn: Reduction | None = builtins.sum,
    reduction_fn_purpose: str | Variable | None = "summation",
    on_error: OnError = "raise",
    *,
    executor: Executor | None = None,
) -> tuple[Variable, Variable]:
    """Score and explanation by a function of yours.

    Args:
        prediction: the Variable to evaluate; a list is a batch.
        target: the right answer.
        eval_fn: ``eval_fn(prediction, target)`` gives the score of one sample, from plain data.
        eval_fn_purpose: what ``eval_fn`` measures, in a few words; language models read it.
        success_fn: ``success_fn(scores)`` returns True if nothing is left to improve; None: that never happens.
        reduction_fn: makes one score of the scores of a batch; None: the scores stay a list.
        reduction_fn_purpose: what ``reduction_fn`` does, in one word.
        on_error: what happens if ``eval_fn`` fails on some samples of a batch, after all have been tried: ``"raise"``:
            ``SamplesFailed``, whose ``results`` hold the scores of the others; ``"skip"``: such a sample scores 0 and
            gets no feedback, with a ``SamplesLeftOut`` warning.
        executor: a ``concurrent.futures.Executor`` that runs ``eval_fn``, such as a pool of processes or a cluster; at
            most 32 samples are on it at the same time. None: worker threads of this process.

    A sample whose prediction is None scores 0, without a call of ``eval_fn``, and gets no feedback.

    Your functions run on worker threads of this process (``eval_fn`` on ``executor``), ``success_fn`` in the backward
    pass as well.

    Raises:
        TypeError: an argument of another type.
        SamplesFailed: ``eval_fn`` failed on some samples of the batch (see ``on_error``).
    """
    check_on_error(on_error)
    _check_variable("prediction", prediction)
    target = target if isinstance(target, Variable) else plain(target)
    _check_callable("eval_fn", eval_fn, is_optional=False)
    _check_callable("success_fn", success_fn)
    _check_callable("reduction_fn", reduction_fn)
    check_lengths({"prediction": prediction, "target": target})
    return _pair(
        DeterministicEvaluator.apply(
            prediction,
            target,
            on_executor(eval_fn, executor),
            eval_fn_purpose,
            success_fn,
            reduction_fn,
            reduction_fn_purpose,
            on_error=on_error,
        )
    )


def exact_match_evaluator(
    prediction: Variable,
    target: Target,
    reduction_fn: Reduction | None = builtins.sum,
    reduction_fn_purpose: str | Variable | None = "summation",
) -> tuple[Variable, Variable]:
    """Score (1 where prediction and target are equal, else 0) and explanation; else as ``deterministic_evaluator``."""
    _check_variable("prediction", prediction)
    target = target if isinstance(target, Variable) else plain(target)
    _check_callable("reduction_fn", reduction_fn)
    check_lengths({"prediction": prediction, "target": target})
    return _pair(ExactMatchEvaluator.apply(prediction, target, reduction_fn, reduction_fn_purpose))


def lm_judge_evaluator(
    forward_model_client: ChatCompletionModel | None,
    messages: Messages,
    prediction: Variable,
    target: Target | None = None,
    inputs: Inputs | None = None,
    success_fn: Callable[[list[Score]], bool] | None = None,
    reduction_fn: Reduction | None = builtins.sum,
    reduction_fn_purpose: str | Variable | None = "summation",
    eval_mode: bool | Variable = True,
    on_error: OnError = "raise",
    **completion_args: Any,
) -> tuple[Variable, Variable]:
    """Score and explanation by a language model, which answers JSON with ``score`` and ``explanation``.

    Args:
        forward_model_client: the judge.
        messages: the chat; ``{prediction}`` and ``{target}`` in it stand for those.
        prediction: the Variable to evaluate; a list is a batch.
        target: the right answer, if there is one.
        inputs: values for other placeholders; the names ``prediction`` and ``target`` are reserved.
        success_fn, reduction_fn, reduction_fn_purpose: as in ``deterministic_evaluator``.
        eval_mode: True: feedback is for the prediction; False: for messages and inputs, to improve the judge.
        on_error: as in ``deterministic_evaluator``, if the judge fails on some samples.
        completion_args: passed on to the model.

    Raises:
        SamplesFailed: some samples of the batch failed (see ``on_error``).
        ValueError: ``inputs`` uses a taken name.
    """
    check_on_error(on_error)
    check_model("forward_model_client", forward_model_client)
    check_messages(messages)
    _check_variable("prediction", prediction)
    target = target if isinstance(target, Variable) else plain(target)
    inputs = plain_inputs(inputs)
    check_inputs(inputs)
    taken = {"prediction", "target"} & set(inputs or {})
    if taken:
        raise ValueError(f"inputs must not use the names {sorted(taken)}: they stand for the arguments")
    warn_of_unused_inputs(messages, inputs)
    check_lengths({"prediction": prediction, "target": target, **parts_of(messages), **columns_of(inputs)})
    _check_callable("success_fn", success_fn)
    _check_callable("reduction_fn", reduction_fn)
    with _question(forward_model_client, completion_args):
        return _pair(
            LMJudgeEvaluator.apply(
                forward_model_client,
                messages,
                prediction,
                target,
                inputs,
                success_fn,
                reduction_fn,
                reduction_fn_purpose,
                eval_mode,
                on_error=on_error,
                **completion_args,
            )
        )


@contextmanager
def _question(model: ChatCompletionModel | None, completion_args: Mapping[str, Any]) -> Iterator[None]:
    """If spans are wanted: one for what this asks a language model, by the conventions for generative AI."""
    if not TRACERS or model is None:
        yield
        return
    name = completion_args.get("model")
    name = name if isinstance(name, str) else None
    attributes = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": model.provider,
        "gen_ai.request.model": name,
        **{f"gen_ai.request.{key}": completion_args.get(key) for key in ("temperature", "top_p", "max_tokens", "seed")},
    }
    attributes = {key: value for key, value in attributes.items() if isinstance(value, (str, int, float))}
    before = model.get_usage()
    with span(f"chat {name}" if name else "chat", attributes) as late:
        try:
            yield
        finally:  # what was asked before a failure was paid, too
            used = model.get_usage()
            late["gen_ai.usage.input_tokens"] = used["prompt_tokens"] - before["prompt_tokens"]
            late["gen_ai.usage.output_tokens"] = used["completion_tokens"] - before["completion_tokens"]


def _check_variable(name: str, value: object) -> None:
    if not isinstance(value, Variable):
        raise TypeError(f"{name} must be a Variable, not {type(value).__name__}")


def _check_callable(name: str, value: object, is_optional: bool = True) -> None:
    if not (callable(value) or (is_optional and value is None)):
        raise TypeError(f"{name} must be a function, not {type(value).__name__}")


def _single(outputs: Variable | tuple[Variable, ...]) -> Variable:
    if isinstance(outputs, Variable):
        return outputs
    raise RemoteProtocolError(f"The function has {len(outputs)} outputs instead of one.", received=repr(outputs))


def _pair(outputs: Variable | tuple[Variable, ...]) -> tuple[Variable, Variable]:
    if isinstance(outputs, tuple) and len(outputs) == 2:
        return outputs
    raise RemoteProtocolError("An evaluator must return score and explanation.", received=repr(outputs))
