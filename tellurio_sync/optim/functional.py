"""One optimizer step as a function: everything it needs is passed in (protocol §I.2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from ..autodiff.messages import Inputs, Messages, check_inputs, check_messages, check_model
from ..errors import RemoteProtocolError, UsageError, shorten_repr
from ..model.call import Call
from ..model.language import ChatCompletionModel
from ..model.reply_checks import check_message, member
from ..model.session_link import SessionLink
from ..model.variable import Variable
from ..model.wire import link_of, serialise, wait_until_made
from .state import Momentum, StateDecoder
from .told import rejected_in, warn_of_told

Accept = Literal["batch"]
"""How new data is tried before it is adopted: see :class:`TGD`."""

_FLAG = "_pending_data"
_DONE = "Functional TGD optimization step executed successfully."


def tgd(
    params: Sequence[Variable],
    grads: Sequence[Sequence[Variable]],
    momentum_buffer_list: list[Momentum],
    model_client: ChatCompletionModel | None,
    messages: Messages,
    inputs: Inputs | None,
    constraints: Sequence[str | Variable] | None,
    momentum: int,
    accept: Accept | None = None,
    **completion_args: Any,
) -> int:
    """Let a language model rewrite each of ``params`` by its gradients. One long call: one round trip.

    Args:
        params: the parameters to optimise; they get new data.
        grads: the gradients of each parameter; a parameter without gradients is not changed.
        momentum_buffer_list: the former steps of each parameter; refilled in place, with this step added.
        model_client: the model that rewrites.
        messages: the optimizer's prompts.
        inputs: values for the placeholders ``{name}`` in the messages.
        constraints: rules for the new data, in words.
        momentum: how many former steps are kept and shown, >= 0.
        accept: as for :class:`TGD`.
        completion_args: passed on to the model.

    Returns:
        How many of ``params`` keep their data because the new data was no better; without ``accept`` 0.

    Raises:
        TypeError, ValueError: an argument of the wrong form.
        RemoteError: the step failed on the server.
        UnknownVariable: a copy that the reply names did not come.
    """
    params = list(params)
    check_model("model_client", model_client)
    check_messages(messages)
    check_inputs(inputs)
    check_momentum(momentum)
    check_accept(accept)
    if len(grads) != len(params) or len(momentum_buffer_list) not in (0, len(params)):
        counts = f"{len(params)} params, {len(grads)} grads, {len(momentum_buffer_list)} momentum buffers"
        raise ValueError(f"grads and momentum_buffer_list must have an item for each of params: {counts}")
    arguments = {
        "params": params,
        "grads": [list(gradients) for gradients in grads],
        "momentum_buffer_list": momentum_buffer_list,
        "model_client": model_client,
        "messages": messages,
        "inputs": inputs,
        "constraints": None if constraints is None else list(constraints),
        "momentum": momentum,
        "completion_args": completion_args,
    }
    if accept is not None:
        arguments["accept"] = accept
    wait_until_made(arguments)
    link = link_of(arguments)
    check_knows_accept(link, accept)
    registries = link.registries
    keep: list[object] = []
    with Call(link, changes=params) as call:
        wire = serialise(arguments, registries, keep)
        registries.mark_pending(params, _FLAG)
        try:
            result = call.request("run_optimizer_tgd", wire)
            check_message("run_optimizer_tgd", result, _DONE)
            buffers = member("run_optimizer_tgd", result, "momentum_buffer_list")
            if not isinstance(buffers, list) or len(buffers) != len(params):
                text = "The reply to 'run_optimizer_tgd' does not have one momentum buffer for each parameter."
                raise RemoteProtocolError(text, received=repr(result))
            decoder = StateDecoder(link)
            momentum_buffer_list[:] = [decoder.momentum(buffer) for buffer in buffers]
        except BaseException:
            # Also after Ctrl-C: the server will not clear these flags any more.
            registries.clear_pending(params, _FLAG)
            raise
    warn_of_told(result)
    return rejected_in(result)


def check_accept(accept: object) -> None:
    """Raises ValueError unless ``accept`` is None or "batch"."""
    if accept not in (None, "batch"):
        raise ValueError(f"accept must be 'batch' or None, not {shorten_repr(accept)}")


def check_knows_accept(link: SessionLink, accept: object) -> None:
    """Raises UsageError if the server cannot try new data before it adopts it."""
    if accept is not None and "accept" not in link.extensions:
        raise UsageError("This server cannot try new data before it adopts it: leave accept='batch' out.")


def check_momentum(momentum: object) -> None:
    """Raises TypeError or ValueError unless ``momentum`` is an int >= 0."""
    if not isinstance(momentum, int) or isinstance(momentum, bool):
        raise TypeError(f"momentum must be an int, not {momentum!r}")
    if momentum < 0:
        raise ValueError(f"momentum must be >= 0, not {momentum}")
