"""Changes of Variables: how the server is told, and how they are applied here (protocol §F.5).

The server accepts a change first; then it is applied here (§F.5).  In an open batch it is applied here at once, sent
later, and taken back if the server refuses it (``items``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ...errors import RemoteProtocolError, TellurioError
from ..reply_checks import check_echo
from ..restorable import check_not_lost, reference
from ..variable_state import set_local, wait_for_id

if TYPE_CHECKING:
    from ..variable import Variable

CREATE = "create_variable"
UPDATE = "update_variable"

MADE_WITH = frozenset({"data", "role", "requires_grad"})
"""The fields that ``create_variable`` takes."""


class Change:
    """A new value for one attribute of one Variable.

    Args:
        variable: the Variable.
        field: the name of the attribute on the wire.
        value: a JSON value; for ``_grad`` the gradients. It must not change later: pass a copy of a live gradient list.
        name: the name of the attribute here; None: as on the wire.
        apply: applies the change here, if setting the attribute is not enough. Must not raise.
    """

    __slots__ = ("_apply", "field", "name", "value", "variable")

    def __init__(
        self,
        variable: Any,
        field: str,
        value: Any,
        name: str | None = None,
        apply: Callable[[], None] | None = None,
    ) -> None:
        self.variable: Variable = variable
        self.field: str = field
        self.value: Any = value
        self.name: str = name or field
        self._apply = apply

    def params(self) -> dict[str, Any]:
        """The parameters of ``update_variable``.

        Raises:
            UsageError, ConnectionLost: the Variable, or a gradient, cannot be used with the server any more.
        """
        check_not_lost(self.variable)
        value = self.value
        if self.field == "_grad":
            value = [reference(gradient) for gradient in value]
        return {"variable_id": self.variable.variable_id, "field": self.field, "value": value}

    def involves(self) -> list[Variable]:
        """The Variables that must be made before this change can be sent."""
        return [self.variable, *self.value] if self.field == "_grad" else [self.variable]

    def wait_until_made(self) -> None:
        """Wait until these Variables are made; raises as ``Queue.wait_for``."""
        for variable in self.involves():
            wait_for_id(variable)

    @property
    def is_plain(self) -> bool:
        """Whether it only sets the attribute, so that it can be taken back."""
        return self._apply is None

    def local_value(self) -> Any:
        """The value of the attribute here: for ``_grad`` a new list."""
        return list(self.value) if self.field == "_grad" else self.value

    def apply(self) -> None:
        """Apply it here."""
        if self._apply is not None:
            self._apply()
        else:
            set_local(self.variable, self.name, self.local_value())

    def __str__(self) -> str:
        return f"{self.field.lstrip('_')} of {self.variable!s}"


def error_in(outcome: Any, sent: dict[str, Any]) -> TellurioError | None:
    """The error of a change that failed; None if it succeeded.

    Args:
        outcome: the result of the reply, or the error in place of it.
        sent: the parameters, which the server must echo.
    """
    if isinstance(outcome, TellurioError):
        return outcome
    try:
        check_echo(UPDATE, outcome, sent)
    except RemoteProtocolError as exc:
        return exc
    return None
