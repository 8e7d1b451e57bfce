"""The random numbers of one step: a pure function of seed, step and a sample's position in the batch."""

from __future__ import annotations

import torch
from torch import Tensor

from synthmed.data.sets.batches import own_positions
from synthmed.runtime.processes import Processes
from synthmed.runtime.seeds import torch_generator

CPU = torch.device("cpu")


class Draw:
    """Random tensors for the samples of one process, each from a generator of its own.

    So a sample gets the same numbers however many processes there are, and no process draws those of the others.

    Args:
        seed: Seed of the run.
        step: Index of the step.
        batch_size: Samples per step, over all processes.
        processes: All processes of this run.
        device: Where the tensors are wanted; they are drawn on the CPU, to be the same everywhere.

    Attributes:
        step: Index of the step.
    """

    def __init__(self, seed: int, step: int, batch_size: int, processes: Processes, device: torch.device = CPU) -> None:
        self.step = step
        own = own_positions(seed, step, batch_size, processes.rank, processes.world)
        self._generators = [torch_generator(seed, "step", step, position) for position in own]
        self._common = torch_generator(seed, "step", step)
        self._device = device

    def normal(self, *shape: int) -> Tensor:
        """Return standard normal noise, [samples of this process, *shape] float32."""
        return self._place(torch.stack([torch.randn(shape, generator=generator) for generator in self._generators]))

    def uniform(self) -> Tensor:
        """Return a value in [0, 1) for each sample of this process, [samples] float32."""
        return self._place(torch.cat([torch.rand(1, generator=generator) for generator in self._generators]))

    def coin(self) -> Tensor:
        """Return one value in [0, 1), [1] float32, the same in every process."""
        return self._place(torch.rand(1, generator=self._common))

    def _place(self, drawn: Tensor) -> Tensor:
        # From pinned memory the copy waits for nothing.
        return drawn.pin_memory().to(self._device, non_blocking=True) if self._device.type == "cuda" else drawn
