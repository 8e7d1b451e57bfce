"""The batches of an arm, out of real images, synthetic ones or both.

images: uint8 [B, 3, H, W]; labels: int64 [B].
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from synthmed.data.sets.batches import StepBatches
from synthmed.runtime.seeds import derive_seed


class ImageSource(Protocol):
    """Labelled images by position, such as `data.loading.ShardImages`."""

    labels: Tensor
    """[N] int64."""

    def load(self, numbers: Sequence[int]) -> Tensor:
        """Return images by position: uint8 [len(numbers), 3, H, W]."""


def arm_batches(
    sources: Mapping[str, ImageSource], shares: Mapping[str, int], *, steps: int, balanced: bool, seed: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield one batch (images, labels) a step.

    Each source goes through all its images, in a new random order each time, before it repeats one.

    Args:
        sources: Real and synthetic images.
        shares: Images of each source in a batch.
        steps: Number of batches.
        balanced: Draw the classes of each source equally often.
        seed: Seed of the orders.
    """
    orders = [
        StepBatches(sources[name].labels, count, steps, derive_seed(seed, name), balanced=balanced)
        for name, count in shares.items()
    ]
    for numbers in zip(*orders, strict=True):
        parts = [(sources[name], chosen) for name, chosen in zip(shares, numbers, strict=True)]
        yield (
            torch.cat([source.load(chosen) for source, chosen in parts]),
            torch.cat([source.labels[chosen] for source, chosen in parts]),
        )
