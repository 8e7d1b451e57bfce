"""Training of the autoencoder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from synthmed.data.pixels import to_float, to_rgb_arrays, to_uint8, to_unit
from synthmed.data.sets.image_set import ImageSet
from synthmed.data.sheets import contact_sheet
from synthmed.formats.headers import with_training
from synthmed.formats.model_files import AUTOENCODER_PREFIX, save_model
from synthmed.generators.diffusion.header import DiffusionHeader
from synthmed.generators.diffusion.networks.autoencoder import Autoencoder, sample_latents, split_moments
from synthmed.generators.diffusion.training.config import AutoencoderConfig
from synthmed.generators.diffusion.training.losses import autoencoder_loss
from synthmed.metrics.perceptual import Distance
from synthmed.metrics.reconstruction import psnr
from synthmed.training.draw import Draw
from synthmed.training.task import TrainingStep

MAX_VALIDATION_IMAGES = 512
PREVIEW_IMAGES = 16
BATCH = 32


class AutoencoderStep(TrainingStep):
    """Encode, sample, decode, compare.

    Args:
        network: The autoencoder.
        config: Weights of the loss.
        lpips: Needed where LPIPS has a weight; on the device already.
    """

    network: Autoencoder

    def __init__(self, network: Autoencoder, config: AutoencoderConfig, lpips: Distance | None) -> None:
        super().__init__()
        self.network, self.config, self.lpips = network, config, lpips

    def forward(self, batch: list[Tensor], draw: Draw) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of uint8 images [N, 3, H, W]."""
        images, moments, outputs = self.reconstruct(batch, draw)
        with in_full_precision(images):
            return autoencoder_loss(outputs, *split_moments(moments), images, self.config, self.lpips)

    def reconstruct(self, batch: list[Tensor], draw: Draw) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Return what is encoded, its moments, and what is decoded from a sample of them.

        Args:
            batch: Images first, [N, C, H, W] uint8.
            draw: Gives flips and noise.

        Returns:
            Images as encoded, [N, C, H, W] float32 in [-1, 1]; moments [N, 2 Z, h, w]; the outputs, largest first.
        """
        images = flip_at_random(to_float(batch[0]), self.config.flips, draw)
        moments = self.network.moments(images).float()
        noise = draw.normal(*moments[0].chunk(2)[0].shape)
        outputs = self.network.decode_deep(sample_latents(moments, noise))
        return images, moments, [output.float() for output in outputs]


def in_full_precision(images: Tensor) -> torch.autocast:
    """Return a context without autocast: SSIM subtracts squares that bfloat16 cannot tell apart."""
    return torch.autocast(images.device.type, enabled=False)


def flip_at_random(images: Tensor, flips: str, draw: Draw) -> Tensor:
    """Mirror each image with probability one half in each direction that `flips` allows."""
    directions = {"none": (), "horizontal": (3,), "both": (3, 2)}[flips]
    for direction in directions:
        chosen = draw.uniform() < 0.5
        images = torch.where(chosen[:, None, None, None], images.flip(direction), images)
    return images


class AutoencoderTask:
    """The autoencoder, its data and its model file.

    Args:
        header: Header of the model file to make.
        step: The autoencoder with its loss.
        train: Training split.
        validation: Held-out split.
        num_workers: Processes that load images, where these are not in memory.
    """

    def __init__(
        self,
        header: DiffusionHeader,
        step: AutoencoderStep,
        train: ImageSet,
        validation: ImageSet,
        num_workers: int,
    ) -> None:
        self.header, self.step, self.validation = header, step, validation
        self.dataset, self.labels = train, torch.from_numpy(train.labels)
        self.num_workers = 0 if train.cached else num_workers

    def validate(self, network: nn.Module) -> dict[str, float]:
        """Return loss and PSNR in dB of decoded posterior means, averaged over held-out images."""
        assert isinstance(network, Autoencoder)
        device = next(network.parameters()).device
        count = min(len(self.validation), MAX_VALIDATION_IMAGES)
        config, lpips = self.step.config, self.step.lpips
        total, ratios = 0.0, []
        for first in range(0, count, BATCH):
            images = to_float(self.validation.load(range(first, min(first + BATCH, count))).to(device))
            with torch.no_grad():
                mean, log_variance = split_moments(network.moments(images))
                outputs = network.decode_deep(mean)
                loss, _ = autoencoder_loss(outputs, mean, log_variance, images, config, lpips)
            total += loss.item() * len(images)
            ratios.append(psnr(to_unit(outputs[0]), to_unit(images)))
        return {"validation_loss": total / count, "validation_psnr_db": torch.cat(ratios).mean().item()}

    def preview(self, network: nn.Module) -> NDArray[np.uint8]:
        """Return held-out images, each row of originals above the row of their reconstructions."""
        assert isinstance(network, Autoencoder)
        device = next(network.parameters()).device
        images = self.validation.load(range(min(PREVIEW_IMAGES, len(self.validation))))
        decoded = to_uint8(_reconstruct(network, to_float(images.to(device)))).cpu()
        columns = min(8, len(images))
        rows = []
        for first in range(0, len(images), columns):
            rows += [images[first : first + columns], decoded[first : first + columns]]
        return contact_sheet(to_rgb_arrays(torch.cat(rows)), columns)

    def save_model(self, path: Path, network: nn.Module, facts: Mapping[str, Any]) -> None:
        """Write the autoencoder's model file."""
        tensors = {AUTOENCODER_PREFIX + name: tensor for name, tensor in network.state_dict().items()}
        save_model(path, with_training(self.header, **facts), tensors)


@torch.no_grad()
def _reconstruct(network: Autoencoder, images: Tensor) -> Tensor:
    mean, _ = split_moments(network.moments(images))
    return network.decode(mean)
