"""The order in which samples are drawn.

Each pass has another order.  With a seed the passes are the same in each process: the order depends only on the seed
and the number of the pass.  So a training that is resumed continues with the order that it would have had
(``state_dict``).
"""

from __future__ import annotations

import math
import random
import secrets
from collections.abc import Iterator, Sequence, Sized
from typing import Any


class Sampler:
    """Base class of orders: subclass it and write ``__iter__``, which gives numbers of samples, and ``__len__``."""

    def __iter__(self) -> Iterator[int]:
        raise NotImplementedError(f"{type(self).__name__} has no __iter__(): write one in the class.")


class SequentialSampler(Sampler):
    """The samples in their own order.

    Args:
        data_source: the data set.
    """

    def __init__(self, data_source: Sized) -> None:
        self._data_source = data_source

    def __iter__(self) -> Iterator[int]:
        return iter(range(len(self._data_source)))

    def __len__(self) -> int:
        return len(self._data_source)


class _Passes:
    """A generator of random numbers for each pass."""

    def __init__(self, seed: int | None) -> None:
        if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int)):
            raise TypeError(f"seed must be a whole number or None, not {seed!r}.")
        self._seed = secrets.randbits(63) if seed is None else seed
        self._passes = 0

    def next(self) -> random.Random:
        # The first pass is that of a plain Random(seed), as other libraries of this kind have it.
        rng = random.Random(f"{self._seed}:{self._passes}" if self._passes else self._seed)
        self._passes += 1
        return rng

    def state_dict(self) -> dict[str, int]:
        return {"seed": self._seed, "passes": self._passes}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._seed, self._passes = int(state["seed"]), int(state["passes"])


class RandomSampler(Sampler):
    """Each sample once in a random order; or random samples, which may come again.

    Args:
        data_source: the data set.
        replacement: whether a sample may come again.
        num_samples: how many are drawn, >= 1; None: as many as there are.
        seed: of the order; None: another one in each process.

    Raises:
        TypeError: ``seed`` is no whole number.
        ValueError: ``num_samples`` is below 1.
    """

    def __init__(
        self, data_source: Sized, replacement: bool = False, num_samples: int | None = None, seed: int | None = None
    ) -> None:
        if num_samples is not None and num_samples < 1:
            raise ValueError(f"num_samples must be at least 1, not {num_samples}.")
        self._data_source = data_source
        self._replacement = replacement
        self._num_samples = num_samples
        self._passes = _Passes(seed)

    def __iter__(self) -> Iterator[int]:
        rng = self._passes.next()
        count = len(self._data_source)
        if self._replacement:
            return iter([rng.randrange(count) for _ in range(len(self))])
        order: list[int] = []
        while len(order) < len(self):
            order += rng.sample(range(count), count)
        return iter(order[: len(self)])

    def __len__(self) -> int:
        count = len(self._data_source)
        return count if self._num_samples is None or not count else self._num_samples

    def state_dict(self) -> dict[str, int]:
        """The seed, and how many passes were begun."""
        return self._passes.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on as the sampler that gave this state."""
        self._passes.load_state_dict(state)


class WeightedRandomSampler(Sampler):
    """Random samples, the more often the greater their weight.

    Args:
        weights: one for each sample, >= 0, finite, not all 0. They need not add up to 1.
        num_samples: how many are drawn, >= 1.
        replacement: whether a sample may come again; False: ``num_samples`` is at most the number of weights above 0.
        seed: of the order; None: another one in each process.

    Raises:
        TypeError: ``seed`` is no whole number.
        ValueError: weights or ``num_samples`` out of range.
    """

    def __init__(
        self, weights: Sequence[float], num_samples: int, replacement: bool = True, seed: int | None = None
    ) -> None:
        self._weights = [float(weight) for weight in weights]
        if not all(math.isfinite(weight) and weight >= 0 for weight in self._weights) or not any(self._weights):
            raise ValueError("weights must be finite, none below 0, and not all 0.")
        if num_samples < 1:
            raise ValueError(f"num_samples must be at least 1, not {num_samples}.")
        possible = sum(weight > 0 for weight in self._weights)
        if not replacement and num_samples > possible:
            raise ValueError(f"Only {possible} samples can be drawn without replacement, not {num_samples}.")
        self._num_samples = num_samples
        self._replacement = replacement
        self._passes = _Passes(seed)

    def __iter__(self) -> Iterator[int]:
        rng = self._passes.next()
        numbers = range(len(self._weights))
        if self._replacement:
            return iter(rng.choices(numbers, self._weights, k=self._num_samples))
        # Efraimidis and Spirakis: the samples with the greatest u ** (1 / weight) are a weighted draw.
        keys = [(math.log(1.0 - rng.random()) / weight, n) for n, weight in enumerate(self._weights) if weight > 0]
        return iter([n for _, n in sorted(keys, reverse=True)[: self._num_samples]])

    def __len__(self) -> int:
        return self._num_samples

    def state_dict(self) -> dict[str, int]:
        """The seed, and how many passes were begun."""
        return self._passes.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on as the sampler that gave this state."""
        self._passes.load_state_dict(state)
