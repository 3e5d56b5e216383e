"""The conversion between Python objects and their JSON form (protocol §E)."""

from __future__ import annotations

from collections.abc import Callable
from types import BuiltinFunctionType
from typing import Any

from ..errors import RemoteProtocolError, UnknownModel, UnknownVariable, shorten
from .graph import ACCUMULATE_GRAD
from .language import MODEL_TAG, ChatCompletionModel
from .registries import Registries
from .restorable import reference
from .session_link import SessionLink, current_link
from .variable import Variable, check_output_nr
from .variable_state import (
    PARAMETER_TAG,
    VARIABLE_TAG,
    accumulators,
    held_node,
    keep_accumulators,
    keep_arguments,
    own_link,
    received,
    set_local,
    wait_for_id,
)

CALLABLE_TAG = "__callable__"

# A server may compute these itself, instead of calling them here.
_BUILTINS = frozenset({all, any, max, min, sum})

_AS_IS = frozenset({str, int, float, bool, type(None)})
_OUTPUT_KEYS = (
    "variable_id",
    "data",
    "role",
    "requires_grad",
    "_retain_grad",
    "_grad",
    "_output_nr",
    "_grad_fn",
    "is_leaf",
)
LookUp = Callable[[str], "Variable | None"]


# --- to the server ------------------------------------------------------------------------------


def serialise(value: Any, registries: Registries, keep: list[object]) -> Any:
    """``value`` with Variables, models and callables replaced by references (protocol §E.1).

    Args:
        value: an argument of a call.
        registries: gives callables their ids.
        keep: receives the objects behind the references. The caller must hold it as long as the server may use them.

    Raises:
        TypeError: an object that has no such form.
        UsageError: a Variable that the server does not know.
    """
    if type(value) in _AS_IS:
        return value
    if isinstance(value, (Variable, ChatCompletionModel)):
        keep.append(value)
        return reference(value)
    if callable(value):
        registered = registries.register_callable(value)
        keep.append(registered)
        described = {CALLABLE_TAG: True, "callable_id": registered.callable_id}
        if type(value) is BuiltinFunctionType and value in _BUILTINS:
            described["builtin"] = value.__name__
        return described
    if isinstance(value, list):
        return [serialise(item, registries, keep) for item in value]
    if isinstance(value, tuple):
        return tuple(serialise(item, registries, keep) for item in value)
    if isinstance(value, dict):
        return {key: serialise(item, registries, keep) for key, item in value.items()}
    if isinstance(value, (str, int, float)):
        return value
    raise TypeError(f"Cannot serialize object of type {type(value).__name__}: {shorten(repr(value))}")


class _Found(list["Variable | ChatCompletionModel"]):
    """What ``mirrored_in`` has found: there is nothing more to be found in it."""


def mirrored_in(value: Any) -> list[Variable | ChatCompletionModel]:
    """The Variables and models in these arguments, in lists, tuples and dicts too, in their order."""
    if type(value) is _Found:
        return value
    found = _Found()
    _collect(value, found)
    return found


def _collect(value: Any, found: list[Variable | ChatCompletionModel]) -> None:
    if isinstance(value, (Variable, ChatCompletionModel)):
        found.append(value)
    elif isinstance(value, (list, tuple)):
        for item in value:
            _collect(item, found)
    elif isinstance(value, dict):
        for item in list(value.values()):
            _collect(item, found)


def link_of(arguments: Any) -> SessionLink:
    """The session of the first Variable or model in these arguments that has one, else the current one."""
    for mirrored in mirrored_in(arguments):
        link = mirrored.link if isinstance(mirrored, ChatCompletionModel) else own_link(mirrored)
        if link is not None:
            return link
    return current_link()


def wait_until_made(arguments: Any) -> None:
    """Wait until all Variables in these arguments are made, even if they are queued in a batch of another thread.

    This must be done before a call begins, because no restore can run during a call; raises as
    ``Queue.wait_for``.
    """
    for mirrored in mirrored_in(arguments):
        if isinstance(mirrored, Variable):
            wait_for_id(mirrored)


def leaves_without_node(arguments: Any) -> list[Variable]:
    """The leaves in these arguments whose gradient node the server makes now, and announces only once."""
    return [
        variable
        for variable in mirrored_in(arguments)
        if isinstance(variable, Variable) and variable.is_leaf and variable.requires_grad and not accumulators(variable)
    ]


# --- from the server ----------------------------------------------------------------------------


