"""Checkpoint files: a zip archive that holds one pickle (protocol §F.6)."""

from __future__ import annotations

import io
import json
import os
import pickle
import uuid
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, Any, Union

from ..errors import UsageError
from .data import JAGGED
from .variable import Parameter, Variable, _unpickled

_MEMBER = "data.pkl"

# What the page of a local backend writes as ``format`` into an exported version of a parameter.
EXPORT_FORMAT = "tellurio parameter"
_DEFAULT_PROTOCOL = 2

StrPath = Union[str, "os.PathLike[str]"]

# The names that a pickle may use. Any other name could run code of the author of the file.
_HARMLESS: tuple[Any, ...] = (Variable, Parameter, _unpickled, OrderedDict, set, frozenset, complex, bytearray)


def save(obj: Any, path: StrPath | IO[bytes], pickle_protocol: int = _DEFAULT_PROTOCOL) -> None:
    """Write ``obj`` (Variables, plain data, a ``state_dict``) to a file, whose name usually ends in ``.hf``.

    The file is complete, or not there at all: it is written beside ``path`` and then moved. A file that is open for
    writing bytes, such as ``io.BytesIO()``, is written to as it is.

    Raises:
        OSError: it cannot be written.
        pickle.PicklingError, TypeError: something in ``obj`` cannot be pickled.
    """
    content = pickle.dumps(obj, protocol=pickle_protocol)
    if not isinstance(path, (str, os.PathLike)):
        archived = io.BytesIO()
        with zipfile.ZipFile(archived, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(_MEMBER, content)
        path.write(archived.getvalue())
        return
    target = Path(path)
    unfinished = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    try:
        with zipfile.ZipFile(unfinished, "x", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(_MEMBER, content)
        os.replace(unfinished, target)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def load(path: StrPath | IO[bytes], allow: Iterable[type | Callable[..., Any]] = ()) -> Any:
    """Read a file that ``save`` has written. Variables in it are not shared with the server: copy from them.

    Also reads a version of a parameter that the page of a local backend exported as JSON; it gives a ``Parameter``.

    Args:
        path: of the file; or a file that is open for reading bytes, which is read to its end.
        allow: own classes and functions that the file may name.

    Raises:
        OSError: it cannot be read.
        UsageError: not such a file, or it names something that is not allowed.
    """
    name = "the file" if not isinstance(path, (str, os.PathLike)) else os.fspath(path)
    source: StrPath | io.BytesIO = path if isinstance(path, (str, os.PathLike)) else io.BytesIO(path.read())
    if not zipfile.is_zipfile(source):
        exported = _read_export(source)
        if exported is not None:
            return exported
    try:
        with zipfile.ZipFile(source) as archive, archive.open(_MEMBER) as file:
            return _Unpickler(file, allow).load()
    except (zipfile.BadZipFile, KeyError) as exc:
        raise UsageError(f"{name} is no checkpoint: a zip archive with {_MEMBER!r} is expected.") from exc
    except (pickle.UnpicklingError, EOFError, AttributeError, ImportError) as exc:
        raise UsageError(f"{name} cannot be read: {exc}") from exc


def _read_export(source: StrPath | io.BytesIO) -> Parameter | None:
    """The parameter of an export of the page; None if the file is something else."""
    content = source.getvalue() if isinstance(source, io.BytesIO) else Path(source).read_bytes()
    if not content.lstrip().startswith(b"{"):
        return None
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict) or found.get("format") != EXPORT_FORMAT or "data" not in found:
        return None
    role = found.get("role")
    return _unpickled(Parameter, found["data"], role if isinstance(role, str) else "", True, {})


class _Unpickler(pickle.Unpickler):
    """Finds only names that are harmless, or allowed."""

    def __init__(self, file: Any, allow: Iterable[type | Callable[..., Any]]) -> None:
        super().__init__(file)
        self._known = {(item.__module__, item.__qualname__): item for item in (*_HARMLESS, *allow)}
        self._known[type(JAGGED).__module__, "JAGGED"] = JAGGED

    def find_class(self, module: str, name: str) -> Any:
        # Pickle protocols below 3 write the module names of Python 2.
        module = "builtins" if module == "__builtin__" else module
        try:
            return self._known[module, name]
        except KeyError:
            text = f"it names {module}.{name}, which may run code; pass it as `allow` if you trust the file"
            raise pickle.UnpicklingError(text) from None
