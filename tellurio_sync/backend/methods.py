"""The methods that a client may call, except for the four that may run long (protocol §C).

Each takes effect at once, before the next message is handled.  A change that the client has made is not pushed back
to it.

All raise MissingParam if a parameter is absent, Refused if it cannot be used, and UnknownVariable, UnknownNode or
UnknownModel if an id is not known; each becomes an error reply.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..jsonrpc import INVALID_PARAMS
from . import wire
from .data import normalised
from .engine.backward import backprop_variables
from .lm.budget import checked as checked_budget
from .objects import PARAMETER, VARIABLE, BackwardModel, Model, Objects, Optimizer, Variable, new_id
from .optimizer import DEFAULTS, Settings
from .question_counts import as_json
from .records import from_json
from .refused import Refused, param
from .scope import Scope
from .usage import cleared, taken_over

Params = dict[str, Any]
Result = dict[str, Any]

_NULL = type(None)

# Providers of language models: the endpoint's kind, and the classes a client may name.
_PROVIDERS = {"openai": ("OpenAI", "AsyncOpenAI"), "callable": ("CallableModel",)}


# --- variables ----------------------------------------------------------------------------------


def create_variable(scope: Scope, params: Params) -> Result:
    """A new Variable or Parameter; without ``obj_type`` a Variable."""
    obj_type = params.get("obj_type", VARIABLE)
    if obj_type not in (VARIABLE, PARAMETER):
        raise Refused(f"Unsupported object type '{obj_type}' for Variable or Parameter creation.")
    variable = scope.objects.new_variable(
        data=normalised(param(params, "data")),
        role=param(params, "role", str, _NULL),
        requires_grad=param(params, "requires_grad", bool),
        obj_type=obj_type,
    )
    if params.get("records") is not None:  # protocol §K.5
        variable.learnt = from_json(params["records"])
    scope.watch(variable)
    return {"message": "Variable created successfully.", "variable_id": variable.variable_id}


def update_variable(scope: Scope, params: Params) -> Result:
    """Set one field of a Variable; the value is echoed as it came."""
    variable = scope.objects.variable(param(params, "variable_id"))
    field, value = param(params, "field", str), param(params, "value")
    _set_field(scope.objects, variable, field, value)
    if field in ("data", "role"):
        scope.watch(variable)
    # Protocol §C.2: the reply gives the value as it was sent, not in its normal form.
    return {
        "message": "Variable updated successfully.",
        "variable_id": variable.variable_id,
        "field": field,
        "value": value,
    }


def _clear(variable: Variable) -> None:
    for gradient in variable.grad:
        gradient.replay = None  # an optimizer may remember the gradient, but not what it came of
    variable.grad = []


def _set_field(objects: Objects, variable: Variable, field: str, value: Any) -> None:
    if field == "data":
        variable.data = normalised(value)
        variable.learnt = None
    elif field == "role":
        variable.role = param({field: value}, field, str, _NULL)
    elif field in ("requires_grad", "is_leaf"):
        setattr(variable, field, param({field: value}, field, bool))
    elif field == "_retain_grad":
        variable.retain_grad = param({field: value}, field, bool)
    elif field in ("_output_nr", "output_nr"):
        variable.output_nr = param({field: value}, field, int)
    elif field in ("_grad", "grad"):
        gradients = wire.variables(objects, value or [], field)
        if not gradients:
            _clear(variable)
        variable.grad = gradients
    elif field == "_grad_fn":
        node = None if value is None else objects.node(value)
        variable.grad_fn = node
        if node is not None and variable not in node.outputs:
            node.add_outputs(variable)
    else:
        variable.attributes = {**(variable.attributes or {}), field: value}


def get_variable(scope: Scope, params: Params) -> Result:
    """All fields of a Variable, and the attributes that users have added."""
    variable = scope.objects.variable(param(params, "variable_id"))
    return {
        **(variable.attributes or {}),
        "message": "Variable retrieved successfully.",
        "variable_id": variable.variable_id,
        "obj_type": variable.obj_type,
        "data": variable.data,
        "role": variable.role,
        "requires_grad": variable.requires_grad,
        "is_leaf": variable.is_leaf,
        "output_nr": variable.output_nr,
        "grad": [gradient.tag for gradient in variable.grad],
        "_retain_grad": variable.retain_grad,
        "_grad_fn": variable.grad_fn.node_id if variable.grad_fn else None,
    }


def append_grad(scope: Scope, params: Params) -> Result:
    """Append a gradient that the client made."""
    variable = scope.objects.variable(param(params, "variable_id"))
    (gradient,) = wire.variables(scope.objects, [param(params, "gradient", dict)], "gradient")
    variable.grad.append(gradient)
    return {
        "message": "Gradient appended successfully.",
        "variable_id": variable.variable_id,
        "gradient_id": gradient.variable_id,
    }


def get_backprop_ids(scope: Scope, params: Params) -> Result:
    """The ids of the Variables that a backward pass from these would give a gradient."""
    roots = wire.variables(scope.objects, param(params, "variables", dict, list), "variables")
    ids = [variable.variable_id for variable in backprop_variables(roots)]
    return {"message": "Backpropagation ids retrieved successfully.", "variable_ids": ids}


# --- language models ----------------------------------------------------------------------------


def create_model(scope: Scope, params: Params) -> Result:
    """A language model: an OpenAI-compatible endpoint, or a function of the client."""
    class_type, provider = param(params, "class_type", str), param(params, "provider", str)
    if class_type not in _PROVIDERS.get(provider, ()):
        raise Refused(f"Unsupported language model: class {class_type!r} of provider {provider!r}.")
    config = param(params, "config", dict)
    if provider == "callable":
        param(config, "callable_id", str)
    usage = _usage(params.get("usage"))
    model = Model(new_id(), provider, config, usage)
    scope.objects.models[model.model_id] = model
    if scope.objects.history is not None:
        scope.objects.history.kept_out.add(config)
    return {"message": "Model created successfully.", "model_id": model.model_id}


def _usage(given: Any) -> dict[str, Any]:
    """What the client says that a model has used, after a reconnect for instance.

    Raises:
        Refused: it has another form than usage has.
    """
    try:
        return taken_over(given)
    except ValueError as exc:
        raise Refused(f"`usage` has another form: {exc}.", INVALID_PARAMS, "Invalid params") from None


def clear_model_usage(scope: Scope, params: Params) -> Result:
    """Set all counts of a model to zero."""
    model = scope.objects.model(param(params, "model_id"))
    model.usage = cleared(model.usage)
    # Protocol §C.1: the client does not clear its own copy.
    scope.push("update_model", model_id=model.model_id, field="_usage", value=model.usage)
    return {"message": "Model usage cleared successfully.", "model_id": model.model_id}


def set_model_singleton(scope: Scope, params: Params) -> Result:
    """Name the model of all backward passes (protocol §H.4)."""
    model = scope.objects.model(param(params, "model_id"))
    name, completion_args = param(params, "model_name", str), param(params, "completion_args", dict)
    # A function of the client has no model names.
    named = {} if model.provider == "callable" else {"model": name}
    scope.objects.backward_model = BackwardModel(model, {**named, **completion_args})
    return {
        "message": "Model singleton set successfully.",
        "model_id": model.model_id,
        "completion_args": completion_args,
    }


# --- optimizers ---------------------------------------------------------------------------------


def create_optimizer(scope: Scope, params: Params) -> Result:
    """A new optimizer over parameters or groups of them (protocol §I.1)."""
    name = param(params, "optimizer_name", str)
    if name != "TGD":
        raise Refused(f"No optimizer named {name!r} is known; there is TGD.")
    defaults = {**DEFAULTS, **param(params, "defaults", dict)}
    given = param(params, "params", list)
    is_groups = bool(given) and isinstance(given[0], dict) and "params" in given[0]
    optimizer = Optimizer(new_id(), defaults, [])
    for group in given if is_groups else [{"params": given}]:
        _add_group(scope.objects, optimizer, group)
    scope.objects.optimizers[optimizer.optimizer_id] = optimizer
    return {
        "message": "Optimizer created successfully.",
        "optimizer_id": optimizer.optimizer_id,
        "defaults": defaults,
        "state": [],
        "param_groups": optimizer.groups,
    }


def add_param_group(scope: Scope, params: Params) -> Result:
    """Add a group; settings that it does not give are the optimizer's defaults."""
    optimizer = scope.objects.optimizer(param(params, "optimizer_id"))
    group = {"messages": param(params, "messages", list), **param(params, "param_group", dict)}
    added = _add_group(scope.objects, optimizer, group)
    return {"message": "Parameter group added successfully.", "param_group": added}