def deserialise(value: Any, registries: Registries, look_up: LookUp | None = None) -> Any:
    """``value`` with references replaced by the registered objects themselves (protocol §E.3).

    Args:
        value: the received value.
        registries: where the objects are registered.
        look_up: finds a Variable by its id; None: in the registries, without waiting.

    Raises:
        UnknownVariable, UnknownModel: a reference to an object that is not registered.
        TypeError: a Python object that JSON does not have.
    """
    if type(value) in _AS_IS:
        return value
    if isinstance(value, dict):
        for tag, kind in ((VARIABLE_TAG, "Variable"), (PARAMETER_TAG, "Parameter")):
            if value.get(tag):
                return _find_variable(value.get("variable_id"), kind, look_up or registries.variables.lookup)
        if value.get(MODEL_TAG):
            return _find_model(value.get("model_id"), registries)
        return {key: deserialise(item, registries, look_up) for key, item in value.items()}
    if isinstance(value, list):
        return [deserialise(item, registries, look_up) for item in value]
    if isinstance(value, tuple):
        return tuple(deserialise(item, registries, look_up) for item in value)
    if isinstance(value, (str, int, float)):
        return value
    raise TypeError(f"Cannot deserialize object of type {type(value)}")


def _find_variable(variable_id: Any, kind: str, look_up: LookUp) -> Variable:
    variable = look_up(variable_id)
    if variable is None:
        raise UnknownVariable(f"{kind} with variable_id {variable_id!r} not found", variable_id=variable_id)
    return variable


def _find_model(model_id: Any, registries: Registries) -> ChatCompletionModel:
    model = registries.models.lookup(model_id)
    if model is None:
        raise UnknownModel(f"Model with model_id {model_id!r} not found", model_id=model_id)
    return model


def decode_outputs(data: Any, link: SessionLink, arguments: tuple[object, ...]) -> Variable | tuple[Variable, ...]:
    """The outputs of a function: new, registered Variables, bound to their node (protocol §E.4).

    Args:
        data: one variable object, or a list of them (which gives a tuple).
        link: the session.
        arguments: the arguments of the function; outputs that belong to a graph keep them.

    Raises:
        TypeError: something else in the place of a variable object.
        RemoteProtocolError: a variable object without one of its keys, or that contradicts itself.
    """
    if isinstance(data, (list, tuple)):
        outputs = tuple(_decode_output(item, link) for item in data)
    else:
        outputs = (_decode_output(data, link),)
    for output in outputs:
        if output.requires_grad:
            keep_arguments(output, arguments)
            _keep_accumulators(output, arguments)
    return outputs if isinstance(data, (list, tuple)) else outputs[0]


def _decode_output(item: Any, link: SessionLink) -> Variable:
    if not isinstance(item, dict) or "variable_id" not in item or "data" not in item:
        text = f"Deserialization only supports Variable or Tuple[Variable], but got: {type(item)}"
        raise TypeError(text)
    missing = [key for key in _OUTPUT_KEYS if key not in item]
    if missing:
        raise RemoteProtocolError(f"An output of a function has no {', '.join(missing)}.", received=repr(item))
    variable_id, node_id = item["variable_id"], item["_grad_fn"]
    if not isinstance(variable_id, str) or not (node_id is None or isinstance(node_id, str)):
        raise RemoteProtocolError("An output of a function has an id that is no string.", received=repr(item))
    if node_id is not None and not item["requires_grad"]:
        raise RemoteProtocolError("An output of a function has a node but needs no gradient.", received=repr(item))
    variable = received(Variable, link, variable_id, item["data"], item["role"], item["requires_grad"])
    check_output_nr(item["_output_nr"])
    set_local(variable, "_output_nr", item["_output_nr"])
    set_local(variable, "_retain_grad", bool(item["_retain_grad"]))
    set_local(variable, "is_leaf", bool(item["is_leaf"]))
    registries = link.registries
    set_local(variable, "_grad", deserialise(item["_grad"], registries))
    registries.variables.register(variable_id, variable)
    if node_id is not None:
        registries.bind_grad_fn(variable, node_id)
    return variable


def _keep_accumulators(output: Variable, arguments: tuple[object, ...]) -> None:
    # The server makes one AccumulateGrad node per leaf, announces it once, and names it in the edges of every later
    # function on this leaf. So it must live as long as the leaf. For nested arguments the server does not say which
    # leaf an edge belongs to; a leaf that has no such node yet keeps all of them, because its own is among them.
    output_node = held_node(output)
    if output_node is None:
        return
    nodes = [edge.node for edge in output_node.next_functions]
    found = tuple(node for node in nodes if node is not None and node.name() == ACCUMULATE_GRAD)
    known = frozenset(found)
    for argument in arguments:
        if not isinstance(argument, Variable) or not (argument.is_leaf and argument.requires_grad):
            continue
        if known.isdisjoint(accumulators(argument)):
            keep_accumulators(argument, found)
