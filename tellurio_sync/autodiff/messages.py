"""Checks of chats before they are sent. Functions and optimizers take the same form (protocol §G)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, TypedDict, Union, get_args

from ..errors import UnusedInput, UsageError, shorten, shorten_repr
from ..model.data import plain
from ..model.language import ChatCompletionModel
from ..model.told import tell
from ..model.variable import Variable
from ..model.variable_state import held_data

Role = Literal["system", "developer", "user", "assistant", "tool", "function"]
"""The roles of the chat-completions interface."""


class Message(TypedDict):
    """One message of a chat: who says it, and the Variables whose texts, one after the other, it is.

    For annotations: ``chat: list[te.Message] = [{"role": "system", "content": [prompt]}]`` lets a type checker find a
    wrong role, a text in place of the list of Variables, and a misspelled key.
    """

    role: Role
    content: Sequence[Variable]


Messages = Union[Sequence[Message], Sequence[Mapping[str, Any]]]
"""``[{"role": "system", "content": [Variable, ...]}, ...]``; a list of dicts without an annotation is one, too."""

Inputs = dict[str, Union[str, list[str], Variable, list[Variable]]]
"""Values for the placeholders ``{name}`` in the messages."""


ROLES: tuple[Role, ...] = get_args(Role)


def check_model(name: str, model: object) -> None:
    """Raises TypeError unless ``model`` is a language model, or None."""
    if model is not None and not isinstance(model, ChatCompletionModel):
        raise TypeError(f"{name} must be a language model, not {type(model).__name__}")


def check_messages(messages: object) -> None:
    """Raises TypeError or ValueError, naming the message, unless ``messages`` has the form of ``Messages``."""
    if not isinstance(messages, (list, tuple)):
        raise TypeError(f"messages must be a list, not {type(messages).__name__}")
    for index, message in enumerate(messages):
        where = f"messages[{index}]"
        if not isinstance(message, dict) or not isinstance(message.get("role"), str) or "content" not in message:
            raise TypeError(f'{where} must be {{"role": str, "content": [Variable, ...]}}, not {shorten_repr(message)}')
        if message["role"] not in ROLES:
            raise ValueError(f'{where}["role"] must be one of {", ".join(ROLES)}, not {message["role"]!r}')
        content = message["content"]
        if not isinstance(content, (list, tuple)) or not all(isinstance(part, Variable) for part in content):
            raise TypeError(f'{where}["content"] must be a list of Variables, not {shorten_repr(content)}')


def check_inputs(inputs: object) -> None:
    """Raises TypeError, naming the input, unless ``inputs`` is None or has the form of ``Inputs``."""
    if inputs is None:
        return
    if not isinstance(inputs, dict):
        raise TypeError(f"inputs must be a dict, not {type(inputs).__name__}")
    for name, value in inputs.items():
        if not isinstance(name, str):
            raise TypeError(f"inputs must have str keys, not {name!r}")
        where = f"inputs[{name!r}]"
        if isinstance(value, (list, tuple)):
            _check_column(where, value)
        elif not isinstance(value, (str, Variable)):
            form = "a str, a list of str, a Variable or a list of Variables"
            raise TypeError(f"{where} must be {form}, not {_described(value)}")


def _check_column(where: str, values: Sequence[object]) -> None:
    """Raises TypeError, naming the first item that is not of the kind of the others."""
    kind = Variable if values and isinstance(values[0], Variable) else str
    # The usual case at the speed of C: a column may have a million items.
    if {type(value) for value in values} == {kind}:
        return
    for index, value in enumerate(values):
        if isinstance(value, kind):
            continue
        if _is_missing(value):
            problem = f"is missing ({value!r}): leave this sample out of all inputs and targets, or give it a text"
        else:
            others = "a str or a Variable" if index == 0 else f"a {kind.__name__} as those before it"
            problem = f"must be {others}, not {_described(value)}"
        raise TypeError(f"{where}[{index}] {problem}")


def parts_of(messages: Messages) -> dict[str, object]:
    """What a batch may be in, in the messages, by where it stands."""
    return {
        f'messages[{index}]["content"][{number}]': part
        for index, message in enumerate(messages)
        for number, part in enumerate(message["content"])
    }


def columns_of(inputs: Inputs | None) -> dict[str, object]:
    """The same in the inputs."""
    return {f"inputs[{name!r}]": value for name, value in (inputs or {}).items()}


def check_lengths(values: Mapping[str, object]) -> None:
    """Raises UsageError, naming them, if lists among these, or in these Variables, differ in length. Does not block."""
    lengths: dict[str, int] = {}
    for name, value in values.items():
        data = held_data(value) if isinstance(value, Variable) else value
        if isinstance(data, (list, tuple)):
            lengths[name] = len(data)
    if len(set(lengths.values())) > 1:
        shown = ", ".join(f"{name} has {length}" for name, length in list(lengths.items())[:5])
        raise UsageError(f"The lists of a batch must have the same length: {shown}.")


def _is_missing(value: object) -> bool:
    """Whether it is what a table has in an empty cell: None, NaN, NaT or NA."""
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    try:
        return bool(value != value)  # NaN, of whatever package
    except Exception:  # noqa: BLE001 - the user's object, and whatever comparing it does
        return False


def _described(value: object) -> str:
    """The type, and of a value that is no container the beginning of it: containers hold the user's data."""
    is_shown = isinstance(value, (str, bytes, int, float))
    return f"{type(value).__name__} {shorten(repr(value), 60)}" if is_shown else type(value).__name__


MultiTurnMessages = list[Message]
"""A chat, under the name that the published API has for it."""


def is_multi_turn_messages(value: object) -> bool:
    """Whether ``value`` has the form of ``Messages`` and is a list; an empty list has."""
    if not isinstance(value, list):
        return False
    try:
        check_messages(value)
    except TypeError:
        return False
    return True


def plain_inputs(inputs: Any) -> Any:
    """The same with columns of NumPy, pandas and PyTorch as plain lists."""
    if not isinstance(inputs, dict):
        return inputs
    return {name: value if isinstance(value, Variable) else plain(value) for name, value in inputs.items()}


def warn_of_unused_inputs(messages: Messages, inputs: Inputs | None) -> None:
    """Warn of each input that no message has a placeholder for. Does not block."""
    if not inputs:
        return
    texts = [text for message in messages for part in message["content"] for text in _texts(held_data(part))]
    for name in inputs:
        if any(f"{{{name}}}" in text for text in texts):
            continue
        found = sorted({match for text in texts for match in _PLACEHOLDER.findall(text)} - set(inputs))
        near = f" The messages have {', '.join(f'{{{each}}}' for each in found[:5])}." if found else ""
        text = f"inputs[{name!r}] is used by no message: none has the placeholder {{{name}}}, so that the model"
        tell(UnusedInput(f"{text} will not see it.{near}"))


def _texts(data: Any) -> Iterator[str]:
    if isinstance(data, str):
        yield data
    elif isinstance(data, list):
        for item in data:
            yield from _texts(item)


_PLACEHOLDER = re.compile(r"(?<!\{)\{(\w+)\}(?!\})")
