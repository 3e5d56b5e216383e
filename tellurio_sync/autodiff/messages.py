"""Checks of chats before they are sent. Functions and optimizers take the same form (protocol §G)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Union

from ..model.language import ChatCompletionModel
from ..model.variable import Variable

Messages = list[dict[str, Any]]
"""``[{"role": "system", "content": [Variable, ...]}, ...]``"""

Inputs = dict[str, Union[str, list[str], Variable, list[Variable]]]
"""Values for the placeholders ``{name}`` in the messages."""


def check_model(name: str, model: object) -> None:
    """Raises TypeError unless ``model`` is a language model, or None."""
    if model is not None and not isinstance(model, ChatCompletionModel):
        raise TypeError(f"{name} must be a language model, not {type(model).__name__}")


def check_messages(messages: object) -> None:
    """Raises TypeError, saying which message is wrong, unless ``messages`` has the form of ``Messages``."""
    if not isinstance(messages, (list, tuple)):
        raise TypeError(f"messages must be a list, not {type(messages).__name__}")
    for index, message in enumerate(messages):
        where = f"messages[{index}]"
        if not isinstance(message, dict) or not isinstance(message.get("role"), str) or "content" not in message:
            raise TypeError(f'{where} must be {{"role": str, "content": [Variable, ...]}}, not {message!r}')
        content = message["content"]
        if not isinstance(content, (list, tuple)) or not all(isinstance(part, Variable) for part in content):
            raise TypeError(f'{where}["content"] must be a list of Variables, not {content!r}')


def check_inputs(inputs: object) -> None:
    """Raises TypeError, naming the input, unless ``inputs`` is None or has the form of ``Inputs``."""
    if inputs is None:
        return
    if not isinstance(inputs, dict):
        raise TypeError(f"inputs must be a dict, not {type(inputs).__name__}")
    for name, value in inputs.items():
        if not isinstance(name, str):
            raise TypeError(f"inputs must have str keys, not {name!r}")
        if not isinstance(value, (str, Variable)) and not _is_list_of_one_kind(value):
            form = "a str, a list of str, a Variable or a list of Variables"
            raise TypeError(f"inputs[{name!r}] must be {form}, not {value!r}")


def _is_list_of_one_kind(value: object) -> bool:
    if not isinstance(value, (list, tuple)):
        return False
    parts: Sequence[object] = value
    return all(isinstance(part, str) for part in parts) or all(isinstance(part, Variable) for part in parts)


MultiTurnMessages = Messages
"""The same, under the name that the published API has for it."""


def is_multi_turn_messages(value: object) -> bool:
    """Whether ``value`` has the form of ``Messages`` and is a list; an empty list has."""
    if not isinstance(value, list):
        return False
    try:
        check_messages(value)
    except TypeError:
        return False
    return True
