"""The backward pass (PROTOCOL.md §C.1, §C.2, §G.3)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Union

from ..errors import RemoteProtocolError, UsageError
from ..model.calling import Call
from ..model.link import Link
from ..model.replies import check_message, member
from ..model.variable import Variable

logger = logging.getLogger(__name__)

_FLAG = "_pending_grad"
_DONE = "Backward pass executed successfully."

Variables = Union[Variable, Sequence[Variable]]


def backward(
    variables: Variables,
    grad_variables: Variable | Sequence[Variable | None] | None = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    inputs: Variables | None = None,
) -> None:
    """Compute feedback for every leaf that needs it, from ``variables`` back through the graph.

    Gradients are appended to ``grad`` of the leaves (and of computed Variables with ``retain_grad()``), one per
    path. They have arrived when this returns. Two calls, the second of them long.

    Args:
        variables: where to start.
        grad_variables: the feedback on each of them; needed for those that hold a list. One Variable, or one
            per start (None: no feedback of its own).
        retain_graph: keep the graph for another pass; None: as ``create_graph``.
        create_graph: make the gradients themselves part of a graph.
        inputs: collect gradients in these leaves only.

    Raises:
        TypeError: an argument of the wrong type.
        UsageError: ``variables`` or ``inputs`` is empty, there are not as many gradients as starts, or the
            server does not know one of them.
        RemoteError: the pass failed on the server.
    """
    starts = _as_list("variables", variables)
    if inputs is not None:
        _as_list("inputs", inputs)
    _check_gradients(grad_variables, len(starts))
    link = starts[0]._session_link()
    registries = link.registries
    receivers = _receivers(link, variables)
    # The graph of the starts is freed there.
    with Call(link, changes=[*receivers, *starts]) as call:
        params = {
            "variables": _references(variables),
            "grad_variables": _references(grad_variables),
            "retain_graph": retain_graph,
            "create_graph": create_graph,
            "inputs": _references(inputs),
        }
        registries.mark_pending(receivers, _FLAG)
        try:
            check_message("run_backward", call.request("run_backward", params), _DONE)
        except BaseException:
            # Ctrl-C too: nobody would clear the flags.
            registries.clear_pending(receivers, _FLAG)
            raise


def _receivers(link: Link, variables: Variables) -> list[Variable]:
    """The Variables that will get a gradient, as far as they are still alive here."""
    with Call(link) as call:
        result = call.request("get_backprop_ids", {"variables": _references(variables)})
        ids = (
            []
            if isinstance(result, dict) and "variable_ids" not in result
            else member("get_backprop_ids", result, "variable_ids")
        )
        if not isinstance(ids, list):
            raise RemoteProtocolError("The reply to 'get_backprop_ids' holds no list of ids.", received=repr(result))
        found = [link.registries.variables.lookup(variable_id) for variable_id in ids]
    unknown = [variable_id for variable_id, variable in zip(ids, found) if variable is None]
    if unknown:
        logger.warning("The server will compute gradients for Variables unknown here: %s", unknown)
    return [variable for variable in found if variable is not None]


def _as_list(name: str, variables: Variables) -> list[Variable]:
    if not isinstance(variables, (Variable, list, tuple)):
        raise TypeError(f"{name} must be a Variable or a list of them, not {type(variables).__name__}")
    listed = [variables] if isinstance(variables, Variable) else list(variables)
    if not listed:
        raise UsageError(f"{name} is empty: there is nothing to compute gradients for.")
    for variable in listed:
        if not isinstance(variable, Variable):
            raise TypeError(f"{name} must be Variables, not {type(variable).__name__}")
    return listed


def _check_gradients(gradients: Variable | Sequence[Variable | None] | None, count: int) -> None:
    if gradients is None or isinstance(gradients, Variable):
        return
    if not isinstance(gradients, (list, tuple)):
        raise TypeError(f"grad_variables must be a Variable or a list of them, not {type(gradients).__name__}")
    if len(gradients) != count:
        raise UsageError(f"{count} variables need as many grad_variables, not {len(gradients)}.")
    for gradient in gradients:
        if not (gradient is None or isinstance(gradient, Variable)):
            raise TypeError(f"grad_variables must be Variables or None, not {type(gradient).__name__}")


def _references(variables: Variable | Sequence[Variable | None] | None) -> Any:
    """One reference for one Variable, a list for several, None for none."""
    if variables is None:
        return None
    if isinstance(variables, Variable):
        return variables._reference()
    return [None if variable is None else variable._reference() for variable in variables]
