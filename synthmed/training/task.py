"""What the loop trains: a network with its updates, its data and its model file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import Dataset

from synthmed.training.config import StageConfig
from synthmed.training.draw import Draw
from synthmed.training.updates import Update

TaskState = Mapping[str, Tensor | float]
"""Tensors and numbers by name."""


class TrainingStep(nn.Module):
    """A network with what changes it in a step.

    Attributes:
        network: What is averaged, validated and kept as the model.
    """

    network: nn.Module

    def updates(self, config: StageConfig) -> Sequence[Update]:
        """Return the updates of a step, in their order; here one alone, of the network."""
        return [Update("network", self.network, self, config.lr)]

    def forward(self, batch: list[Tensor], draw: Draw) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the network's loss for a batch (scalar) and what to log beside it (scalars)."""
        raise NotImplementedError


class Task(Protocol):
    """What the loop trains; one that is `Stateful` is asked for its own state too."""

    @property
    def step(self) -> TrainingStep:
        """The network with its updates."""
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
        """Processes that load data beside the training; 0 where it is in memory."""
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


@runtime_checkable
class Stateful(Protocol):
    """A task that changes with training in more than its weights, e.g. in how strongly images are augmented.

    Its state must be the same in all processes: that of the first is saved, and all resume from it.
    """

    def state_dict(self) -> TaskState:
        """Return everything that changes."""
        ...

    def load_state_dict(self, state: TaskState) -> None:
        """Take back what `state_dict` gave."""
        ...
