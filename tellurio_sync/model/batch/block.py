"""The block ``with batch():``, which threads and contexts are inside it, and what that means for Variables.

What a block has queued, and when and how that is sent, is in ``batch.queue``.
"""

from __future__ import annotations

import logging
from contextlib import ContextDecorator
from contextvars import ContextVar
from types import TracebackType
from typing import TYPE_CHECKING

from ...errors import CallTimeout, ConnectionLost, NotConnected
from ..session_link import SessionLink, current_link
from .queue import Queue

if TYPE_CHECKING:
    pass

log: logging.Logger = logging.getLogger("tellurio_sync.session")

# If a block is left by one of these, the user does not have to wait for the server once more.
_NO_MORE_WAITING = (KeyboardInterrupt, ConnectionLost, CallTimeout, NotConnected)


class _Entry:
    """One entry into a block."""

    __slots__ = ("is_outermost", "queue")

    def __init__(self, queue: Queue, *, is_outermost: bool) -> None:
        self.queue = queue
        self.is_outermost = is_outermost


_entries: ContextVar[tuple[_Entry, ...]] = ContextVar("tellurio_sync_batches", default=())


def open_queue(link: SessionLink) -> Queue | None:
    """The queue of this session's block that this thread, or context, is in; None if there is none.

    Does not block.
    """
    for entry in reversed(_entries.get()):
        # A context may have been copied inside a block that is over.
        if entry.queue.link is link and entry.queue.is_open:
            return entry.queue
    return None


def settle_open_queue(link: SessionLink) -> None:
    """A synchronisation point, if this thread, or context, is inside a block of this session: see ``Queue.settle``."""
    queue = open_queue(link)
    if queue is not None:
        queue.settle()


class batch(ContextDecorator):
    """Inside ``with batch():`` Variables are made, and their attributes set, without waiting for the server.

    All of it is sent in one go, in one round trip as a rule, at a *synchronisation point*: the end of the block; a
    use that needs an answer (reading ``variable_id`` of a new Variable, calling a function on one, any other call);
    ``init``, and the end of the run; or when some thousand things, or a million characters, are waiting.  Local values
    are there at once.  A value of a million characters or more is not queued: it is sent alone, and waited for.

    It counts for the current session, in this thread and context only.  It may be nested (the inner end waits, too) and
    reused.  Do not ``yield`` inside the block: the code that continues the generator would be in the block.  A forked
    child is not in it: it has its own copies of what was queued.

    If the block is left by an exception, what is queued is sent all the same, and the exception goes on; a failure of
    the sending is logged, and added to its notes (Python 3.11).  After Ctrl-C, a lost connection or a timeout, nothing
    more is sent: as at a synchronisation point, changes that were not answered are taken back, and Variables that are
    not made yet are made when they are used.

    If an attribute is set while a change of it is queued (by another thread, by the server, or under
    ``suppress_variable_notifications``), the queued change wins, here and there, after the server has accepted it.

    Raises:
        BatchFailed: at a synchronisation point: the server refused something; it names each Variable and the reason. A
            refused Variable cannot be used; a refused change is taken back.
        ConnectionLost, CallTimeout, NotConnected: at a synchronisation point; also in the block, if changes were taken
            back because another thread, which used a queued Variable, got that error. Everything that is sent together
            has the ``default_timeout``, and 10 ms more for each item.
        WouldDeadlock: a synchronisation point on the receive thread.
    """

    def __init__(self) -> None:
        self._entries: list[_Entry] = []

    def __enter__(self) -> batch:
        link = current_link()
        before = _entries.get()
        outer = open_queue(link)
        entry = _Entry(outer or Queue(link, open_queue), is_outermost=outer is None)
        self._entries.append(entry)
        try:
            _entries.set((*before, entry))
        except BaseException:
            # Ctrl-C after the entry was stored: without this, nothing would remove it.
            _entries.set(before)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        entry = self._take_entry()
        queue = entry.queue
        _entries.set(tuple(other for other in _entries.get() if other is not entry))
        if entry.is_outermost:
            queue.is_open = False
        if exc is None:
            queue.settle()
        elif not entry.is_outermost:
            pass  # the outer block's business
        elif isinstance(exc, _NO_MORE_WAITING):
            queue.give_up()
        else:
            _settle_behind(exc, queue)

    def _take_entry(self) -> _Entry:
        """The last entry of this context. Other threads may be inside, too; a generator may end in another context."""
        entry = next((entry for entry in reversed(_entries.get()) if entry in self._entries), self._entries[-1])
        self._entries.remove(entry)
        return entry


def _settle_behind(exc: BaseException, queue: Queue) -> None:
    """Send what is queued; whatever fails, the user sees ``exc``."""
    try:
        queue.settle()
    except Exception as failure:  # noqa: BLE001 - whatever it is
        log.error("at the end of a batch that was left by %s: %s", type(exc).__name__, failure)
        if hasattr(exc, "add_note"):
            exc.add_note(f"At the end of the batch, {type(failure).__name__}: {failure}")
