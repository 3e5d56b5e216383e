"""The state of an optimizer as plain data: made and read (protocol §I.2)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Union

from ..model.language import ChatCompletionModel
from ..model.variable import Variable
from .state import State

_MODEL = "model_client"

ModelClients = Union[ChatCompletionModel, Sequence[Union[ChatCompletionModel, None]], None]


def pack(groups: list[dict[str, Any]], state: State) -> dict[str, Any]:
    """The checkpoint: ``{"state": {number: ...}, "param_groups": [{"params": [numbers], ...}]}``."""
    numbers: dict[Variable, int] = {}
    packed = []
    for group in groups:
        for parameter in group["params"]:
            numbers.setdefault(parameter, len(numbers))
        settings = {name: value for name, value in group.items() if name != "params"}
        model = settings.get(_MODEL)
        if model is not None:
            settings[_MODEL] = model.describe()
        packed.append({**settings, "params": [numbers[parameter] for parameter in group["params"]]})
    remembered = {numbers[parameter]: dict(entry) for parameter, entry in state.items() if parameter in numbers}
    return {"state": remembered, "param_groups": packed}


def unpack(
    checkpoint: dict[str, Any], groups: list[dict[str, Any]], model_clients: ModelClients
) -> tuple[list[dict[str, Any]], State]:
    """Groups and state of the checkpoint for the parameters of ``groups``.

    Raises:
        ValueError: the groups differ in number or size, or a required model is missing.
    """
    saved = checkpoint["param_groups"]
    sizes, saved_sizes = ([len(group["params"]) for group in each] for each in (groups, saved))
    if sizes != saved_sizes:
        raise ValueError(f"the checkpoint has groups of {saved_sizes} parameters, this optimizer of {sizes}")
    share = _sharer()
    loaded = []
    parameters: dict[int, Variable] = {}
    for group, saved_group, model in zip(groups, saved, _models_for(saved, groups, model_clients)):
        parameters.update(zip(saved_group["params"], group["params"]))
        settings = {name: share(value) for name, value in saved_group.items() if name not in ("params", _MODEL)}
        loaded.append({**settings, _MODEL: model, "params": list(group["params"])})
    state = {parameters[number]: share(entry) for number, entry in checkpoint["state"].items()}
    return loaded, state


def _models_for(
    saved: list[dict[str, Any]], groups: list[dict[str, Any]], model_clients: ModelClients
) -> list[ChatCompletionModel | None]:
    """The model of each group: as given, else the one that the group has here."""
    if model_clients is None or isinstance(model_clients, ChatCompletionModel):
        models: list[ChatCompletionModel | None] = [model_clients] * len(saved)
    else:
        models = list(model_clients)
        if len(models) != len(saved):
            raise ValueError(f"model_clients has {len(models)} models for {len(saved)} groups")
    for index, (group, model) in enumerate(zip(saved, models)):
        description = group.get(_MODEL)
        if description is not None and model is None:
            models[index] = model = groups[index].get(_MODEL)
        if description is not None and model is None:
            kind = f"{description['provider']} model ({description['class_type']})"
            raise ValueError(f"group {index} of the checkpoint uses an {kind}: pass it as model_clients")
    return [None if group.get(_MODEL) is None else model for group, model in zip(saved, models)]


def _sharer() -> Callable[[Any], Any]:
    """A function that copies nested values. It makes each Variable that the server does not know, once."""
    made: dict[int, Variable] = {}

    def share(value: Any) -> Any:
        if isinstance(value, Variable):
            if value.variable_id is not None:
                return value
            if id(value) not in made:
                made[id(value)] = type(value)(value.data, value.role, value.requires_grad)
            return made[id(value)]
        if isinstance(value, (list, tuple)):
            return type(value)(share(item) for item in value)
        if isinstance(value, dict):
            return {key: share(item) for key, item in value.items()}
        return value

    return share
