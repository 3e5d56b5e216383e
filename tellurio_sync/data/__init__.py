"""Data sets, the order in which they are read, and batches of Variables."""

from __future__ import annotations

from .collate import collate
from .dataset import Dataset
from .loader import DataLoader
from .sampler import RandomSampler, Sampler, SequentialSampler, WeightedRandomSampler

__all__ = [
    "DataLoader",
    "Dataset",
    "RandomSampler",
    "Sampler",
    "SequentialSampler",
    "WeightedRandomSampler",
    "collate",
]
