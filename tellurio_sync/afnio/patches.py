"""Attributes that are replaced, and put back."""

from __future__ import annotations

import sys
from typing import Any

_ABSENT = object()


class Patches:
    """Replaces attributes of objects and modules; ``undo`` puts back what was there. Not thread-safe."""

    def __init__(self) -> None:
        self._done: list[tuple[Any, str, Any, Any]] = []

    def set(self, owner: Any, name: str, value: Any) -> None:
        """Replace one attribute."""
        # vars(): an instance may shadow an attribute of its class, and has to lose that again.
        self._done.append((owner, name, vars(owner).get(name, _ABSENT), value))
        setattr(owner, name, value)

    def replace_everywhere(self, package: str, former: object, value: object) -> None:
        """Replace an object under every name that a module of this package has for it."""
        for module_name, module in sorted(sys.modules.items()):
            if module is None or not (module_name == package or module_name.startswith(f"{package}.")):
                continue
            for name, present in list(vars(module).items()):
                if present is former:
                    self.set(module, name, value)

    def undo(self) -> None:
        """Put everything back, the last replaced first. An attribute that other code has replaced since stays."""
        while self._done:
            owner, name, before, value = self._done.pop()
            if vars(owner).get(name, _ABSENT) is not value:
                continue
            if before is _ABSENT:
                delattr(owner, name)
            else:
                setattr(owner, name, before)
