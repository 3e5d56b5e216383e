"""Data sets, and how other kinds of tables are read as data sets."""

from __future__ import annotations

from typing import Any, Generic, Protocol, TypeVar

T_co = TypeVar("T_co", covariant=True)


class Dataset(Generic[T_co]):
    """Base class of data sets: subclass it and write ``__getitem__`` and ``__len__``.

    The base class is optional: a list, or any object with ``__getitem__`` and ``__len__``, is a data set, too.
    """

    def __getitem__(self, index: int) -> T_co:
        raise NotImplementedError(f"{type(self).__name__} has no __getitem__(): write one in the class.")


class Samples(Protocol):
    """Samples by number, as ``DataLoader`` reads them."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


class _Rows:
    """The rows of a pandas DataFrame, each as a dict of column name to value."""

    def __init__(self, frame: Any) -> None:
        self._columns = list(frame.columns)
        self._frame = frame

    def __len__(self) -> int:
        return len(self._frame)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = self._frame.iloc[index]
        return {str(name): row[name] for name in self._columns}


def as_samples(dataset: Any) -> Samples:
    """``dataset`` as samples by number.

    Raises:
        TypeError: it is not a data set; the text says which kinds there are.
    """
    if hasattr(dataset, "iloc") and hasattr(dataset, "columns"):
        return _Rows(dataset)
    if isinstance(dataset, (str, bytes, dict)) or not (hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")):
        forms = "a Dataset with __getitem__ and __len__, a list, a pandas DataFrame or a Hugging Face dataset"
        raise TypeError(f"dataset must be {forms}, not {type(dataset).__name__}.")
    samples: Samples = dataset
    return samples
