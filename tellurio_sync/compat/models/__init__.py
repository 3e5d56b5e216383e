"""``afnio.models``."""

from __future__ import annotations

from ...model.language import ChatCompletionModel
from . import openai

__all__ = ["ChatCompletionModel", "openai"]
