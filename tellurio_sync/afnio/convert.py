"""Reading afnio's checkpoint files, where afnio is installed, and writing them in this package's form.

They are pickles of afnio's own classes: only its code can read them.  What comes out holds Variables of this package,
for ``te.load`` and ``Module.load_state_dict``.
"""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import Any, Union

from ..errors import UsageError
from ..model.serialization import save
from ..model.suppression import suppress_variable_notifications
from ..model.variable import Parameter, Variable
from .install import check_version

StrPath = Union[str, "os.PathLike[str]"]

_OF_A_MODEL = {"class_type", "provider", "usage"}
"""The keys of what a checkpoint of afnio says of a language model."""

_PLAIN = (str, int, float, bool, type(None))


def convert(source: StrPath, target: StrPath) -> list[str]:
    """Read a file of afnio's ``save`` and write its content with ``te.save``.

    Returns:
        The places of what could not be taken over, such as models and functions: the program makes those.

    Raises:
        AfnioVersionError: afnio is not installed, or not in a version that is known.
        OSError: the file cannot be read or written.
        UsageError: it is not a file of afnio's, or ``target`` exists.
    """
    check_version()
    if Path(target).exists():
        raise UsageError(f"{os.fspath(target)} exists already: name a new file.")
    if not Path(source).is_file():
        raise FileNotFoundError(f"there is no file {os.fspath(source)}")
    try:
        content = importlib.import_module("afnio").load(os.fspath(source))
    except Exception as exc:
        raise UsageError(f"{os.fspath(source)} cannot be read by afnio: {type(exc).__name__}: {exc}") from exc
    left: list[str] = []
    with suppress_variable_notifications():
        converted = _converted(content, "", left, {})
    save(converted, target)
    return left


def _converted(value: Any, place: str, left: list[str], made: dict[int, Variable]) -> Any:
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, dict):
        if set(value) == _OF_A_MODEL:
            left.append(place)
            return _LEFT
        entries = {key: _converted(item, f"{place}.{key}".lstrip("."), left, made) for key, item in value.items()}
        return {key: item for key, item in entries.items() if item is not _LEFT}
    if isinstance(value, (list, tuple)):
        items = [_converted(item, f"{place}[{index}]", left, made) for index, item in enumerate(value)]
        return type(value)(item for item in items if item is not _LEFT)
    kinds = [cls.__name__ for cls in type(value).__mro__]
    if "Variable" in kinds:
        if id(value) not in made:
            kind = Parameter if "Parameter" in kinds else Variable
            made[id(value)] = kind(value.data, value.role, value.requires_grad)
        return made[id(value)]
    left.append(place)
    return _LEFT


_LEFT = object()
