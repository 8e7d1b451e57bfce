"""The noise that sampling starts from and adds: by seed, or recorded."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class SeededNoise:
    """Noise that belongs to each image's seed; drawn on the CPU, so that it is the same on every device."""

    def __init__(self, seeds: Sequence[int], shape: tuple[int, int, int]) -> None:
        self.num_images = len(seeds)
        self._shape = shape
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def start(self) -> Tensor:
        """Return the start, [N, Z, h, w]."""
        return torch.stack([torch.randn(self._shape, generator=generator) for generator in self._generators])

    def step(self, _step: int) -> Tensor:
        """Return the noise of a step, [N, Z, h, w]."""
        return self.start()


class RecordedNoise:
    """Recorded noise in Medfusion's order of drawing."""

    def __init__(self, noise: Sequence[Tensor]) -> None:
        self.num_images = len(noise[0])
        self._noise = noise

    def start(self) -> Tensor:
        """Return the start, [N, Z, h, w]."""
        return self._noise[0]

    def step(self, step: int) -> Tensor:
        """Return the noise of a step, [N, Z, h, w]."""
        return self._noise[2 + 2 * step]
