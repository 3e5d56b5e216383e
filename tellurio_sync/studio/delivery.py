"""Sends what is in the folder of a run to the server: the run itself, its values in their order, its end.

Each value arrives once, however often it is tried.  A local backend takes the bytes of the journals and knows what it
has of them (the extension ``journal``, protocol §K.8).  Any other server gets the values one by one, with an
``Idempotency-Key``; if there was no answer, it is asked whether it has the value before the value is sent again.

This module has no thread, and waits only for answers.  :mod:`.shipping` calls it for a run that goes on, and
:mod:`.sync` for runs that were left.

| State | Written by | Read by | Guarded by | Enforced by |
|---|---|---|---|---|
| ``_about``, ``_decoders``, ``_unreadable`` | the shipper's thread, or that of ``sync`` | the same | ownership | – |
| ``acknowledged``, ``made`` | the thread that sends | threads that wait for it | one store | – |
| how far a journal is sent: ``<writer>.sent`` | the thread that sends | any process | a lock on a file | ``Busy`` |
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import HttpStatusError, HttpUnreachable, TellurioError
from ..journal.folder import RunFolder, Sent
from ..journal.format import Decoder, MalformedJournal, Record
from .rest import StudioRest

if TYPE_CHECKING:
    from .projects import Project

_log = logging.getLogger(__name__)

_PIECE = 128 * 1024
_LONGEST_RECORD = 16 * 2**20
# With these statuses the same request may succeed later; the others say that something is wrong with the request.
_PASSING = (401, 403, 408, 425, 429)


class Refusal(NamedTuple):
    """Something that the server does not take."""

    name: str
    step: int | None
    why: str


class Busy(TellurioError):
    """Another process is sending the same journal at present."""


def is_passing(error: TellurioError) -> bool:
    """Whether the same request may succeed later."""
    if isinstance(error, HttpStatusError):
        return error.status >= 500 or error.status in _PASSING
    return isinstance(error, (HttpUnreachable, Busy))


class Delivery:
    """Sends one folder to one server. Used by one thread at a time.

    Args:
        on_refused: called with each value that the server refuses. It is kept in the folder, and not sent again.

    Attributes:
        acknowledged: counts what the server has confirmed.
        made: the project, and the server's description of the run, where the run was made by this delivery; else None.
    """

    def __init__(self, folder: RunFolder, rest: StudioRest, on_refused: Callable[[Refusal], None]) -> None:
        self._folder = folder
        self._rest = rest
        self._on_refused = on_refused
        self._about: dict[str, Any] = {}
        self._decoders: dict[str, Decoder] = {}
        self._unreadable: set[str] = set()
        self.acknowledged: int = 0
        self.made: tuple[Project, dict[str, Any]] | None = None

    def run(self) -> None:
        """Send everything that was not sent yet.

        Raises:
            HttpUnreachable, HttpStatusError, Busy: not everything was sent; see ``is_passing``.
            HttpError: the server answered in an unknown form.
            OSError: the folder cannot be read or written.
        """
        if not self._about:
            self._about = self._folder.about()
        if not self._rest.knows_extensions:
            self._rest.verify_api_key()
        self._create_run()
        # Before the journals are looked at: what was logged before the end is in them, and reaches the server first.
        end = self._folder.end()
        for writer in self._folder.writers():
            if writer not in self._unreadable and self._folder.size(writer) > self._folder.sent(writer).position:
                self._send(writer)
        self._send_end(end)

    def sign_of_life(self) -> None:
        """Tell the server that the run goes on, if it wants to know."""
        if self._rest.knows("journal") and self._about.get("remote_uuid"):
            self._rest.send_journal(*self._address(), "-", 0, b"")

    # --- the run ---------------------------------------------------------------------------------------

    def _create_run(self) -> None:
        about = self._about
        if about.get("remote_uuid"):
            return
        from .projects import get_or_create_project  # late: a cheap import

        rest = self._rest
        namespace = about.get("namespace") or about.get("username") or ""
        project = get_or_create_project(rest, namespace, about["project"], "RESTRICTED", about.get("username"))
        made = rest.create_run(
            *(namespace, project.slug, about.get("name"), about.get("description"), "RUNNING"),
            config=about.get("config"),
            run_uuid=about["uuid"],
            idempotency_key=about["uuid"],
        )
        changes = {"remote_uuid": made["uuid"], "namespace": namespace, "slug": project.slug, "name": made["name"]}
        self._folder.change(**changes)
        self._about = {**about, **changes}
        self.made = project, made
        self.acknowledged += 1

    def _send_end(self, end: dict[str, Any]) -> None:
        if not end or end.get("is_sent"):
            return
        self._rest.update_run(*self._address(), end["status"], reason=end.get("reason"))
        if self._folder.end() == end:  # else it goes on again, or has another end
            self._folder.set_end(end["status"], end.get("reason"), is_sent=True)
        self.acknowledged += 1

    def _address(self) -> tuple[str, str, str]:
        return self._about["namespace"], self._about["slug"], self._about["remote_uuid"]

    # --- values ----------------------------------------------------------------------------------------

    def _send(self, writer: str) -> None:
        with self._folder.sending(writer) as is_ours:
            if not is_ours:
                raise Busy(f"Another process is sending the journal {writer}.")
            if self._rest.knows("journal"):
                self._send_bytes(writer)
            else:
                self._send_one_by_one(writer)

    def _send_bytes(self, writer: str) -> None:
        position, length = self._folder.sent(writer).position, _PIECE
        while data := self._folder.read(writer, position, length):
            answer = self._rest.send_journal(*self._address(), writer, position, data)
            known = int(answer["position"])
            for one in answer.get("refused", ()):
                self._refused(Refusal(str(one.get("name")), one.get("step"), str(one.get("detail"))))
            if known != position:
                # All that there was has come: what was logged meanwhile travels together, after a pause.
                is_all = len(data) < length and known == position + len(data)
                # Also backwards, where the server has lost what it had.
                position, length = known, _PIECE
                self._folder.set_sent(writer, Sent(position))
                self.acknowledged += 1
                if is_all:
                    return
            elif answer.get("malformed"):
                self._is_unreadable(writer, str(answer["malformed"]))
                return
            elif len(data) < length or length >= _LONGEST_RECORD:
                return  # the end of a record is missing: it is being written, or its process was killed
            else:
                length *= 8

    def _send_one_by_one(self, writer: str) -> None:
        sent = self._folder.sent(writer)
        decoder = self._decoders.get(writer)
        if decoder is None or decoder.position != sent.position:
            decoder = self._decoders[writer] = Decoder()
            if sent.position:
                decoder.feed(self._folder.read(writer, 0, sent.position))
        while data := self._folder.read(writer, decoder.position, _PIECE):
            position = decoder.position
            try:
                records = decoder.feed(data)
            except MalformedJournal as exc:
                self._is_unreadable(writer, str(exc))
                records = exc.records
            if not records and decoder.position == position:
                return
            try:
                for record in records:
                    sent = self._send_record(writer, position, record, sent)
                    position = record.end
            except BaseException:
                del self._decoders[writer]  # what was read and not sent is read again
                raise
            self._folder.set_sent(writer, Sent(decoder.position))
            if writer in self._unreadable:
                return

    def _send_record(self, writer: str, position: int, record: Record, sent: Sent) -> Sent:
        for index, (name, value) in enumerate(record.values):
            if sent.position == position and index < sent.values:
                continue
            # Noted before it is sent: after a kill in between, the next one asks first.
            is_in_doubt = sent.position == position and sent.values == index and sent.is_in_doubt
            self._folder.set_sent(writer, Sent(position, index, is_in_doubt=True))
            if not (is_in_doubt and self._has(writer, record, index)):
                self._send_value(writer, position, index, name, value, record.step)
            sent = Sent(position, index + 1)
            self.acknowledged += 1
        sent = Sent(record.end)
        self._folder.set_sent(writer, sent)
        return sent

    def _send_value(self, writer: str, position: int, index: int, name: str, value: Any, step: int | None) -> None:
        key = f"{writer}-{position}-{index}"
        try:
            self._rest.log_metric(*self._address(), name, value, step, idempotency_key=key)
        except HttpStatusError as exc:
            if is_passing(exc) or exc.status == 404:
                if exc.status in _PASSING or exc.status == 404:
                    # An answer came, and it says that the value was not taken.
                    self._folder.set_sent(writer, Sent(position, index))
                raise
            self._refused(Refusal(name, step, str(exc)))

    def _has(self, writer: str, record: Record, index: int) -> bool:
        """Whether the server has the value to which no answer came.

        It has it if it has more such values than were sent before. (If two processes log the same value of the same
        metric without a step at the same time, one could be mistaken for the other.)
        """
        name, value = record.values[index]
        wanted = _comparable(value)
        decoder = Decoder()
        before = 0
        for earlier in decoder.feed(self._folder.read(writer, 0, record.end)):
            items = earlier.values[:index] if earlier.end == record.end else earlier.values
            before += sum(
                one == name and _comparable(other) == wanted and (record.step is None or earlier.step == record.step)
                for one, other in items
            )
        there = sum(
            metric.get("name") == name
            and _comparable(metric.get("value")) == wanted
            and (record.step is None or metric.get("step") == record.step)
            for metric in self._rest.stored_metrics(*self._address())
        )
        return bool(there > before)

    # --- what cannot be sent ---------------------------------------------------------------------------

    def _refused(self, refusal: Refusal) -> None:
        self._folder.note_refused(refusal._asdict())
        self._on_refused(refusal)

    def _is_unreadable(self, writer: str, why: str) -> None:
        self._unreadable.add(writer)
        self._refused(Refusal(f"journal {writer}", None, why))


def _comparable(value: Any) -> Any:
    """The same for two values that a server may give back in place of each other."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return float(value) if type(value) in (int, float) else value
