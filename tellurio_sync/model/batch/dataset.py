"""A data set as Variables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from ..data import Data, normalise
from ..session_link import current_link
from ..suppression import is_suppressed
from ..variable import Variable
from .block import batch, open_queue


def variables(
    data: Iterable[Data], role: str | Sequence[str | None] | None = "", requires_grad: bool = False
) -> list[Variable]:
    """A Variable for each item of ``data``, in the same order: a data set, made in one round trip.

    (One round trip for each 4,096 items or million characters; an item of a million characters takes its own.)  In a
    batch there is no round trip.  To make many Parameters, make them in a batch.

    Args:
        data: the data of each Variable.
        role: one role for all of them, or a list with one role for each.
        requires_grad: whether feedback for them is wanted.

    Raises:
        TypeError: ``data`` is one text or a dict; ``role`` is neither a text, nor None, nor a list of these.
        TypeError, ValueError: an item that no Variable may hold; nothing is sent then. The text names the item.
        ValueError: the number of roles is not the number of items.
        BatchFailed: the server refused some of them; it names each and the reason.
        TellurioError: as ``TellurioWebSocketClient.call``.
    """
    if hasattr(data, "columns") and hasattr(data, "iloc"):
        raise TypeError(
            f"data must be a list, with one item for each Variable, not a {type(data).__name__}: "
            "pass one of its columns."
        )
    if isinstance(data, (str, bytes, Mapping)):
        raise TypeError(f"data must be a list, with one item for each Variable, not a {type(data).__name__}.")
    items = [_normalised_item(index, item) for index, item in enumerate(data)]
    roles = _roles(role, len(items))
    is_alone = not is_suppressed() and open_queue(current_link()) is None
    block: AbstractContextManager[Any] = batch() if is_alone else nullcontext()
    with block:
        return [Variable(item, its_role, requires_grad) for item, its_role in zip(items, roles)]


def _roles(role: str | Sequence[str | None] | None, count: int) -> list[str | None]:
    if role is None or isinstance(role, str):
        return [role] * count
    if not isinstance(role, Sequence):
        text = "role must be a text or None, for all; or a list of these, one for each"
        raise TypeError(f"{text}; not a {type(role).__name__}.")
    if len(role) != count:
        raise ValueError(f"{count} items need as many roles, or one for all, not {len(role)}.")
    return list(role)


def _normalised_item(index: int, item: Data) -> Data:
    try:
        return normalise(item)
    except (TypeError, ValueError) as exc:
        raise type(exc)(f"item {index}: {exc}") from None
