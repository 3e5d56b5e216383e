"""``afnio.models``."""

from __future__ import annotations

from ...model.language import ChatCompletionModel
from . import openai

# One class has all of it: chats, completions and vectors.
EmbeddingModel = TextCompletionModel = ChatCompletionModel

__all__ = ["ChatCompletionModel", "EmbeddingModel", "TextCompletionModel", "openai"]
