"""Converts what may be logged into the forms that a journal has: floats, integers and JSON values."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping
from enum import Enum
from numbers import Real
from typing import Any
from uuid import UUID

_MAX_STEP = 2**63
_DEEPEST = 100


def plain(value: Any) -> Any:
    """The value as a float, an integer, or another JSON value; NaN and infinities are kept.

    Numbers and arrays of other libraries with ``tolist()`` (NumPy, PyTorch, pandas, ...) are accepted, and everything
    that is a real number for Python. Inside lists and objects NaN and infinities become None.

    Raises:
        TypeError, ValueError: it has no such form.
    """
    kind = type(value)
    if kind is float or kind is int or kind is bool or kind is str or value is None:
        return value
    return _plain(value, 0)


def _plain(value: Any, depth: int) -> Any:
    if depth > _DEEPEST:
        raise ValueError("it is nested too deeply")
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, Enum):
        return _plain(value.value, depth + 1)
    if isinstance(value, str):
        return str(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        number = float(value)
        return number if depth == 0 or math.isfinite(number) else None
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, Mapping):
        return {_key(key): _plain(item, depth + 1) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, depth + 1) for item in value]
    if callable(getattr(value, "tolist", None)):
        # A scalar, or an array without dimensions, becomes one number.
        return _plain(value.tolist(), depth if getattr(value, "ndim", 0) == 0 else depth + 1)
    if isinstance(value, Real) or callable(getattr(value, "__float__", None)):
        return _plain(float(value), depth)
    raise TypeError(f"a {type(value).__name__} is neither a number nor anything else that JSON has")


def _key(key: Any) -> str:
    if isinstance(key, (str, int, float, bool)) or key is None:
        return str(key)
    raise TypeError(f"a name in it is a {type(key).__name__}")


def plain_step(step: Any) -> int | None:
    """The step as an integer; None: none.

    Raises:
        TypeError, ValueError: not a whole number of at least 0.
    """
    if step is None:
        return None
    if isinstance(step, float) and step.is_integer():
        number = int(step)  # also NumPy's float64, as loops over arange() give them
    else:
        number = operator.index(step.tolist() if callable(getattr(step, "tolist", None)) else step)
    if not 0 <= number < _MAX_STEP:
        raise ValueError(f"a step must be a whole number of at least 0, not {number}")
    return number


def plain_config(config: Any) -> dict[str, Any]:
    """A configuration as a JSON object, made from a mapping, a dataclass, or an object such as ``argparse.Namespace``.

    What has no JSON form is kept as its ``repr``.

    Raises:
        TypeError: it is none of these.
    """
    if not isinstance(config, Mapping):
        try:
            config = vars(config)
        except TypeError:
            raise TypeError(
                f"config must be a dict, a dataclass or an object with attributes, not a {type(config).__name__}"
            ) from None
    return {str(name): _or_repr(value) for name, value in config.items() if not str(name).startswith("__")}


def _or_repr(value: Any) -> Any:
    try:
        kept = plain(value)
    except (TypeError, ValueError, OverflowError):
        return repr(value)
    return None if isinstance(kept, float) and not math.isfinite(kept) else kept
