"""What the loop trains: a network with its loss, its data, and the random numbers of a step.

Everything random derives from (seed, step).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import Dataset

from synthmed.runtime.processes import Processes
from synthmed.runtime.seeds import torch_generator
from synthmed.training.config import StageConfig


class Draw:
    """Random tensors of one step: drawn for the whole batch, of which a process takes its own samples.

    Attributes:
        step: Its number, counted from 0.
    """

    def __init__(self, seed: int, step: int, batch_size: int, processes: Processes) -> None:
        self.step = step
        self._generator = torch_generator(seed, "step", step)
        self._batch_size, self._processes = batch_size, processes

    def normal(self, *shape: int) -> Tensor:
        """Return standard normal noise, [samples of this process, *shape]."""
        return self._mine(torch.randn(self._batch_size, *shape, generator=self._generator))

    def uniform(self) -> Tensor:
        """Return a number in [0, 1) for each sample of this process."""
        return self._mine(torch.rand(self._batch_size, generator=self._generator))

    def coin(self) -> Tensor:
        """Return one number in [0, 1), the same in every process."""
        return torch.rand(1, generator=self._generator)

    def _mine(self, whole: Tensor) -> Tensor:
        return whole[self._processes.rank :: self._processes.world]


class TrainingStep(nn.Module):
    """A network with its loss, as one module, so that it can be run on several processes.

    Attributes:
        network: What is averaged, validated and kept as the model.
    """

    network: nn.Module

    def learners(self, config: StageConfig) -> dict[str, tuple[nn.Module, float]]:
        """Return what is trained, by its name in the state file, with its peak learning rate."""
        return {"network": (self.network, config.lr)}

    def forward(self, batch: list[Tensor], draw: Draw) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of a batch and what to log beside it."""
        raise NotImplementedError


class Task(Protocol):
    """What the loop trains."""

    @property
    def step(self) -> TrainingStep:
        """The network with its loss."""
        ...

    @property
    def dataset(self) -> Dataset[tuple[Tensor, int]]:
        """What is trained on, as (tensor, label)."""
        ...

    @property
    def labels(self) -> Tensor:
        """Class of each item of the data set, [N] int64."""
        ...

    @property
    def num_workers(self) -> int:
        """Processes that load data beside the training; 0 when it lies in memory."""
        ...

    def validate(self, network: nn.Module) -> dict[str, float]:
        """Return figures of the averaged network on the validation split."""
        ...

    def preview(self, network: nn.Module) -> NDArray[np.uint8]:
        """Return a sheet of images [H, W, 3] that shows what the network can do."""
        ...

    def save_model(self, path: Path, network: nn.Module, facts: Mapping[str, Any]) -> None:
        """Write the averaged network as a model file."""
        ...
