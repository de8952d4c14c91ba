"""Seeded random draws for scenes, always on the CPU, so that a seed gives the same scene on every device."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

Range = tuple[float, float]


class Draws:
    """Random numbers from one seed, in the shapes and distributions that scenes need."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self._seed = seed

    def apart(self, number: int) -> "Draws":
        """An independent sequence from the same seed, one for each number; drawing from it does not affect this one."""
        return Draws((self._seed ^ 0x5DEECE66D) + (number + 1) * 0x9E3779B97F4A7 & 2**63 - 1)

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        """Float32 tensor of `shape`, uniform in [low, high)."""
        return low + (high - low) * torch.rand(shape, generator=self.generator)

    def log_uniform(self, low: float, high: float, *shape: int) -> Tensor:
        """Float32 tensor of `shape` whose logarithm is uniform; 0 < low <= high."""
        return self.uniform(math.log(low), math.log(high), *shape).exp()

    def normal(self, *shape: int) -> Tensor:
        """Float32 tensor of `shape`, standard normal."""
        return torch.randn(shape, generator=self.generator)

    def angle(self, *shape: int) -> Tensor:
        """Radians, uniform over the circle."""
        return self.uniform(0.0, 2 * math.pi, *shape)

    def integers(self, low: int, high: int, *shape: int) -> Tensor:
        """Int64 tensor of `shape`, uniform in low..high, both included."""
        return torch.randint(low, high + 1, shape, generator=self.generator)

    def chance(self, probability: float, *shape: int) -> Tensor:
        """Bool tensor of `shape`, True with `probability`."""
        return torch.rand(shape, generator=self.generator) < probability

    def choice(self, weights: Sequence[float], count: int) -> Tensor:
        """Int64 tensor (count,): indices into `weights`, drawn in proportion to them."""
        if count == 0:
            return torch.zeros(0, dtype=torch.int64)
        return torch.multinomial(torch.tensor(weights), count, replacement=True, generator=self.generator)

    def seed(self) -> int:
        """A new seed, for a generator on another device."""
        return int(torch.randint(2**62, (), generator=self.generator))
