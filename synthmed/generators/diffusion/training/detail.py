"""Training of the detail stage on images and what the autoencoder leaves of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import Dataset

from synthmed.data.pixels import to_float, to_rgb_arrays, to_uint8
from synthmed.data.sets.image_set import CACHE_BYTES, ImageSet
from synthmed.data.sheets import contact_sheet
from synthmed.formats.headers import with_training
from synthmed.formats.model_files import save_model
from synthmed.generators.diffusion.header import DiffusionHeader
from synthmed.generators.diffusion.networks.detail import LEAST_SCALE, DetailNetwork, to_bands
from synthmed.generators.diffusion.pipeline import Pipeline
from synthmed.generators.diffusion.schedule import build_schedule
from synthmed.generators.diffusion.training.autoencoder import flip_at_random
from synthmed.generators.diffusion.training.config import DetailConfig
from synthmed.generators.diffusion.training.denoising import Denoising, validation_noise
from synthmed.runtime.progress import progress
from synthmed.runtime.seeds import derive_seed
from synthmed.training.draw import Draw
from synthmed.training.task import TrainingStep

BATCH = 32
MAX_VALIDATION_IMAGES = 512
MAX_MEASURED_IMAGES = 512
PREVIEW_IMAGES = 8
PREVIEW_STEPS = 12


class PairSet(Dataset[tuple[Tensor, int]]):
    """Images with what the autoencoder makes of them, [2 C, H, W] float16, kept in memory.

    An encoder and a decoder cost as much as a step of the detail stage, so each image goes through them once.

    Args:
        first_stage: The trained autoencoder.
        images: The split, which is in memory too.
    """

    def __init__(self, first_stage: Pipeline, images: ImageSet) -> None:
        self.images = images
        self.pairs: list[Tensor] = []
        with progress(f"reconstructing {images.split}", len(images), "images") as advance:
            for block in images.blocks(BATCH):
                self.pairs += pair(first_stage, block).half().cpu()
                advance(len(block))

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.pairs[index], int(self.images.labels[index])


@torch.no_grad()
def pair(first_stage: Pipeline, images: Tensor) -> Tensor:
    """Return float images and their reconstructions, [N, 2 C, H, W], of uint8 images [N, C, H, W]."""
    floats = to_float(images.to(first_stage.device))
    return torch.cat([floats, first_stage.reconstruct(floats)], dim=1)


class DetailStep(TrainingStep):
    """Take image and reconstruction apart, add noise to the residual, predict, compare.

    Args:
        network: The detail stage.
        config: Settings of the training.
        header: Of the model file to make.
        first_stage: Reconstructs images that come without their reconstruction.
    """

    network: DetailNetwork

    def __init__(
        self, network: DetailNetwork, config: DetailConfig, header: DiffusionHeader, first_stage: Pipeline
    ) -> None:
        super().__init__()
        build = header.build.detail
        assert build is not None
        self.network, self.config, self.first_stage = network, config, first_stage
        self.denoising = Denoising(config, build_schedule(build.schedule), build.unet.objective)

    def forward(self, batch: list[Tensor], draw: Draw) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of pairs [N, 2 C, H, W] float16, or of images [N, C, H, W] uint8, with labels [N] int64."""
        pairs, labels = batch
        with torch.autocast(pairs.device.type, enabled=False):
            pairs = pair(self.first_stage, pairs) if pairs.dtype == torch.uint8 else pairs.float()
            images, structure = flip_at_random(pairs, self.config.flips, draw).chunk(2, dim=1)
            x_0, guide = self.network.residual(images, structure), self.network.guide(structure)
        t = self.denoising.timesteps(draw.uniform())
        return self.loss(x_0, guide, draw.normal(*x_0.shape[1:]), t, labels), {}

    def loss(self, x_0: Tensor, guide: Tensor, eps: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of scaled bands x_0 with noise eps at timesteps t [N], labels [N] int64."""
        return self.denoising.loss(lambda x_t, at: self.network(x_t, at, labels, guide), x_0, eps, t)


class DetailTask:
    """The detail stage, its data and its model file, which holds the autoencoder too.

    Args:
        header: Header of the model file to make.
        config: Settings of the training.
        first_stage: The trained autoencoder.
        train: Images to train on.
        validation: Held-out images.
        seed: Seed of the noise that validation and preview use.
        num_workers: Processes that load images, where these are not in memory.
    """

    def __init__(
        self,
        header: DiffusionHeader,
        config: DetailConfig,
        first_stage: Pipeline,
        train: ImageSet,
        validation: ImageSet,
        seed: int,
        num_workers: int,
    ) -> None:
        self.header, self.config, self.first_stage, self.seed = header, config, first_stage, seed
        build = header.build
        assert build.detail is not None
        network = DetailNetwork(build.detail.unet, build.vae.image_channels, len(header.classes))
        self.step = DetailStep(network, config, header, first_stage)
        self.dataset: Dataset[tuple[Tensor, int]] = PairSet(first_stage, train) if _fits(train) else train
        self.num_workers = 0 if train.cached else num_workers
        self.labels = torch.from_numpy(train.labels)
        self.validation = validation.subset(range(min(len(validation), MAX_VALIDATION_IMAGES)))
        _measure_scales(network, first_stage, train)

    @torch.no_grad()
    def validate(self, network: nn.Module) -> dict[str, float]:
        """Return the loss on held-out images, with the same noise and evenly spread timesteps at every call."""
        assert isinstance(network, DetailNetwork)
        step = DetailStep(network, self.config, self.header, self.first_stage)
        labels, total, first = torch.from_numpy(self.validation.labels), 0.0, 0
        height, width = self.validation.size
        shape = (len(labels), len(network.residual_scale), height // 2, width // 2)
        eps, t = validation_noise(step.denoising, shape, self.seed)
        for block in self.validation.blocks(BATCH):
            rows = slice(first, first + len(block))
            images, structure = pair(self.first_stage, block).chunk(2, dim=1)
            noise = [tensor[rows].to(images.device) for tensor in (eps, t, labels)]
            loss = step.loss(network.residual(images, structure), network.guide(structure), *noise)
            total, first = total + loss.item() * len(block), rows.stop
        return {"validation_loss": total / len(labels)}

    def preview(self, network: nn.Module) -> NDArray[np.uint8]:
        """Return held-out images, below them their reconstructions, and below these the same with detail."""
        images = self.validation.load(range(min(PREVIEW_IMAGES, len(self.validation))))
        structure = pair(self.first_stage, images).chunk(2, dim=1)[1]
        seeds = [derive_seed(self.seed, "preview", index) for index in range(len(images))]
        labels = self.validation.labels[: len(images)].tolist()
        detailed = self._pipeline(network).refine(structure, seeds, PREVIEW_STEPS, labels)
        rows = [images, to_uint8(structure).cpu(), to_uint8(detailed).cpu()]
        return contact_sheet(to_rgb_arrays(torch.cat(rows)), len(images))

    def save_model(self, path: Path, network: nn.Module, facts: Mapping[str, Any]) -> None:
        """Write the model file: autoencoder and detail stage."""
        save_model(path, with_training(self.header, **facts), self._pipeline(network).tensors())

    def _pipeline(self, network: nn.Module) -> Pipeline:
        assert isinstance(network, DetailNetwork)
        return Pipeline(self.header, self.first_stage.autoencoder, detail=network)


def _fits(images: ImageSet) -> bool:
    """Say whether the pairs of a split fit into memory; each takes four times the bytes of its image."""
    return images.cached and 4 * len(images) * images.channels * math.prod(images.size) <= CACHE_BYTES


def _measure_scales(network: DetailNetwork, first_stage: Pipeline, images: ImageSet) -> None:
    """Give the network the root mean square of each band, of images from all over a split."""
    count = min(len(images), MAX_MEASURED_IMAGES)
    chosen = np.unique(np.linspace(0, len(images) - 1, count).astype(np.int64))
    sums = torch.zeros(2, len(network.residual_scale), dtype=torch.float64)
    for rows in np.array_split(chosen, -(-len(chosen) // BATCH)):
        originals, structure = pair(first_stage, images.load(rows)).cpu().chunk(2, dim=1)
        for total, part in zip(sums, (originals - structure, structure), strict=True):
            total += to_bands(part).double().square().mean(dim=(2, 3)).sum(dim=0)
    scales = (sums / len(chosen)).sqrt().clamp(min=LEAST_SCALE).float()
    network.residual_scale.copy_(scales[0])
    network.guide_scale.copy_(scales[1])
