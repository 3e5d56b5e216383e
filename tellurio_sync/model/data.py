"""The data of a Variable: the allowed values, their normal form, and the shape (protocol §F.2). Pure functions."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, Union

from ..errors import shorten

Scalar = Union[str, int, float, bool, None]
Data = Union[Scalar, list[Any]]
"""A scalar, or a list nested to any depth; all leaves strings or all numbers, ``None`` for a missing sample."""

_PLAIN = frozenset({str, int, bool, type(None)})


class _Jagged:
    """The length of an axis whose lists differ in length. There is one: ``JAGGED``."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "j"

    def __reduce__(self) -> str:
        return "JAGGED"


JAGGED = _Jagged()
Shape = tuple[Union[int, _Jagged], ...]


# --- validation and normalisation ---------------------------------------------------------------


def normalise(data: Any) -> Data:
    """``data`` in the normal form that a Variable keeps.

    Scalars, and lists whose leaves are of one kind, are returned unchanged: the same object, no copy.
    A list that mixes integers (or booleans) with floats becomes a new one with every number a float.

    Raises:
        TypeError: a tuple, a set, a dict or any other object, or a list that mixes strings and numbers.
            The text says where.
        ValueError: NaN or an infinity, which JSON does not have; an integer too large for a float beside
            floats; lists nested too deeply or in a circle.
    """
    if type(data) in _PLAIN:
        return data  # type: ignore[no-any-return]
    try:
        types: set[type] = set()
        _collect_types(data, types)
        if any(hasattr(cls, "tolist") for cls in types):
            data = plain(data)
            types = set()
            _collect_types(data, types)
        _check_leaves(data, types)
        has_float = _holds(types, float)
        if has_float:
            _check_finite(data)
        if has_float and _holds(types, int) and isinstance(data, list):
            return _as_floats(data)
    except RecursionError:
        raise ValueError("data is nested too deeply, or contains itself") from None
    return data  # type: ignore[no-any-return]


def plain(value: Any) -> Any:
    """``value`` with scalars and arrays of other libraries as plain ones: NumPy's, PyTorch's, a Series of pandas.

    What has no ``tolist`` stays as it is.
    """
    if type(value) in _PLAIN:
        return value
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    tolist = getattr(value, "tolist", None)
    return plain(tolist()) if callable(tolist) and not isinstance(value, type) else value


def is_scalar(data: Any) -> bool:
    """True for a string, a number or a boolean; False for ``None`` and lists."""
    return isinstance(data, (str, int, float))


def copy_data(data: Data) -> Data:
    """``data`` with every list new."""
    return [copy_data(item) for item in data] if isinstance(data, list) else data


def map_leaves(data: Data, convert: Callable[[Any], Any]) -> Data:
    """``data`` with every leaf but ``None`` converted, in new lists."""
    if isinstance(data, list):
        return [map_leaves(item, convert) for item in data]
    converted: Scalar = None if data is None else convert(data)
    return converted


def leaves(data: Data) -> Iterator[Scalar]:
    """The leaves of ``data`` from left to right, ``None`` included."""
    if isinstance(data, list):
        for item in data:
            yield from leaves(item)
    else:
        yield data


def _collect_types(data: Any, types: set[type]) -> None:
    if not isinstance(data, list):
        types.add(type(data))
        return
    found = set(map(type, data))
    if any(issubclass(cls, list) for cls in found):
        for item in data:
            if isinstance(item, list):
                _collect_types(item, types)
            else:
                types.add(type(item))
    else:
        types |= found


def _holds(types: set[type], base: type) -> bool:
    return any(issubclass(cls, base) for cls in types)


def _check_leaves(data: Any, types: set[type]) -> None:
    kinds = {_kind(cls) for cls in types}
    if "" in kinds:
        path, leaf = next((path, leaf) for path, leaf in _paths(data) if _kind(type(leaf)) == "")
        if isinstance(leaf, tuple):
            raise TypeError(f"{path} must be a list, not a tuple: {_shown(leaf)}")
        allowed = "a string, a number, a boolean, None or a list of these"
        raise TypeError(f"{path} must be {allowed}, not {type(leaf).__name__}")
    if {"string", "number"} <= kinds:
        first: dict[str, tuple[str, Any]] = {}
        for path, leaf in _paths(data):
            first.setdefault(_kind(type(leaf)), (path, leaf))
        (text_at, text), (number_at, number) = first["string"], first["number"]
        both = f"{text_at} is {_shown(text)}, {number_at} is {number!r}"
        raise TypeError(f"data must hold strings or numbers, not both: {both}")


def _shown(leaf: Any) -> str:
    return shorten(repr(leaf), 60)


def _kind(cls: type) -> str:
    if issubclass(cls, str):
        return "string"
    if issubclass(cls, (int, float)):
        return "number"
    return "none" if cls is type(None) else ""


def _check_finite(data: Any) -> None:
    if all(not isinstance(leaf, float) or math.isfinite(leaf) for leaf in leaves(data)):
        return
    for path, leaf in _paths(data):
        if isinstance(leaf, float) and not math.isfinite(leaf):
            raise ValueError(f"{path} is {leaf!r}: NaN and infinities cannot be sent (RFC 8259 §6)")


def _paths(data: Any, path: str = "data") -> Iterator[tuple[str, Any]]:
    if isinstance(data, list):
        for index, item in enumerate(data):
            yield from _paths(item, f"{path}[{index}]")
    else:
        yield path, data


def _as_floats(data: list[Any]) -> Data:
    try:
        return map_leaves(data, float)
    except OverflowError:
        raise ValueError("data holds an integer that is too large for a float, beside floats") from None


# --- shape --------------------------------------------------------------------------------------


def shape_of(data: Data) -> Shape:
    """The length of each axis of nested lists; ``()`` for a scalar.

    Where lists of one level differ in shape, every level below is ``JAGGED``:
    ``[[1, 2], [3]]`` has the shape ``(2, JAGGED)``.
    """
    if not isinstance(data, list):
        return ()
    if not any(isinstance(item, list) for item in data):
        return (len(data),)
    inner = [shape_of(item) for item in data]
    if all(shape == inner[0] for shape in inner):
        return (len(data), *inner[0])
    return (len(data), *[JAGGED] * max(map(len, inner)))
