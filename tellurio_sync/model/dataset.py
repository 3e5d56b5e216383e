"""A data set as Variables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from .batching import batch, open_batch
from .data import Data, normalise
from .link import current_link
from .suppression import is_suppressed
from .variable import Variable


def variables(
    data: Iterable[Data], role: str | Sequence[str | None] | None = "", requires_grad: bool = False
) -> list[Variable]:
    """A Variable for each item of ``data``, in the same order: a data set, made in one round trip.

    (One for every few thousand, or about a million characters.)  In a batch none; Parameters: make them in a batch.

    Args:
        data: what ``Variable`` takes, for each.
        role: of all of them; or a list, one for each.
        requires_grad: whether feedback for them is wanted.

    Raises:
        TypeError, ValueError: an item that no Variable may hold, before anything is sent. The text says which.
        ValueError: not as many roles as items.
        BatchFailed: the server refused some of them; names each, and why.
        TellurioError: as ``TellurioWebSocketClient.call``.
    """
    items = [_normalised_item(index, item) for index, item in enumerate(data)]
    roles = [role] * len(items) if role is None or isinstance(role, str) else list(role)
    if len(roles) != len(items):
        raise ValueError(f"{len(items)} items need as many roles, or one for all, not {len(roles)}.")
    if is_suppressed() or open_batch(current_link()) is not None:
        return [Variable(item, its_role, requires_grad) for item, its_role in zip(items, roles)]
    with batch():
        return [Variable(item, its_role, requires_grad) for item, its_role in zip(items, roles)]


def _normalised_item(index: int, item: Data) -> Data:
    try:
        return normalise(item)
    except (TypeError, ValueError) as exc:
        raise type(exc)(f"item {index}: {exc}") from None
