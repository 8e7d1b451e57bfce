"""From shards to batches: decoded images, the order in which training sees them, and float conversion.

Images are uint8 [N, 3, H, W] everywhere but between `to_float` and `to_uint8`.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch import Tensor
from torch.utils.data import Sampler

from synthmed.runtime.seeds import numpy_generator


class StepBatches(Sampler[list[int]]):
    """The positions of each optimiser step's samples: a pure function of seed and step, so a resume needs no state.

    Each epoch is a permutation of all samples; with `balanced`, of each class by itself, and classes take turns.

    Args:
        labels: Class of each sample [N] int64.
        batch_size: Samples in a step, over all processes.
        steps: Number of steps, from `start` on.
        seed: Seed of the permutations.
        balanced: Draw each class equally often.
        rank: This process takes every `world`-th sample of a batch, from its number on.
        world: Number of processes.
    """

    def __init__(
        self,
        labels: Tensor,
        batch_size: int,
        steps: int,
        seed: int,
        *,
        start: int = 0,
        balanced: bool = False,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.batch_size, self.steps, self.start, self.seed = batch_size, steps, start, seed
        self.rank, self.world = rank, world
        values = labels.numpy()
        pools = [np.flatnonzero(values == label) for label in np.unique(values)] if balanced else []
        self._pools = pools or [np.arange(len(values))]
        self._orders: dict[int, tuple[int, np.ndarray[tuple[int, ...], np.dtype[np.int64]]]] = {}

    def __len__(self) -> int:
        return self.steps - self.start

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self.start, self.steps):
            first = step * self.batch_size
            yield [self._at(position) for position in range(first + self.rank, first + self.batch_size, self.world)]

    def _at(self, position: int) -> int:
        turn, number = position % len(self._pools), position // len(self._pools)
        pool = self._pools[turn]
        epoch, place = divmod(number, len(pool))
        if self._orders.get(turn, (-1, None))[0] != epoch:
            self._orders[turn] = epoch, numpy_generator(self.seed, "order", turn, epoch).permutation(len(pool))
        return int(pool[self._orders[turn][1][place]])
