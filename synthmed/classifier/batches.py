"""The batches that a classifier is trained on, mixed from one or more sets.

images: uint8 [B, 3, H, W]; labels: int64 [B].
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from synthmed.data.sets.batches import StepBatches
from synthmed.data.sets.image_set import ImageSet
from synthmed.runtime.seeds import derive_seed


def mixed_batches(
    sources: Mapping[str, ImageSet], shares: Mapping[str, int], *, steps: int, balanced: bool, seed: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield one batch (images, labels) per step.

    Each source goes through all its images, in a new random order each time, before it repeats one.

    Args:
        sources: Sets by name.
        shares: Images of each source in a batch.
        steps: Number of batches.
        balanced: Draw the classes of each source equally often.
        seed: Seed of the orders.
    """
    labels = {name: torch.from_numpy(sources[name].labels) for name in shares}
    orders = [
        StepBatches(labels[name], count, steps, derive_seed(seed, name), balanced=balanced)
        for name, count in shares.items()
    ]
    for chosen in zip(*orders, strict=True):
        parts = list(zip(shares, chosen, strict=True))
        yield (
            torch.cat([sources[name].load(indices) for name, indices in parts]),
            torch.cat([labels[name][indices] for name, indices in parts]),
        )
