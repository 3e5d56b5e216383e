"""The methods that the server may call (protocol §D): each is the ``rpc_...`` method of the client of the same name.

Every method takes the ``params`` of the request and returns the ``result`` of its reply.  A failure raises: an
``RpcError`` is answered as it is, any other exception as -32603 with its text.  Texts that programs compare are kept
exactly (§B.1).

All but ``run_callable`` run on the receive thread, in wire order: they never block, never call the server and never run
code of the user.  ``run_callable`` runs on a worker thread; the function that it calls may call the server.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any, Protocol

from ..errors import (
    LocalProtocolError,
    UnknownCallable,
    UnknownModel,
    UnknownNode,
    UnknownVariable,
    UsageError,
    shorten,
)
from ..jsonrpc import INTERNAL_ERROR, MissingParam, RpcError, encode
from ..model.data import normalise, plain
from ..model.graph import GradientEdge, Node
from ..model.registries import Registries
from ..model.session_link import use_link
from ..model.variable import CLASS_BY_TAG, Variable, check_output_nr
from ..model.variable_state import PENDING_DATA, PENDING_GRAD, bind_node, holds_grad, keep_records, received, set_local
from ..model.wire import deserialise

ON_WORKER = frozenset({"run_callable"})
"""The methods that run on a worker thread; all others run on the receive thread."""

_OK = {"message": "Ok"}
_VARIABLE_KEYS = (
    "variable_id",
    "obj_type",
    "data",
    "role",
    "requires_grad",
    "_retain_grad",
    "_grad",
    "_output_nr",
    "_grad_fn",
    "is_leaf",
)
_GRADIENT_KEYS = frozenset({"variable_id", "data", "role", "requires_grad", "records"})


class HasRegistries(Protocol):
    """What a method needs of the object that it belongs to: in use it is the client."""

    registries: Registries


# --- variables ----------------------------------------------------------------------------------


def create_variable(self: HasRegistries, params: dict[str, Any]) -> Any:
    """Make a Variable or Parameter that exists on the server: a copy that an optimizer keeps.

    Raises:
        MissingParam: a key of protocol §D is absent.
        ValueError: an ``obj_type`` that is neither.
        TypeError, ValueError: data that no Variable may hold.
        UnknownVariable: a gradient that is not registered.
    """
    registries = self.registries
    variable_id, obj_type, data, role, requires_grad, retain_grad, grad, output_nr, node_id, is_leaf = (
        _required(params, key) for key in _VARIABLE_KEYS
    )
    cls = CLASS_BY_TAG.get(obj_type) if isinstance(obj_type, str) else None
    if cls is None:
        raise ValueError(f"Unsupported object type '{obj_type}' for Variable or Parameter creation.")
    check_output_nr(output_nr)
    variable = received(cls, registries.link, _id("variable_id", variable_id), data, role, requires_grad)
    set_local(variable, "_retain_grad", bool(retain_grad))
    set_local(variable, "_grad", deserialise(_list("_grad", grad), registries))
    set_local(variable, "_output_nr", output_nr)
    set_local(variable, "is_leaf", bool(is_leaf))
    node = registries.nodes.lookup(node_id) if requires_grad else None
    if node is not None:
        bind_node(variable, node)
    registries.register_pushed_variable(variable_id, variable)
    return _OK


def update_variable(self: HasRegistries, params: dict[str, Any]) -> Any:
    """Set one field (protocol §D.1). Fields that are neither documented nor a user's own are refused.

    Raises:
        MissingParam: a key is absent.
        UnknownVariable, UnknownNode: an object that is not registered.
        AttributeError: a field that the server may not set.
        TypeError, ValueError: a value that the field cannot have.
    """
    registries = self.registries
    variable_id, field, value = (_required(params, key) for key in ("variable_id", "field", "value"))
    variable = registries.variables.lookup(variable_id)
    if variable is None:
        # Protocol §B.1: programs compare this text.
        raise UnknownVariable(f"'NoneType' object has no attribute '{field}'", variable_id=variable_id)
    if field == "data":
        registries.set_pushed(variable, "_data", normalise(value))
    elif field in ("role", "is_leaf", "requires_grad", "_retain_grad"):
        registries.set_pushed(variable, field, value if field == "role" else _bool(field, value))
    elif field == "_grad":
        _check_holds_grad(variable)
        gradients = [_gradient(registries, item) for item in _list(field, [] if value is None else value)]
        registries.set_pushed(variable, "_grad", gradients)
    elif field in ("_output_nr", "output_nr"):
        check_output_nr(value)
        registries.set_pushed(variable, "_output_nr", value)
    elif field == "_grad_fn":
        node = None if value is None else _known_grad_fn(registries, variable_id, value)
        registries.rebind_grad_fn(variable, node)
    elif _is_free_name(field, Variable):
        set_local(variable, field, value)
    else:
        raise AttributeError(f"The server cannot set {field!r} of a Variable.")
    return _OK


def append_grad(self: HasRegistries, params: dict[str, Any]) -> Any:
    """Append one gradient to the live list of a Variable, and register it under its id.

    Raises:
        MissingParam: a key is absent.
        UnknownVariable: the Variable is not registered.
        UsageError: it holds no gradients.
        TypeError, ValueError: a gradient that is no Variable.
    """
    registries = self.registries
    variable_id, gradient_id, gradient = (_required(params, key) for key in ("variable_id", "gradient_id", "gradient"))
    variable = registries.variables.lookup(variable_id)
    if variable is None:
        # As in update_variable.
        raise UnknownVariable("'NoneType' object has no attribute 'append_grad'", variable_id=variable_id)
    _check_holds_grad(variable)
    new = _gradient(registries, {**_object("gradient", gradient), "variable_id": _id("gradient_id", gradient_id)})
    registries.append_pushed_gradient(variable, new)
    return _OK


def _gradient(registries: Registries, item: Any) -> Variable:
    """A gradient: a reference to a registered Variable, or the description of a new one.

    A gradient with an id is registered (protocol §D.1), so that it can be sent back; one without an id is not.
    """
    fields = _object("a gradient", item)
    if any(fields.get(tag) for tag in CLASS_BY_TAG):
        known: Variable = deserialise(fields, registries)
        return known
    unexpected = set(fields) - _GRADIENT_KEYS
    if unexpected:
        raise TypeError(f"a gradient got an unexpected keyword argument {sorted(unexpected)[0]!r}")
    variable_id = fields.get("variable_id")
    variable = received(
        Variable,
        registries.link,
        variable_id,
        fields.get("data", ""),
        fields.get("role", ""),
        fields.get("requires_grad", False),
    )
    if fields.get("records") is not None:
        keep_records(variable, fields["records"])
    if variable_id is not None:
        registries.register_pushed_variable(_id("variable_id", variable_id), variable)
    return variable


def _check_holds_grad(variable: Variable) -> None:
    if not holds_grad(variable):
        reason = "it is not a leaf and does not retain its gradient."
        raise UsageError(f"Failed to append gradient for variable with ID '{variable.variable_id}': {reason}")


def _known_grad_fn(registries: Registries, variable_id: Any, node_id: Any) -> Node:
    node = registries.nodes.lookup(node_id)
    if node is None:
        what = f"when updating _grad_fn for variable '{variable_id}'"
        raise UnknownNode(f"Node with id '{node_id}' not found in registry {what}.", node_id=node_id)
    return node


def clear_backward(self: HasRegistries, params: dict[str, Any]) -> Any:
    """All gradients of a backward pass have come: reading them does not wait any more.

    Raises:
        MissingParam: ``variable_ids`` is absent.
        UnknownVariable: some of them are not registered; the others are cleared all the same (protocol §D).
    """
    return _clear(self.registries, params, PENDING_GRAD, "backward pass")


def clear_step(self: HasRegistries, params: dict[str, Any]) -> Any:
    """All new data of an optimizer step has come; otherwise as ``clear_backward``."""
    return _clear(self.registries, params, PENDING_DATA, "optimizer step")


def _clear(registries: Registries, params: dict[str, Any], flag: str, what: str) -> Any:
    ids = _list("variable_ids", _required(params, "variable_ids"))
    found = [registries.variables.lookup(variable_id) for variable_id in ids]
    registries.clear_pending([variable for variable in found if variable is not None], flag)
    unknown = [variable_id for variable_id, variable in zip(ids, found) if variable is None]
    if unknown:
        names = ", ".join(f"'{variable_id}'" for variable_id in unknown)
        text = f"Failed to clear {flag} after the {what}: Variable with id {names} not found in registry."
        raise UnknownVariable(text, variable_id=unknown[0])
    return _OK


# --- graph --------------------------------------------------------------------------------------


def create_node(self: HasRegistries, params: dict[str, Any]) -> Any:
    """Register a node of the graph, and bind the Variables that wait for it (protocol §E.4).

    Raises:
        MissingParam: a key is absent.
        TypeError: id or name is no string.
    """
    registries = self.registries
    node_id, name = (_id(key, _required(params, key)) for key in ("node_id", "name"))
    registries.register_pushed_node(Node(node_id, name))
    return _OK


def create_edge(self: HasRegistries, params: dict[str, Any]) -> Any:
    """Append an edge to a node; a null target leads nowhere.

    Raises:
        MissingParam: a key is absent.
        UnknownNode: an end is not registered.
        TypeError: ``output_nr`` is no int >= 0.
    """
    registries = self.registries
    from_id, to_id, output_nr = (_required(params, key) for key in ("from_node_id", "to_node_id", "output_nr"))
    check_output_nr(output_nr)
    start = _known_end(registries, "from_node", from_id)
    end = None if to_id is None else _known_end(registries, "to_node", to_id)
    registries.add_pushed_edge(start, GradientEdge(end, output_nr))
    return _OK


def _known_end(registries: Registries, end: str, node_id: Any) -> Node:
    node = registries.nodes.lookup(node_id)
    if node is None:
        raise UnknownNode(f"{end} with id '{node_id}' not found in registry.", node_id=node_id)
    return node


# --- models and callables -----------------------------------------------------------------------


def update_model(self: HasRegistries, params: dict[str, Any]) -> Any:
    """Set one field of a language model: ``_usage``, or a name that has no meaning here.

    Raises:
        MissingParam: a key is absent.
        UnknownModel: the model is not registered.
        AttributeError: a field that the server may not set.
        TypeError: usage that is not an object.
    """
    registries = self.registries
    model_id, field, value = (_required(params, key) for key in ("model_id", "field", "value"))
    model = registries.models.lookup(model_id)
    if model is None:
        text = f"Failed to update model with ID '{model_id}': Model with id '{model_id}' not found in registry."
        raise UnknownModel(text, model_id=model_id)
    if field == "_usage":
        model.take_usage(_object("_usage", value))
    elif _is_free_name(field, type(model)):
        setattr(model, field, value)
    else:
        raise AttributeError(f"The server cannot set {field!r} of a model.")
    return _OK


def run_callable(self: HasRegistries, params: dict[str, Any]) -> Any:
    """Run a function of the user on plain values and return its result (protocol §D.2).

    Every exception in it, also ``SystemExit`` and ``KeyError``, is answered as -32603.

    Raises:
        MissingParam: ``callable_id`` is absent.
        RpcError: the function is not registered, it failed, or its result has no JSON form.
    """
    registries = self.registries
    callable_id = _required(params, "callable_id")
    args = _list("args", params.get("args", []))
    kwargs = _object("kwargs", params.get("kwargs", {}))
    registered = registries.callables.lookup(callable_id)
    if registered is None:
        text = f"Callable with ID '{callable_id}' not found in registry."
        raise _failed_callable(callable_id, UnknownCallable(text, callable_id=callable_id))
    link = registries.link
    # Objects that the function makes belong to the session for which the server calls it.
    with nullcontext() if link is None else use_link(link):
        try:
            result = registered.function(*args, **kwargs)
        except BaseException as exc:
            registries.note_failure(callable_id, exc)
            raise _failed_callable(callable_id, exc) from exc
    try:
        encode(result)
    except LocalProtocolError:
        # Perhaps a scalar or an array of NumPy or PyTorch: only now, because plain values are the usual case.
        result = plain(result)
    try:
        encode(result)
    except LocalProtocolError as exc:
        shown = shorten(repr(result))
        text = f"Result of callable with ID '{callable_id}' is not JSON-serializable: {shown} ({exc.__cause__})"
        raise _failed_callable(callable_id, TypeError(text)) from exc
    return {**_OK, "data": result}


def _failed_callable(callable_id: Any, exc: BaseException) -> RpcError:
    begin = "Failed to run callable" if isinstance(exc, ValueError) else "Exception during execution of callable"
    text = f"{begin} with ID '{callable_id}': {_text_of(exc)}"
    return RpcError(INTERNAL_ERROR, "Internal error", {"exception": text})


def _text_of(exc: BaseException) -> str:
    if isinstance(exc, (KeyError, SystemExit)) or not str(exc):
        # The text of these exceptions is only the key or the status, which says nothing alone.
        return f"{type(exc).__name__}: {exc}" if str(exc) else type(exc).__name__
    return str(exc)


# --- checking parameters ------------------------------------------------------------------------


def _required(params: dict[str, Any], key: str) -> Any:
    try:
        return params[key]
    except KeyError:
        raise MissingParam(key) from None


def _id(key: str, value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise TypeError(f"{key} must be a non-empty string, not {value!r}")
    return value


def _bool(key: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{key} must be a boolean, not {value!r}")
    return value


def _list(key: str, value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError(f"{key} must be an array, not {type(value).__name__}")
    return value


def _object(key: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TypeError(f"{key} must be an object, not {type(value).__name__}")
    return value


def _is_free_name(field: Any, cls: type) -> bool:
    """Whether a user could have given the object an attribute of this name, without touching what the class has."""
    return isinstance(field, str) and field.isidentifier() and not field.startswith("_") and not hasattr(cls, field)