def _add_group(objects: Objects, optimizer: Optimizer, group: Any) -> dict[str, Any]:
    if not (isinstance(group, dict) and "params" in group):
        raise Refused("A parameter group must be an object with `params`.")
    parameters = wire.variables(objects, group["params"], "params")
    if not parameters:
        raise Refused("An optimizer needs at least one parameter in each group.")
    taken = [variable for other in optimizer.groups for variable in wire.variables(objects, other["params"], "params")]
    if len(set(parameters)) < len(parameters) or not set(parameters).isdisjoint(taken):
        raise Refused("A parameter appears more than once in the optimizer.")
    complete = {**optimizer.defaults, **group, "params": [variable.tag for variable in parameters]}
    # Checks the settings now, so that the call with the mistake fails, and not a later step.
    Settings(objects, complete)
    optimizer.uses += wire.named_in(objects, complete)
    optimizer.groups.append(complete)
    return complete


def clear_grad(scope: Scope, params: Params) -> Result:
    """Empty the gradients of all parameters of an optimizer."""
    optimizer = scope.objects.optimizer(param(params, "optimizer_id"))
    for group in optimizer.groups:
        for variable in wire.variables(scope.objects, group["params"], "params"):
            _clear(variable)
    return {"message": "Gradients cleared successfully."}


