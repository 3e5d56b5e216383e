"""The four methods that may run long (protocol §C), and one more of the same kind (§K.16).

Each of these decodes its arguments when it is called, so that it sees the state at its place in the wire order, and
returns a coroutine that does the work.  The work makes its changes together, at its end, just before the reply: a
client that wants another request to see them sends it after that reply.  (If requests waited for each other instead, a
function of the client that calls the backend while the backend calls it would never end.)

They raise what ``methods`` raises; the work raises Refused if a function or a language model fails.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from ..jsonrpc import INVALID_PARAMS
from . import wire
from .data import Data
from .engine.backward import Arrived, backprop_variables, backward
from .engine.functions import bind
from .engine.graph import Step, record
from .engine.op import Op
from .engine.replay import Replay
from .methods import Params, Result
from .objects import Variable, Version
from .optimizer import ACCEPT, DEFAULTS, Rewritten, Settings, Task, step, version_tags
from .passes import Way
from .question_log import Forward, asking
from .records import BATCH_CRITIC, CRITIC, RECORDS, as_json, learnt, plain_feedback
from .refused import Refused, param
from .scope import DEFAULT_MAX_FAILED, Scope
from .store import Logged
from .wire import Operand

Work = Coroutine[Any, Any, Result]

_NULL = type(None)

# Seconds. Protocol §C.1: after the reply the client must have time to see that its flags are still set.
CLEAR_STEP_DELAY = 0.025


# --- functions ----------------------------------------------------------------------------------


def run_function(scope: Scope, params: Params) -> Work:
    """Apply a function; new nodes and edges are pushed before the reply (protocol §G)."""
    op = bind(
        scope.objects, param(params, "function_name", str), param(params, "args", list), param(params, "kwargs", dict)
    )
    return _run_function(scope, op, param(params, "grad_enabled", bool), scope.watch_function(op))


async def _run_function(scope: Scope, op: Op, grad_enabled: bool, watched: Forward | None) -> Result:
    try:
        with asking(watched):
            outputs = await op.forward(scope)
    finally:
        scope.push_usage()
    recorded = record(scope.objects, op, outputs, grad_enabled=grad_enabled)
    scope.watch_result(op, watched, recorded.outputs)
    _push_graph(scope, recorded)
    data = [wire.output(variable) for variable in recorded.outputs]
    result = {"message": "Function executed successfully.", "data": data if op.returns_list else data[0]}
    return _telling(scope, result)


def _telling(scope: Scope, result: Result) -> Result:
    """The result, with what was left out and what else to tell the user, if anything: other clients ignore these."""
    more = {
        "left_out": [one.as_json() for one in scope.left_out],
        "told": scope.told,
        "notes": scope.notes,
        "rejected": scope.rejected,
    }
    return {**result, **{name: value for name, value in more.items() if value}}


def _push_graph(scope: Scope, recorded: Step) -> None:
    for node in recorded.new_nodes:
        scope.push("create_node", node_id=node.node_id, name=node.name)
    for node in recorded.new_nodes:
        for edge in node.edges:
            scope.push(
                "create_edge",
                from_node_id=node.node_id,
                to_node_id=edge.target.node_id if edge.target else None,
                output_nr=edge.output_nr,
            )


# --- backward -----------------------------------------------------------------------------------


def run_backward(scope: Scope, params: Params) -> Work:
    """Run a backward pass; each gradient is pushed before the reply (protocol §G.3)."""
    objects = scope.objects
    roots = wire.variables(objects, param(params, "variables", dict, list), "variables")
    scope.max_failed = _share(params.get("max_failed"))
    scope.feedback = _kind_of_feedback(params.get("feedback"))
    create_graph = params.get("create_graph") or False
    retain_graph = params.get("retain_graph")
    inputs = params.get("inputs")
    return _run_backward(
        scope,
        roots,
        _root_gradients(scope, roots, params.get("grad_variables")),
        inputs=None if inputs is None else wire.variables(objects, inputs, "inputs"),
        retain_graph=create_graph if retain_graph is None else retain_graph,
        create_graph=create_graph,
        replay=Replay(roots) if objects.tries_before else None,
        # The ids that the client has been given; they do not depend on `inputs`.
        told=[variable.variable_id for variable in backprop_variables(roots)],
    )


def _share(value: Any) -> float:
    if value is None:
        return DEFAULT_MAX_FAILED
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise Refused("`max_failed` must be a share: a number from 0 to 1.", INVALID_PARAMS, "Invalid params")
    return float(value)


def _kind_of_feedback(value: Any) -> str:
    if value not in (None, CRITIC, RECORDS, BATCH_CRITIC):
        text = f"`feedback` must be {CRITIC!r}, {BATCH_CRITIC!r} or {RECORDS!r}."
        raise Refused(text, INVALID_PARAMS, "Invalid params")
    return value or CRITIC


def _root_gradients(scope: Scope, roots: list[Variable], given: Any) -> list[Data]:
    if given is None:
        return [None] * len(roots)
    tags = given if isinstance(given, list) else [given]
    if len(tags) != len(roots):
        raise Refused(f"There are {len(roots)} variables but {len(tags)} gradients.")
    return [None if tag is None else wire.variables(scope.objects, [tag], "grad_variables")[0].data for tag in tags]


async def _run_backward(
    scope: Scope,
    roots: list[Variable],
    gradients: list[Data],
    *,
    inputs: list[Variable] | None,
    retain_graph: bool,
    create_graph: bool,
    replay: Replay | None,
    told: list[str],
) -> Result:
    way = Way()
    try:
        arrived = await backward(
            scope, roots, gradients, inputs=inputs, retain_graph=retain_graph, on_arrival=way.on_arrival
        )
    finally:
        scope.push_usage()
    scope.watch_backward(roots, way)
    for gradient in arrived:
        # The client may have let go of one meanwhile: then nobody could read it.
        if gradient.variable.variable_id in scope.objects.variables:
            _append_gradient(scope, gradient, replay, requires_grad=create_graph)
    scope.push_ids_later("clear_backward", told)
    return _telling(scope, {"message": "Backward pass executed successfully."})


def _append_gradient(scope: Scope, arrived: Arrived, replay: Replay | None, *, requires_grad: bool) -> None:
    variable = arrived.variable
    gradient = scope.objects.new_variable(
        data=plain_feedback(arrived.data), role=f"feedback to {variable.role or ''}", requires_grad=requires_grad
    )
    gradient.learnt = learnt(arrived.data)
    gradient.replay = replay
    variable.grad.append(gradient)
    described = {"data": gradient.data, "role": gradient.role, "requires_grad": requires_grad}
    if gradient.learnt is not None:
        described["records"] = as_json(gradient.learnt)
    scope.push(
        "append_grad",
        variable_id=variable.variable_id,
        gradient_id=gradient.variable_id,
        gradient=described,
    )


# --- optimizers ---------------------------------------------------------------------------------


def run_step(scope: Scope, params: Params) -> Work:
    """Rewrite the parameters of an optimizer that have feedback (protocol §I.3)."""
    objects = scope.objects
    logged = _logged(params)
    optimizer = objects.optimizer(param(params, "optimizer_id"))
    tasks, all_ids = [], []
    for group in optimizer.groups:
        settings = Settings(objects, group)
        for variable in wire.variables(objects, group["params"], "params"):
            all_ids.append(variable.variable_id)
            gradients = [Operand.of(gradient) for gradient in variable.grad]
            tasks.append(Task(settings, Operand.of(variable), gradients, optimizer.momentum.get(variable, [])))

    async def work() -> Result:
        for rewritten in await _rewrite(scope, tasks, all_ids, logged):
            optimizer.momentum[rewritten.variable] = rewritten.kept
        result = {
            "message": "Optimizer step executed successfully.",
            "state": [
                {"key": variable.tag, "value": {"momentum_buffer": version_tags(versions)}}
                for variable, versions in optimizer.momentum.items()
            ],
        }
        return _telling(scope, result)

    return work()


def run_optimizer_tgd(scope: Scope, params: Params) -> Work:
    """The same as ``run_step``, for parameters, gradients and buffers that come with the request."""
    objects = scope.objects
    logged = _logged(params)
    parameters = wire.variables(objects, param(params, "params", list), "params")
    grads, buffers = param(params, "grads", list), param(params, "momentum_buffer_list", list)
    if not all(isinstance(items, list) for items in [*grads, *buffers]):
        raise Refused("Each item of `grads` and of `momentum_buffer_list` must be a list.")
    if not len(parameters) == len(grads) == len(buffers):
        raise Refused("`params`, `grads` and `momentum_buffer_list` must have the same length.")
    settings = Settings(objects, {name: params[name] for name in (*DEFAULTS, ACCEPT) if name in params})
    tasks = [
        Task(
            settings,
            Operand.of(variable),
            [Operand.of(gradient) for gradient in wire.variables(objects, gradients, "grads")],
            [_version(scope, entry) for entry in buffer],
        )
        for variable, gradients, buffer in zip(parameters, grads, buffers)
    ]

    async def work() -> Result:
        kept = {task.parameter.variable: task.history for task in tasks}
        for rewritten in await _rewrite(scope, tasks, [variable.variable_id for variable in parameters], logged):
            kept[rewritten.variable] = rewritten.kept
        result = {
            "message": "Functional TGD optimization step executed successfully.",
            "momentum_buffer_list": [version_tags(kept[variable]) for variable in parameters],
        }
        return _telling(scope, result)

    return work()


def _version(scope: Scope, entry: Any) -> Version:
    if not (isinstance(entry, list) and len(entry) == 2):
        raise Refused("An entry of a momentum buffer must be a copy and a list of gradients.")
    (copy,) = wire.variables(scope.objects, entry[0], "momentum_buffer_list")
    return Version(copy, tuple(wire.variables(scope.objects, entry[1], "momentum_buffer_list")))


def _logged(params: Params) -> Logged | None:
    """How much the client had logged when it asked for a step, if it tells (protocol §K.14)."""
    found = params.get("logged")
    if found is None:
        return None
    if not (isinstance(found, list) and len(found) == 2):
        raise Refused("`logged` must be a writer and a number of bytes.")
    writer, position = found
    if not (isinstance(writer, str) and type(position) is int and 0 <= position < 2**63):
        raise Refused("`logged` must be a writer and a number of bytes.")
    return Logged(writer, position)


async def _rewrite(scope: Scope, tasks: list[Task], all_ids: list[str], logged: Logged | None) -> list[Rewritten]:
    try:
        done = await step(scope.objects, scope, [task for task in tasks if task.has_feedback])
    finally:
        scope.push_usage()
    for rewritten in done:
        _push_copy(scope, rewritten.before.copy)
        variable = rewritten.variable
        scope.push("update_variable", variable_id=variable.variable_id, field="data", value=variable.data)
        scope.watch_step(rewritten.before.copy, variable, rewritten.before.gradients, logged)
    # All parameters, because a run may use the parameters of an earlier run.
    scope.watch(*(task.parameter.variable for task in tasks))
    # Protocol §C.1: every parameter of every group, also those without gradients.
    scope.push_ids_later("clear_step", all_ids, CLEAR_STEP_DELAY)
    scope.end_step()
    return done


def _push_copy(scope: Scope, copy: Variable) -> None:
    scope.push(
        "create_variable",
        variable_id=copy.variable_id,
        obj_type=copy.obj_type,
        data=copy.data,
        role=copy.role,
        requires_grad=copy.requires_grad,
        _retain_grad=False,
        _grad=[],
        _output_nr=0,
        _grad_fn=None,
        is_leaf=True,
    )


# --- vectors ------------------------------------------------------------------------------------


def embed(scope: Scope, params: Params) -> Work:
    """Vectors for texts, by the endpoint of a model (protocol §K.16)."""
    model = scope.objects.model(param(params, "model_id"))
    texts, args = param(params, "texts", list), param(params, "completion_args", dict)
    if not texts or not all(isinstance(text, str) for text in texts):
        raise Refused("`texts` must be a list of texts, at least one.", INVALID_PARAMS, "Invalid params")

    async def work() -> Result:
        try:
            vectors = await scope.embed(model, texts, args)
        finally:
            scope.push_usage()
        return {"message": "Texts embedded successfully.", "vectors": vectors}

    return work()


LONG_METHODS: dict[str, Callable[[Scope, Params], Work]] = {
    method.__name__: method for method in (run_function, run_backward, run_step, run_optimizer_tgd, embed)
}
