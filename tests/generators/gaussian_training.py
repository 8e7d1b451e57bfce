"""Training of the Gaussian family: maximum likelihood of the cells' means."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import TensorDataset

from synthmed.data.images import decode_image
from synthmed.data.pixels import to_float
from synthmed.data.shards.read import ShardFolder
from synthmed.data.shards.samples import read_image_bytes
from synthmed.formats.headers import Header, with_training
from synthmed.formats.model_files import save_model
from synthmed.training.task import TrainingStep


class GaussianStep(TrainingStep):
    """Minus the log-likelihood of images, averaged over cells."""

    def __init__(self, header: Header[Any, Any]) -> None:
        super().__init__()
        side = header.height_width[0] // header.build.cell
        self.cell = header.build.cell
        shape = (len(header.classes), 3, side, side)
        self.parts = nn.ParameterDict({name: torch.zeros(shape) for name in ("mean", "log_deviation")})
        self.network = self.parts

    def forward(self, batch: list[Tensor], _draw: Any) -> tuple[Tensor, dict[str, Tensor]]:
        cells = functional.avg_pool2d(to_float(batch[0]), self.cell)
        mean, log_deviation = (self.parts[name][batch[1]] for name in ("mean", "log_deviation"))
        loss = ((cells - mean) ** 2 / (2 * (2 * log_deviation).exp()) + log_deviation).mean()
        return loss + math.log(2 * math.pi) / 2, {}


class GaussianTask:
    """Images as they are, and the model file."""

    num_workers = 0

    def __init__(self, header: Header[Any, Any], train: ShardFolder, validation: ShardFolder) -> None:
        self.header, self.step = header, GaussianStep(header)
        self.dataset = _read(train)
        self.labels = self.dataset.tensors[1]
        self.validation = _read(validation)

    def validate(self, network: nn.Module) -> dict[str, float]:
        return {"validation_loss": self.step(list(self.validation.tensors), None)[0].item()}

    def preview(self, network: nn.Module) -> NDArray[np.uint8]:
        return np.zeros((8, 8, 3), dtype=np.uint8)

    def save_model(self, path: Path, network: nn.Module, facts: Mapping[str, Any]) -> None:
        tensors = {f"gaussian.{name}": value.detach() for name, value in network.state_dict().items()}
        save_model(path, with_training(self.header, **facts), tensors)


def _read(folder: ShardFolder) -> TensorDataset:
    images = [decode_image(read_image_bytes(entry), entry.key) for entry in folder.entries]
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
    return TensorDataset(pixels, torch.tensor([entry.label for entry in folder.entries]))
