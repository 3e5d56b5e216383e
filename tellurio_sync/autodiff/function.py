"""Running functions on the server (protocol §C, §G)."""

from __future__ import annotations

from typing import Any

from ..errors import RemoteProtocolError, UsageError
from ..model.call import Call
from ..model.reply_checks import member
from ..model.variable import Variable
from ..model.wire import decode_outputs, leaves_without_node, link_of, mirrored_in, serialise, wait_until_made
from .grad_mode import is_grad_enabled
from .left_out import ON_ERROR, RAISE, warn_of_left_out


class Function:
    """A step of the graph.

    The name of a subclass is the name of the function that the server computes.  A subclass that has ``forward`` and
    ``backward`` is your own step instead, and both run here::

        class Shorten(te.autograd.Function):
            @staticmethod
            def forward(ctx, text, limit):
                ctx.limit = limit
                return text[:limit]

            @staticmethod
            def backward(ctx, feedback):
                return f"Only the first {ctx.limit} characters are used. {feedback}", None

        short = Shorten.apply(long, 200)

    ``forward`` gets plain data in the place of Variables, and returns data, or a tuple of them for several outputs.
    ``backward`` gets one feedback for each output (a text; for a batch also a list of texts; None if there is none) and
    returns one for each input of ``forward``: a text, for a batch also a list of texts, or None.  If the class has
    ``setup_context``, ``forward`` takes no ``ctx``, and ``setup_context(ctx, inputs, output)`` fills it.  They run on
    worker threads, and may call the server.  ``ctx.needs_input_grad`` says for each input whether its feedback will be
    used.
    """

    @classmethod
    def apply(cls, *args: Any, **kwargs: Any) -> Variable | tuple[Variable, ...]:
        """Run the function. Arguments are sent as they are given: positional ones by position, keywords by name.

        One long call: one round trip.

        Returns:
            The output, or a tuple of them.

        Raises:
            TypeError: an argument that cannot be sent.
            UsageError: an argument that the server does not know.
            UsageError: the server does not know functions of the client, for one of your own.
            SamplesFailed: it failed for some samples of a batch (with ``on_error="raise"``).
            RemoteError: the function failed there.
            RemoteProtocolError: the reply makes no sense.
        """
        if hasattr(cls, "forward"):
            return _apply_here(cls, args, kwargs)
        on_error = kwargs.pop("on_error", RAISE)
        mirrored = mirrored_in((args, kwargs))
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


# --- functions of the user ---------------------------------------------------------------------------------

_EXTENSION = "client_function"


class ClientFunction(Function):
    """``name``, ``forward``, ``backward``, ``inputs`` (protocol §K.10)."""


class Context:
    """What ``forward`` of a function leaves for its ``backward``: set any attributes.

    Attributes:
        needs_input_grad: for each input of ``forward``, whether its feedback will be used.
    """

    needs_input_grad: tuple[bool, ...] = ()

    def save_for_backward(self, *values: Any) -> None:
        """Keep these values as ``saved_values``."""
        self.saved_values = values


def _apply_here(cls: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Variable | tuple[Variable, ...]:
    if not hasattr(cls, "backward"):
        raise TypeError(f"{cls.__name__} has forward(), but no backward(): write one in the class.")
    inputs = [*args, *kwargs.values()]
    names = list(kwargs)
    mirrored = mirrored_in(inputs)
    wait_until_made(mirrored)
    # With a Variable there is a login, so that it is known what the server understands.
    if mirrored and _EXTENSION not in link_of(mirrored).extensions:
        raise UsageError("This server runs no functions of the client: only a local backend does.")
    counts = [len(mirrored_in(value)) for value in inputs]
    roles = [variable.role for variable in mirrored if isinstance(variable, Variable)]
    role = f"output of {cls.__name__}" + (f" for {' and '.join(map(str, roles))}" if roles else "")
    context = Context()

    def forward(values: list[Any]) -> dict[str, Any]:
        positional = values[: len(values) - len(names)]
        keywords = dict(zip(names, values[len(positional) :]))
        if hasattr(cls, "setup_context"):
            output = cls.forward(*positional, **keywords)
            cls.setup_context(context, tuple(values), output)
        else:
            output = cls.forward(context, *positional, **keywords)
        outputs = output if isinstance(output, tuple) else (output,)
        return {"outputs": [_described(each, role) for each in outputs], "is_list": isinstance(output, tuple)}

    def backward(gradients: list[Any], wanted: list[bool]) -> list[Any]:
        remaining = iter(wanted)
        of_inputs = [[next(remaining) for _ in range(count)] for count in counts]
        context.needs_input_grad = tuple(map(any, of_inputs))
        feedback = cls.backward(context, *gradients)
        return _per_variable(cls.__name__, feedback, counts)

    return ClientFunction.apply(cls.__name__, forward, backward, inputs)


def _described(output: Any, role: str) -> dict[str, Any]:
    if isinstance(output, Variable):
        return {"data": output.data, "role": output.role or role}
    return {"data": output, "role": role}


def _per_variable(name: str, feedback: Any, counts: list[int]) -> list[Any]:
    """One feedback for each Variable among the inputs; ``counts``: how many there are in each input."""
    given = list(feedback) if isinstance(feedback, tuple) else [feedback]
    given = [each.data if isinstance(each, Variable) else each for each in given]
    if len(given) == len(counts):
        flat: list[Any] = []
        for value, count in zip(given, counts):
            if count == 1:
                flat.append(value)
            elif count and isinstance(value, (list, tuple)) and len(value) == count:
                flat.extend(value)
            else:  # one text for all Variables of a list
                flat.extend([value] * count)
        return flat
    if len(given) == sum(counts):
        return given
    raise ValueError(
        f"backward of {name} must return one value for each of its {len(counts)} inputs, not {len(given)}."
    )
