"""``afnio.models.openai``."""

from __future__ import annotations

from ...model.language import AsyncOpenAI, OpenAI

__all__ = ["AsyncOpenAI", "OpenAI"]
