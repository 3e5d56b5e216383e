"""The state of an optimizer on the wire (protocol §E.5)."""

from __future__ import annotations

from typing import Any

from ..errors import RemoteProtocolError
from ..model.session_link import SessionLink
from ..model.variable import Variable
from ..model.wire import deserialise

Momentum = list[tuple[Variable, list[Variable]]]
"""Former values of a parameter, oldest first: a copy of it, and the gradients that changed it."""

State = dict[Variable, dict[str, Any]]
"""Per parameter ``{"momentum_buffer": Momentum}``."""


class StateDecoder:
    """Decodes states. Waits for each Variable that a state names and that the server has not pushed yet."""

    def __init__(self, link: SessionLink) -> None:
        self._link = link

    def state(self, wire: Any) -> State:
        """The ``state`` of a reply to ``run_step`` or ``create_optimizer``.

        Raises:
            UnknownVariable: a Variable did not come within the pending timeout.
            RemoteProtocolError: not a state.
        """
        decoded: State = {}
        for entry in _expect_list(wire):
            if not isinstance(entry, dict) or not isinstance(entry.get("value"), dict):
                raise _malformed(entry)
            parameter = self.value(entry.get("key"))
            if not isinstance(parameter, Variable):
                raise _malformed(entry)
            decoded[parameter] = {
                name: self.momentum(item) if name == "momentum_buffer" else self.value(item)
                for name, item in entry["value"].items()
            }
        return decoded

    def momentum(self, wire: Any) -> Momentum:
        """One momentum buffer; raises as ``state``."""
        buffer: Momentum = []
        for entry in _expect_list(wire):
            if not isinstance(entry, (list, tuple)) or len(entry) != 2 or not isinstance(entry[1], list):
                raise _malformed(entry)
            copy, gradients = self.value(entry[0]), self.value(entry[1])
            if not all(isinstance(variable, Variable) for variable in (copy, *gradients)):
                raise _malformed(entry)
            buffer.append((copy, gradients))
        return buffer

    def value(self, wire: Any) -> Any:
        """Any value with references; raises ``UnknownVariable`` as ``state``."""
        return deserialise(wire, self._link.registries, self._find)

    def _find(self, variable_id: str) -> Variable | None:
        variables = self._link.registries.variables
        variable = variables.lookup(variable_id)
        if variable is None and isinstance(variable_id, str):
            self._link.check_may_wait()
            variable = self._link.registries.wait_for_variable(variable_id, self._link.pending_timeout)
        return variable


def _expect_list(wire: Any) -> list[Any]:
    if not isinstance(wire, list):
        raise _malformed(wire)
    return wire


def _malformed(wire: Any) -> RemoteProtocolError:
    return RemoteProtocolError("The server sent an optimizer state of an unknown form.", received=repr(wire))
