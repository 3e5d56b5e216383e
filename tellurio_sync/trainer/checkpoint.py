"""Checkpoints of a training: a file of JSON, which any program can read, and loading it runs no code.

::

    {
      "format": "tellurio_sync training checkpoint",
      "version": 1,
      "epoch": 3,                       the epochs that are done
      "best": {"monitor": "val_accuracy", "mode": "max", "epoch": 2, "value": 0.91, "parameters": [VARIABLE, ...]},
                                        null: no metric is watched
      "parameters": [VARIABLE, ...],    in the order of the optimizers' groups
      "optimizers": [{"state": ..., "param_groups": ...}, ...],               as Optimizer.state_dict()
      "agent": {"name": VARIABLE, ...}, as Module.state_dict(); null: no module
      "loader": {...},                  the order of the samples, as DataLoader.state_dict()
      "cost": 0.12,                     USD so far; null: not known
      "questions": 330                  to language models so far; missing in older checkpoints
    }

A VARIABLE is ``{"__variable__": "Parameter" | "Variable", "data": ..., "role": ..., "requires_grad": ...}``, a tuple
``{"__tuple__": [...]}``, and a dict whose keys are no texts ``{"__items__": [[key, value], ...]}``.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from ..model.suppression import suppress_variable_notifications
from ..model.variable import Parameter, Variable

FORMAT = "tellurio_sync training checkpoint"
VERSION = 1

_CLASSES: dict[str, type[Variable]] = {"Variable": Variable, "Parameter": Parameter}


class CheckpointError(ValueError):
    """A file that is no checkpoint, or one that does not fit the training. The text says which, and why."""


def write(path: Path, content: dict[str, Any]) -> None:
    """Write a checkpoint. Whole or not at all: a file of that name stays as it was until the new one is on the disk.

    Raises:
        OSError: it cannot be written.
        TypeError: something in ``content`` has no form in JSON; the text says what.
    """
    write_whole(path, {"format": FORMAT, "version": VERSION, **encoded(content)})


def write_whole(path: Path, content: dict[str, Any]) -> None:
    """Write a file of JSON, so that there is the old one or the new one, also after a crash. Raises OSError."""
    text = json.dumps(content, ensure_ascii=False, indent=1)
    import tempfile  # only here: importing the package is to stay cheap

    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".part")
    try:
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


def read(path: Path) -> dict[str, Any]:
    """What ``write`` has written, with Variables that the server does not know.

    Raises:
        OSError: it cannot be read.
        CheckpointError: it is no checkpoint, or one of a later version.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as exc:
        raise CheckpointError(f"{path} is no checkpoint of a training: it is not JSON ({exc}).") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise CheckpointError(f'{path} is no checkpoint of a training: it lacks "format": "{FORMAT}".')
    if content.get("version") != VERSION:
        raise CheckpointError(
            f"{path} has version {content.get('version')!r} of the format, and this package reads {VERSION}."
        )
    try:
        with suppress_variable_notifications():
            decoded: dict[str, Any] = _decoded(content)
    except (KeyError, TypeError, ValueError) as exc:
        raise CheckpointError(f"{path} is damaged: {type(exc).__name__}: {exc}") from exc
    return decoded


def encoded(value: Any) -> Any:
    """``value`` as JSON. Raises TypeError for what has no form there."""
    if isinstance(value, Variable):
        kind = "Parameter" if isinstance(value, Parameter) else "Variable"
        return {
            "__variable__": kind,
            "data": value.data,
            "role": value.role,
            "requires_grad": value.requires_grad,
        }
    if isinstance(value, tuple):
        return {"__tuple__": [encoded(item) for item in value]}
    if isinstance(value, list):
        return [encoded(item) for item in value]
    if isinstance(value, dict):
        if all(isinstance(key, str) and not key.startswith("__") for key in value):
            return {key: encoded(item) for key, item in value.items()}
        return {"__items__": [[encoded(key), encoded(item)] for key, item in value.items()]}
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    raise TypeError(f"A checkpoint cannot hold a {type(value).__name__}: {value!r}.")


def _decoded(value: Any) -> Any:
    if isinstance(value, list):
        return [_decoded(item) for item in value]
    if not isinstance(value, dict):
        return value
    if "__variable__" in value:
        return _CLASSES[value["__variable__"]](value["data"], value["role"], value["requires_grad"])
    if "__tuple__" in value:
        return tuple(_decoded(item) for item in value["__tuple__"])
    if "__items__" in value:
        return {_decoded(key): _decoded(item) for key, item in value["__items__"]}
    return {key: _decoded(item) for key, item in value.items()}
