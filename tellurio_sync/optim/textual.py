"""Textual gradient descent (protocol §I)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..autodiff.messages import Inputs, Messages, check_inputs, check_messages, check_model
from ..errors import shorten_repr
from ..model.batch.dataset import variables
from ..model.language import ChatCompletionModel, OpenAI
from ..model.variable import Variable
from .functional import Accept, check_accept, check_momentum, tgd
from .optimizer import Optimizer, Params
from .state import State

_SYSTEM_ROLE = "Textual Gradient Descent optimizer system prompt"
_USER_ROLE = "Textual Gradient Descent optimizer user prompt"


_OF_NUMBERS = frozenset({"lr", "learning_rate", "weight_decay", "betas", "eps", "dampening", "nesterov"})
"""Arguments of optimizers of numbers, which would be passed on to the language model."""


class TGD(Optimizer):
    """Lets a language model rewrite each parameter, guided by the feedback that the parameter got.

    Args:
        params: Variables, or groups ``{"params": [...], <settings>}`` whose settings win over those below.
        model_client: the model that rewrites.
        messages: the prompts, ``[{"role": "system", "content": [Variable, ...]}, ...]``; None: the server's own.
        inputs: values for the placeholders ``{name}`` in the messages.
        constraints: rules for the new data, in words.
        momentum: how many former steps are kept and shown, >= 0.
        accept: ``"batch"``: a step tries the new data on the samples of the batch before it adopts it: the server
            applies the functions between the parameters and the evaluators again, first for the samples that came out
            wrong, and stops when nothing can be won any more. It is adopted if the sum of the scores is higher; else
            the data stays, the next step shows the attempt to the model, and ``rejected`` counts it. It costs up to one
            question of each chat for each sample. All parameters of the optimizer are tried together. A higher score
            must be better. None: new data is adopted as it comes.
        completion_args: passed on to the model, such as ``model="gpt-4o"``.

    One round trip; with ``messages=None`` two.

    Raises:
        TypeError, ValueError: an argument of the wrong form.
        UsageError: a parameter that was computed, or that the server does not know; or the server does not know
            ``accept``.
    """

    name = "TGD"

    def __init__(
        self,
        params: Params,
        model_client: ChatCompletionModel | None,
        messages: Messages | None = None,
        inputs: Inputs | None = None,
        constraints: Sequence[str | Variable] | None = None,
        momentum: int = 0,
        accept: Accept | None = None,
        **completion_args: Any,
    ) -> None:
        check_accept(accept)
        check_model("model_client", model_client)
        _check_completion_args(model_client, completion_args)
        check_inputs(inputs)
        check_momentum(momentum)
        _check_constraints(constraints)
        if messages is None:
            messages = _placeholder_messages()
        check_messages(messages)
        defaults: dict[str, Any] = {
            "model_client": model_client,
            "messages": messages,
            "inputs": dict(inputs or {}),
            "constraints": list(constraints or []),
            "momentum": momentum,
            "completion_args": completion_args,
        }
        if accept is not None:
            defaults["accept"] = accept
        super().__init__(params, defaults)

    def _step_here(self) -> None:
        new: State = {}
        for group in self.param_groups:
            params = group["params"]
            settings = {name: group.get(name, default) for name, default in self.defaults.items()}
            # As they are here: a pending gradient is one that the server has announced and not yet sent.
            grads = [parameter.grad for parameter in params]
            buffers = [self.state.get(parameter, {}).get("momentum_buffer", []) for parameter in params]
            completion_args = settings.pop("completion_args")
            self.rejected += tgd(params, grads, buffers, **settings, **completion_args)
            for parameter, buffer in zip(params, buffers):
                new[parameter] = {"momentum_buffer": buffer}
        self.state.update(new)


def _check_completion_args(model_client: ChatCompletionModel | None, completion_args: dict[str, Any]) -> None:
    of_numbers = sorted(_OF_NUMBERS & completion_args.keys())
    if of_numbers:
        raise TypeError(
            f"TGD takes no {', '.join(of_numbers)}: a language model rewrites the text, there is nothing to scale. "
            "`momentum` says how many earlier texts it is shown, `constraints` what it must obey."
        )
    if isinstance(model_client, OpenAI) and "model" not in completion_args:
        raise ValueError("Say which model is meant: TGD(..., model='gpt-4o').")


def _placeholder_messages() -> Messages:
    # The server puts its own prompts in their place, and leaves the data here alone (protocol §I.1).
    roles = (_SYSTEM_ROLE, _USER_ROLE)
    system, user = variables([f"Placeholder for {role}" for role in roles], roles)
    return [{"role": "system", "content": [system]}, {"role": "user", "content": [user]}]


def _check_constraints(constraints: object) -> None:
    if constraints is None:
        return
    if not isinstance(constraints, (list, tuple)) or not all(isinstance(item, (str, Variable)) for item in constraints):
        raise TypeError(f"constraints must be a list of str or Variables, not {shorten_repr(constraints)}")
