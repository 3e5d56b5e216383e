"""Running functions on the server (protocol §C, §G)."""

from __future__ import annotations

from typing import Any

from ..errors import RemoteProtocolError
from ..model.call import Call
from ..model.reply_checks import member
from ..model.variable import Variable
from ..model.wire import decode_outputs, leaves_without_node, link_of, mirrored_in, serialise, wait_until_made
from .grad_mode import is_grad_enabled
from .left_out import ON_ERROR, RAISE, warn_of_left_out


class Function:
    """A function that the server computes. The name of the subclass is the name of the function there."""

    @classmethod
    def apply(cls, *args: Any, **kwargs: Any) -> Variable | tuple[Variable, ...]:
        """Run the function. Arguments are sent as they are given: positional ones by position, keywords by name.

        One long call: one round trip.

        Returns:
            The output, or a tuple of them.

        Raises:
            TypeError: an argument that cannot be sent.
            UsageError: an argument that the server does not know.
            SamplesFailed: it failed for some samples of a batch (with ``on_error="raise"``).
            RemoteError: the function failed there.
            RemoteProtocolError: the reply makes no sense.
        """
        on_error = kwargs.pop("on_error", RAISE)
        mirrored = list(mirrored_in((args, kwargs)))
        wait_until_made(mirrored)
        link = link_of(mirrored)
        registries = link.registries
        arguments: list[object] = []
        with Call(link, changes=leaves_without_node(mirrored)) as call:
            params: dict[str, Any] = {
                "function_name": cls.__name__,
                "grad_enabled": is_grad_enabled(),
                "args": [serialise(argument, registries, arguments) for argument in args],
                "kwargs": {name: serialise(argument, registries, arguments) for name, argument in kwargs.items()},
            }
            # To a server that does not know it, it would be an argument for the language model.
            if on_error != RAISE and ON_ERROR in link.extensions:
                params["kwargs"]["on_error"] = on_error
            result = call.request("run_function", params)
            data = member("run_function", result, "data")
            if not data:
                raise RemoteProtocolError(f"{cls.__name__} has returned nothing.", received=repr(result))
            outputs = decode_outputs(data, link, tuple(arguments))
        warn_of_left_out(result)
        return outputs


class Add(Function):
    """``x``, ``y``."""


class Sum(Function):
    """``x``: a list of Variables."""


class Split(Function):
    """``x``, ``sep=None``, ``maxsplit=-1``."""


class ChatCompletion(Function):
    """``forward_model_client``, ``messages``, ``inputs=None``, ``**completion_args``."""


class DeterministicEvaluator(Function):
    """``prediction``, ``target``, ``eval_fn``, ``eval_fn_purpose``, ``success_fn``, ``reduction_fn``, ``reduction_fn_purpose``."""  # noqa: E501


class ExactMatchEvaluator(Function):
    """``prediction``, ``target``, ``reduction_fn=sum``, ``reduction_fn_purpose="summation"``."""


class LMJudgeEvaluator(Function):
    """As ``functional.lm_judge_evaluator``."""
