"""``afnio.utils.data``."""

from __future__ import annotations

from ...data import (
    DataLoader,
    Dataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
    WeightedRandomSampler,
)

__all__ = ["DataLoader", "Dataset", "RandomSampler", "Sampler", "SequentialSampler", "WeightedRandomSampler"]
