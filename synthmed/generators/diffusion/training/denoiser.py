"""Training of the denoiser on cached latents."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from synthmed.data.pixels import to_rgb_arrays, to_uint8
from synthmed.data.sheets import contact_sheet
from synthmed.formats.headers import with_training
from synthmed.formats.model_files import save_model
from synthmed.generators.diffusion.guidance import NULL_LABEL
from synthmed.generators.diffusion.header import DiffusionHeader
from synthmed.generators.diffusion.networks.autoencoder import sample_latents
from synthmed.generators.diffusion.networks.unet import Denoiser, build_denoiser
from synthmed.generators.diffusion.pipeline import Pipeline
from synthmed.generators.diffusion.schedule import NoiseSchedule, build_schedule
from synthmed.generators.diffusion.training.config import DiffusionConfig
from synthmed.generators.diffusion.training.denoising import Denoising, validation_noise
from synthmed.generators.diffusion.training.latents import LatentSet
from synthmed.runtime.seeds import derive_seed
from synthmed.training.draw import Draw
from synthmed.training.task import TrainingStep

MAX_VALIDATION_IMAGES = 512
VALIDATION_BATCH = 32
PREVIEWS_PER_CLASS = 8
PREVIEW_STEPS = 20


class DiffusionStep(TrainingStep):
    """Add noise, predict what the network's objective names, compare."""

    network: Denoiser

    def __init__(
        self, network: Denoiser, config: DiffusionConfig, schedule: NoiseSchedule, latent_scale: float
    ) -> None:
        super().__init__()
        self.network, self.config, self.latent_scale = network, config, latent_scale
        self.denoising = Denoising(config, schedule, network.config.objective)

    def forward(self, batch: list[Tensor], draw: Draw) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of latents [N, Z or 2 Z, h, w] float32 with labels [N] int64."""
        latents, labels = batch
        if self.config.latents == "sample":
            latents = sample_latents(latents, draw.normal(latents.shape[1] // 2, *latents.shape[2:]))
        t = self.denoising.timesteps(draw.uniform())
        eps = draw.normal(*latents.shape[1:])
        coins = draw.uniform() if self.config.label_dropout_of == "sample" else draw.coin().expand(len(labels))
        labels = labels.masked_fill(coins < self.config.label_dropout, NULL_LABEL)
        return self.loss(latents * self.latent_scale, eps, t, labels), {}

    def loss(self, x_0: Tensor, eps: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of scaled latents x_0 [N, Z, h, w] with noise eps at timesteps t [N], labels [N] int64."""
        return self.denoising.loss(lambda x_t, at: self.network(x_t, at, labels), x_0, eps, t)


class DiffusionTask:
    """The denoiser, its latents and its model file, which holds the autoencoder too.

    Args:
        header: Header of the model file to make, with the latent scale.
        config: Settings of the training.
        first_stage: What makes latents and images of them, not trained here.
        train: Latents to train on.
        validation: Held-out latents.
        seed: Seed of the noise that validation and preview use.
    """

    num_workers = 0

    def __init__(
        self,
        header: DiffusionHeader,
        config: DiffusionConfig,
        first_stage: Pipeline,
        train: LatentSet,
        validation: LatentSet,
        seed: int,
    ) -> None:
        self.header, self.config, self.first_stage, self.seed = header, config, first_stage, seed
        build = header.build
        assert build.unet is not None
        denoiser = build_denoiser(build.unet, build.vae.latent_channels, len(header.classes))
        self.step = DiffusionStep(denoiser, config, build_schedule(build.schedule), build.latent_scale)
        self.dataset, self.labels, self.validation = train, train.labels, validation

    @torch.no_grad()
    def validate(self, network: nn.Module) -> dict[str, float]:
        """Return the loss on held-out latents, with the same noise and evenly spread timesteps at every call."""
        assert isinstance(network, Denoiser)
        device = next(network.parameters()).device
        count = min(len(self.validation), MAX_VALIDATION_IMAGES)
        channels = self.header.build.vae.latent_channels
        x_0 = self.validation.latents[:count, :channels] * self.step.latent_scale
        eps, t = validation_noise(self.step.denoising, x_0.shape, self.seed)
        labels = self.validation.labels[:count]
        step = DiffusionStep(network, self.config, self.step.denoising.schedule, self.step.latent_scale)
        total = 0.0
        for first in range(0, count, VALIDATION_BATCH):
            rows = slice(first, first + VALIDATION_BATCH)
            parts = [tensor[rows].to(device) for tensor in (x_0, eps, t, labels)]
            total += step.loss(*parts).item() * len(parts[0])
        return {"validation_loss": total / count}

    def preview(self, network: nn.Module) -> NDArray[np.uint8]:
        """Return a row of samples for each class, from the same noise at every call."""
        pipeline = self._pipeline(network)
        labels = [label for label in range(len(self.header.classes)) for _ in range(PREVIEWS_PER_CLASS)]
        seeds = [derive_seed(self.seed, "preview", index) for index in range(len(labels))]
        detail = self.header.preset.detail_steps
        images = pipeline.sample(labels, seeds=seeds, sampler="dpmpp-2m", steps=PREVIEW_STEPS, detail_steps=detail)
        return contact_sheet(to_rgb_arrays(to_uint8(images)), PREVIEWS_PER_CLASS)

    def save_model(self, path: Path, network: nn.Module, facts: Mapping[str, Any]) -> None:
        """Write the pipeline's model file."""
        save_model(path, with_training(self.header, **facts), self._pipeline(network).tensors())

    def _pipeline(self, network: nn.Module) -> Pipeline:
        assert isinstance(network, Denoiser)
        return Pipeline(self.header, self.first_stage.autoencoder, network, self.first_stage.detail)