# --- counts -------------------------------------------------------------------------------------


def count_questions(scope: Scope, params: Params) -> Result:
    """How many questions this session, and the request's run, have asked (protocol §K.12)."""
    of_run = scope.questions_of_run()
    return {
        "message": "Questions counted successfully.",
        "session": as_json(scope.objects.question_counts),
        "run": None if of_run is None else as_json(of_run),
    }


# --- budgets ------------------------------------------------------------------------------------


def open_budget(scope: Scope, params: Params) -> Result:
    """Limit what the questions of this session may cost, from now until it is closed (protocol §K.11)."""
    try:
        budget = checked_budget(params.get("usd"), params.get("tokens"), params.get("questions"))
    except ValueError as exc:
        raise Refused(f"{exc}.", INVALID_PARAMS, "Invalid params") from None
    budget_id = new_id()
    scope.objects.budgets[budget_id] = budget
    return {"message": "Budget opened successfully.", "budget_id": budget_id}


def close_budget(scope: Scope, params: Params) -> Result:
    """End a budget, and say what was spent within it."""
    budget = scope.objects.budgets.pop(param(params, "budget_id", str), None)
    if budget is None:
        raise Refused("There is no such budget in this session.")
    spent = {"usd": budget.spent_usd, "tokens": budget.spent_tokens, "questions": budget.spent_questions}
    return {"message": "Budget closed successfully.", **spent}


def release(scope: Scope, params: Params) -> None:
    """Forget what the client has let go of, as far as nothing else needs it (protocol §K.3). A notification."""
    kinds = ("variable_ids", "model_ids", "optimizer_ids")
    scope.objects.release(*(param(params, kind, list) if kind in params else () for kind in kinds))


METHODS: dict[str, Callable[[Scope, Params], Result]] = {
    method.__name__: method
    for method in (
        create_variable,
        update_variable,
        get_variable,
        append_grad,
        get_backprop_ids,
        create_model,
        clear_model_usage,
        set_model_singleton,
        create_optimizer,
        add_param_group,
        clear_grad,
        count_questions,
        open_budget,
        close_budget,
    )
}
