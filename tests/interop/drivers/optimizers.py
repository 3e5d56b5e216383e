"""TGD: steps with momentum, groups, flags, and the functional form; all of it with a scripted model."""

import harness
import rpc
from afnio import Variable, set_backward_model_client
from afnio.cognitive import Parameter
from afnio.models.openai import OpenAI
from afnio.optim import TGD, tgd
from afnio.tellurio import init
from afnio.tellurio._variable_registry import VARIABLE_REGISTRY


def parameter(data, *feedback):
    made = Parameter(data=data, role="prompt", requires_grad=True)
    for text in feedback:
        made.append_grad(Variable(text, role="feedback"))
    return made


def buffer_of(entry):
    return [[copy.data, [gradient.data for gradient in gradients]] for copy, gradients in entry["momentum_buffer"]]


def created(model):
    p = parameter("A")
    optimizer = TGD([p], model_client=model, momentum=2, model="gpt-4o")
    (group,) = optimizer.param_groups
    return {
        "state is empty": len(optimizer.state) == 0,
        "group keys": sorted(group),
        "same parameter": group["params"][0] is p,
        "same model": group["model_client"] is model,
        "momentum": group["momentum"],
        "completion_args": group["completion_args"],
        "messages": [part.data for message in group["messages"] for part in message["content"]],
    }


def steps(model):
    p, untouched = parameter("A", "first feedback"), parameter("untouched")
    optimizer = TGD([p, untouched], model_client=model, momentum=2, model="gpt-4o", constraints=["Be short."])
    held = p.grad
    seen = {}
    known = set(VARIABLE_REGISTRY)
    optimizer.step()
    # Protocol §F.4: the flag is still set right after, then the data comes.
    seen["flag"] = p._pending_data
    seen["data"] = p.data
    seen["flag after reading"] = p._pending_data
    seen["untouched"] = untouched.data
    seen["new variables"] = len(set(VARIABLE_REGISTRY) - known)
    (copy, gradients), *others = optimizer.state[p]["momentum_buffer"]
    seen["copy"] = [copy.data, copy.role, copy.requires_grad, type(copy).__name__, len(others), copy.grad]
    seen["own gradients"] = [gradient is own for gradient, own in zip(gradients, held)]
    seen["gradients stay"] = len(p.grad)
    optimizer.clear_grad()
    seen["cleared"] = [p.grad is held, len(held), rpc.get(p)["grad"]]
    for text in ("second feedback", "third feedback"):
        p.append_grad(Variable(text, role="feedback"))
        optimizer.step()
        optimizer.clear_grad()
    seen["buffer"] = buffer_of(optimizer.state[p])
    seen["data after three"] = p.data
    seen["server's data"] = rpc.get(p)["data"]
    seen["closure"] = TGD([p], model_client=model, model="gpt-4o").step(lambda: (1, 2))
    return seen


def without_momentum(model):
    p = parameter("A", "feedback")
    optimizer = TGD([p], model_client=model, model="gpt-4o")
    optimizer.step()
    return [p.data, buffer_of(optimizer.state[p]) if p in optimizer.state else []]


def groups(model):
    p, q, r = parameter("P", "f"), parameter("Q", "f"), parameter("R", "f")
    optimizer = TGD([{"params": [p]}, {"params": [q], "momentum": 1}], model_client=model, model="gpt-4o")
    held = optimizer.param_groups
    optimizer.add_param_group({"params": [r], "constraints": ["Be polite."]})
    seen = {
        "same list": optimizer.param_groups is held,
        "momentum": [group["momentum"] for group in held],
        "constraints": [group["constraints"] for group in held],
    }
    optimizer.step()
    seen["data"] = [one.data for one in (p, q, r)]
    seen["twice"] = harness.attempt(TGD, [p, p], model_client=model)
    seen["none"] = harness.attempt(TGD, [], model_client=model)
    return seen


def functional(model):
    p, q = parameter("P", "feedback"), parameter("Q")
    buffers = [[], []]
    messages = TGD([parameter("x")], model_client=model).defaults["messages"]
    seen = {}
    for _ in range(3):
        tgd([p, q], [p.grad, q.grad], buffers, model, messages, {}, [], 2, model="gpt-4o")
        seen.setdefault("data", []).append([p.data, q.data])
    seen["buffers"] = [buffer_of({"momentum_buffer": buffer}) for buffer in buffers]
    seen["own gradients"] = buffers[0][0][1][0] is p.grad[0]
    return seen


def failing(model):
    p = parameter("A", "UNUSABLE")
    seen = {"error": harness.attempt(TGD([p], model_client=model, model="gpt-4o").step), "flag": p._pending_data}
    no_model = parameter("A", "feedback")
    seen["no model"] = harness.attempt(TGD([no_model], model_client=None).step)
    return {**seen, "data": p.data}


def observe(namespace, base_url):
    run = init(namespace, "Optimizers")
    model = OpenAI(base_url=base_url, api_key="sk-test")
    set_backward_model_client("openai/gpt-4o", client_args={"base_url": base_url})
    seen = {
        "created": created(model),
        "steps": steps(model),
        "without momentum": without_momentum(model),
        "groups": groups(model),
        "functional": functional(model),
        "failing": failing(model),
    }
    run.finish()
    return seen


harness.main(observe)
