"""The order in which a training sees its samples, and how the processes of a training share each batch."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Sampler

from synthmed.runtime.seeds import numpy_generator


def own_positions(seed: int, step: int, batch_size: int, rank: int, world: int) -> range:
    """Return which positions of a step's batch belong to one process; together the processes have each exactly once.

    A part is contiguous, because balanced batches take the classes in turns: every second position would be of one
    class. Which part a process gets changes at random from step to step, so that parts with fewer samples than there
    are classes come to see all of them too.

    Args:
        seed: Seed of the run.
        step: Index of the step.
        batch_size: Samples per step, over all processes.
        rank: Index of the process.
        world: Number of processes.
    """
    if world == 1:
        return range(batch_size)
    part = (rank + int(numpy_generator(seed, "parts", step).integers(world))) % world
    return range(part * batch_size // world, (part + 1) * batch_size // world)


class StepBatches(Sampler[list[int]]):
    """The indices of each step's samples: a pure function of seed and step, so that a resume needs no state.

    Each epoch is a permutation of all samples; with `balanced`, of each class by itself, and classes take turns.

    Args:
        labels: Class of each sample [N] int64.
        batch_size: Samples per step, over all processes.
        steps: Index after the last step.
        seed: Seed of the permutations.
        start: Index of the first step.
        balanced: Draw each class equally often.
        rank: Index of this process, which gets its own part of each batch.
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
        values = np.asarray(labels)
        pools = [np.flatnonzero(values == label) for label in np.unique(values)] if balanced else []
        self._pools = pools or [np.arange(len(values))]
        self._orders: dict[int, tuple[int, NDArray[np.int64]]] = {}

    def __len__(self) -> int:
        return self.steps - self.start

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self.start, self.steps):
            first = step * self.batch_size
            own = own_positions(self.seed, step, self.batch_size, self.rank, self.world)
            yield [self._sample(first + position) for position in own]

    def _sample(self, index: int) -> int:
        """Return the sample that is drawn at an index counted over the whole training."""
        turn, draws = index % len(self._pools), index // len(self._pools)
        pool = self._pools[turn]
        epoch, place = divmod(draws, len(pool))
        if self._orders.get(turn, (-1, None))[0] != epoch:
            self._orders[turn] = epoch, numpy_generator(self.seed, "order", turn, epoch).permutation(len(pool))
        return int(pool[self._orders[turn][1][place]])
