"""``afnio.models.model``."""

from __future__ import annotations

from ...model.language import ChatCompletionModel
from ...studio.consent import check_consent

# One class has all of it: chats, completions and vectors.
EmbeddingModel = TextCompletionModel = ChatCompletionModel

__all__ = ["ChatCompletionModel", "EmbeddingModel", "TextCompletionModel", "check_consent"]
