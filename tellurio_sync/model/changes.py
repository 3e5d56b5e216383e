"""Changes of Variables: what the server is told, and what becomes of it here (PROTOCOL.md §F.5).

A change is first accepted by the server and then made here (§M 25).  In an open batch it is made here at once, told
later, and taken back if the server refuses it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..errors import RemoteProtocolError, TellurioError
from .replies import check_echo

if TYPE_CHECKING:
    from .variable import Variable

CREATE = "create_variable"
UPDATE = "update_variable"

MADE_WITH = frozenset({"data", "role", "requires_grad"})
"""The fields that ``create_variable`` takes."""

_ABSENT = object()


class Change:
    """One attribute of one Variable gets one value.

    Args:
        variable: which.
        field: the name of the attribute on the wire.
        value: a JSON value; for ``_grad`` the gradients.
        name: the name of the attribute here; None: as on the wire.
        make: makes the change here, in another way than by setting that attribute. Must not raise.
    """

    __slots__ = ("_before", "_make", "_name", "field", "value", "variable")

    def __init__(
        self,
        variable: Any,
        field: str,
        value: Any,
        name: str | None = None,
        make: Callable[[], None] | None = None,
    ) -> None:
        self.variable: Variable = variable
        self.field = field
        self.value = value
        self._name = name or field
        self._make = make
        self._before: Any = None

    def params(self) -> dict[str, Any]:
        """The parameters of ``update_variable``.

        Raises:
            UsageError, ConnectionLost: the Variable, or a gradient, cannot be used with the server any more.
        """
        self.variable._check_not_lost()
        value = self.value
        if self.field == "_grad":
            value = [gradient._reference() for gradient in value]
        return {"variable_id": self.variable.variable_id, "field": self.field, "value": value}

    def involves(self) -> list[Variable]:
        """The Variables that must be made before this can be told."""
        return [self.variable, *self.value] if self.field == "_grad" else [self.variable]

    def wait_until_made(self) -> None:
        """Wait for these; raises as ``Batch.settle_for``."""
        for variable in self.involves():
            variable._wait_until_made()

    @property
    def is_plain(self) -> bool:
        """Whether it is made by setting the attribute, so that it can be taken back."""
        return self._make is None

    def make(self) -> None:
        """Make it here."""
        if self._make is not None:
            self._make()
        else:
            self.variable._set_local(self._name, self.value)

    def make_at_once(self) -> None:
        """Make it here before the server is asked. For plain ones."""
        self._before = getattr(self.variable, self._name, _ABSENT)
        self.make()

    def take_back(self) -> None:
        """The server did not take what was made at once."""
        if getattr(self.variable, self._name, _ABSENT) is not self.value:
            return  # the attribute has been set again since
        if self._before is _ABSENT:
            object.__delattr__(self.variable, self._name)
        else:
            self.variable._set_local(self._name, self._before)

    def __str__(self) -> str:
        return f"{self.field} of {self.variable}"


def error_in(outcome: Any, sent: dict[str, Any]) -> TellurioError | None:
    """Why a change did not succeed; None if it did.

    Args:
        outcome: the result of the reply, or the error in its place.
        sent: the parameters, which the server must echo.
    """
    if isinstance(outcome, TellurioError):
        return outcome
    try:
        check_echo(UPDATE, outcome, sent)
    except RemoteProtocolError as exc:
        return exc
    return None
