"""Asking a language model outside of any graph: plain texts in, a plain text out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..model.batch.dataset import variables
from ..model.language import ChatCompletionModel
from ..model.session_link import use_link
from .functional import chat_completion
from .grad_mode import no_grad


def ask(model: ChatCompletionModel, messages: Sequence[Mapping[str, str]], completion_args: dict[str, Any]) -> str:
    """See ``ChatCompletionModel.chat``."""
    if isinstance(messages, (str, Mapping)):
        raise TypeError(f'messages must be a list of {{"role": str, "content": str}}, not a {type(messages).__name__}.')
    for index, message in enumerate(messages):
        is_message = isinstance(message, Mapping) and set(message) == {"role", "content"}
        if not is_message or not all(isinstance(value, str) for value in message.values()):
            raise TypeError(f'messages[{index}] must be {{"role": str, "content": str}}, not {message!r}.')
    with use_link(model.link), no_grad():
        contents = variables([message["content"] for message in messages], "part of a chat")
        chat = [{"role": message["role"], "content": [content]} for message, content in zip(messages, contents)]
        answer = chat_completion(model, chat, **completion_args)
    return str(answer.data)
