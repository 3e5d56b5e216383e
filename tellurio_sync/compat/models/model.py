"""``afnio.models.model``."""

from __future__ import annotations

from ...model.language import ChatCompletionModel
from ...studio.consent import check_consent

__all__ = ["ChatCompletionModel", "check_consent"]
