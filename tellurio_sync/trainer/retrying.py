"""Beginning again after a lost connection."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

from ..errors import CallTimeout, ConnectionLost

log: logging.Logger = logging.getLogger("tellurio_sync.trainer")

T = TypeVar("T")

LOST = (ConnectionLost, CallTimeout)
"""After these errors the same batch may be tried again: ``clear_grad`` at its beginning makes both sides agree."""


def tried(attempt: Callable[[], T], retries: int) -> tuple[T, int]:
    """The output of a batch, which is begun again after a lost connection or a time-out, and how many tries it took."""
    tries = 1
    while True:
        try:
            return attempt(), tries
        except LOST as exc:
            if tries > retries:
                raise
            log.warning("try %d of %d of a batch failed, once more: %s", tries, retries + 1, exc)
            tries += 1
