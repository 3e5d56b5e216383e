"""One batch out of many samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..model.variable import Variable


def collate(samples: Sequence[Any]) -> Any:
    """The batch of these samples, by their form.

    | Samples | Batch |
    |---|---|
    | Variables | one Variable, whose data is the list of theirs, with the role of the first |
    | tuples, or lists, of equal length | a tuple, or list, with the batch of each place |
    | dicts with the same keys | a dict with the list of each key's values, as they are |
    | texts, numbers, anything else | the list of them |

    Args:
        samples: at least one.

    Raises:
        TypeError: samples of different forms; the text names the first that differs.
        ValueError: none, or tuples, lists or dicts of different sizes.
    """
    if not samples:
        raise ValueError("There are no samples to make a batch of.")
    first = samples[0]
    for number, sample in enumerate(samples):
        if _form(sample) is not _form(first):
            forms = f"sample 0 is a {type(first).__name__}, sample {number} a {type(sample).__name__}"
            raise TypeError(f"The samples of a batch must have the same form: {forms}.")
    if isinstance(first, Variable):
        return Variable([sample.data for sample in samples], first.role, any(v.requires_grad for v in samples))
    if isinstance(first, Mapping):
        for number, sample in enumerate(samples):
            if sample.keys() != first.keys():
                raise ValueError(f"Sample {number} has other keys than sample 0: {sorted(map(str, sample))}.")
        return {key: [sample[key] for sample in samples] for key in first}
    if isinstance(first, (tuple, list)):
        for number, sample in enumerate(samples):
            if len(sample) != len(first):
                raise ValueError(f"Sample {number} has {len(sample)} parts, and sample 0 has {len(first)}.")
        parts = [collate([sample[place] for sample in samples]) for place in range(len(first))]
        if hasattr(first, "_fields"):  # a named tuple
            return type(first)(*parts)
        return tuple(parts) if isinstance(first, tuple) else parts
    return list(samples)


def _form(sample: Any) -> type:
    for form in (Variable, Mapping, tuple, list):
        if isinstance(sample, form):
            return form
    return object
