"""Training of the denoiser on cached latents."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import Dataset

from synthmed.data.pixels import to_float, to_rgb_arrays, to_uint8
from synthmed.data.sets.image_set import ImageSet
from synthmed.data.sheets import contact_sheet
from synthmed.files.atomic import atomic_path
from synthmed.formats.model_files import AUTOENCODER_PREFIX, DENOISER_PREFIX, ModelConfig, save_model, with_training
from synthmed.generators.diffusion.config import DiffusionConfig
from synthmed.generators.diffusion.networks.autoencoder import sample_latents
from synthmed.generators.diffusion.networks.first_stage import FirstStage
from synthmed.generators.diffusion.networks.unet import Denoiser, build_denoiser
from synthmed.generators.diffusion.pipeline import NULL_LABEL, Pipeline
from synthmed.generators.diffusion.schedule import NoiseSchedule, build_schedule
from synthmed.runtime.progress import progress
from synthmed.runtime.seeds import derive_seed, torch_generator
from synthmed.training.task import Draw, TrainingStep

MAX_VALIDATION_IMAGES = 512
ENCODE_BATCH = 32
PREVIEWS_PER_CLASS = 8
PREVIEW_STEPS = 20
MIRRORS: dict[str, list[tuple[int, ...]]] = {
    "none": [()],
    "horizontal": [(), (3,)],
    "both": [(), (3,), (2,), (2, 3)],
}


class LatentSet(Dataset[tuple[Tensor, int]]):
    """Latents of a split, those of its mirror images after those of the images themselves.

    Args:
        latents: Means [V N, Z, h, w], or moments [V N, 2 Z, h, w], for V variants.
        labels: Class of each image [N] int64.
    """

    def __init__(self, latents: Tensor, labels: Tensor) -> None:
        self.latents = latents
        self.labels = labels.repeat(len(latents) // len(labels))

    def __len__(self) -> int:
        return len(self.latents)

    def __getitem__(self, number: int) -> tuple[Tensor, int]:
        return self.latents[number], int(self.labels[number])


def encode_split(
    autoencoder: FirstStage, images: ImageSet, *, flips: str, keep: str, cache: Path, device: torch.device
) -> LatentSet:
    """Return the latents of a split, from `cache` if an earlier run has left them there.

    Args:
        autoencoder: What encodes.
        images: The split.
        flips: Mirror images to encode too: none, horizontal or both.
        keep: `mean` keeps the posterior's mean, `sample` both moments.
        cache: File of the latents; its name must tell everything that they depend on.
        device: What to encode on.
    """
    labels = torch.from_numpy(images.labels)
    if cache.exists():
        return LatentSet(load_file(cache)["latents"], labels)
    axes = MIRRORS[flips]
    autoencoder = autoencoder.to(device).eval()
    latents = []
    with torch.no_grad(), progress("encoding", len(axes) * len(images), "images") as advance:
        for axis in axes:
            for first in range(0, len(images), ENCODE_BATCH):
                batch = images.load(range(first, min(first + ENCODE_BATCH, len(images)))).to(device)
                moments = autoencoder.moments(to_float(batch.flip(axis)))
                latents.append((moments.chunk(2, dim=1)[0] if keep == "mean" else moments).cpu())
                advance(len(batch))
    joined = torch.cat(latents)
    with atomic_path(cache) as part:
        save_file({"latents": joined.contiguous()}, part)
    return LatentSet(joined, labels)


def measure_latent_scale(latents: LatentSet, latent_channels: int) -> float:
    """Return the factor that brings the latents' means to unit standard deviation (Rombach et al. 2022, app. G)."""
    return 1 / latents.latents[:, :latent_channels].double().std().item()


class DiffusionStep(TrainingStep):
    """Add noise, predict it or the clean latents, compare."""

    network: Denoiser

    def __init__(
        self, network: Denoiser, config: DiffusionConfig, schedule: NoiseSchedule, latent_scale: float
    ) -> None:
        super().__init__()
        self.network, self.config = network, config
        self.schedule, self.latent_scale = schedule, latent_scale

    def forward(self, batch: list[Tensor], draw: Draw) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of latents [N, Z or 2 Z, h, w] with labels [N]."""
        stored, labels = batch
        latents = stored
        if self.config.latents == "sample":
            noise = draw.normal(stored.shape[1] // 2, *stored.shape[2:]).to(stored.device)
            latents = sample_latents(stored, noise)
        t = (draw.uniform() * self.schedule.num_timesteps).long().to(latents.device)
        eps = draw.normal(*latents.shape[1:]).to(latents.device)
        coins = draw.uniform() if self.config.label_dropout_of == "sample" else draw.coin().expand(len(labels))
        dropped = (coins < self.config.label_dropout).to(latents.device)
        labels = labels.masked_fill(dropped, NULL_LABEL)
        return self.loss(latents * self.latent_scale, eps, t, labels), {}

    def loss(self, x_0: Tensor, eps: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        """Return the mean distance of real and predicted noise, or of real and predicted clean latents."""
        predicted = self.network(self.schedule.add_noise(x_0, eps, t), t, labels).float()
        target = x_0 if self.network.config.objective == "x_0" else eps
        return (functional.l1_loss if self.config.loss == "l1" else functional.mse_loss)(predicted, target)


class DiffusionTask:
    """The denoiser, its latents and its model file, which holds the autoencoder too.

    Args:
        model: Header of the model file to make, with the latent scale.
        config: Of the training.
        autoencoder: First stage, not trained here.
        train: Latents to train on.
        validation: Held-out latents.
        seed: Of the noise that validation and preview use.
    """

    num_workers = 0

    def __init__(
        self,
        model: ModelConfig,
        config: DiffusionConfig,
        autoencoder: FirstStage,
        train: LatentSet,
        validation: LatentSet,
        seed: int,
    ) -> None:
        self.model, self.config, self.autoencoder, self.seed = model, config, autoencoder, seed
        denoiser = build_denoiser(model.unet, model.vae.latent_channels, len(model.classes))
        self.step = DiffusionStep(denoiser, config, build_schedule(model.schedule), model.latent_scale)
        self.dataset, self.labels, self.validation = train, train.labels, validation

    @torch.no_grad()
    def validate(self, network: nn.Module) -> dict[str, float]:
        """Return the loss on held-out latents, with the same noise and evenly spread timesteps at every call."""
        device = next(network.parameters()).device
        count = min(len(self.validation), MAX_VALIDATION_IMAGES)
        channels = self.model.vae.latent_channels
        generator = torch_generator(self.seed, "validation")
        x_0 = self.validation.latents[:count, :channels] * self.model.latent_scale
        eps = torch.randn(x_0.shape, generator=generator)
        t = ((torch.randperm(count, generator=generator) + 0.5) / count * self.step.schedule.num_timesteps).long()
        labels = self.validation.labels[:count]
        step = DiffusionStep(network, self.config, self.step.schedule, self.model.latent_scale)  # type: ignore[arg-type]
        total = 0.0
        for first in range(0, count, ENCODE_BATCH):
            rows = slice(first, first + ENCODE_BATCH)
            parts = [tensor[rows].to(device) for tensor in (x_0, eps, t, labels)]
            total += step.loss(*parts).item() * len(parts[0])
        return {"validation_loss": total / count}

    def preview(self, network: nn.Module) -> NDArray[np.uint8]:
        """Return a row of samples for each class, from the same noise at every call."""
        assert isinstance(network, Denoiser)
        pipeline = Pipeline(self.model, self.autoencoder, network)
        labels = [label for label in range(len(self.model.classes)) for _ in range(PREVIEWS_PER_CLASS)]
        seeds = [derive_seed(self.seed, "preview", number) for number in range(len(labels))]
        images = pipeline.sample(labels, seeds=seeds, sampler="dpmpp-2m", steps=PREVIEW_STEPS)
        return contact_sheet(to_rgb_arrays(to_uint8(images)), PREVIEWS_PER_CLASS)

    def save_model(self, path: Path, network: nn.Module, facts: Mapping[str, Any]) -> None:
        """Write the pipeline's model file."""
        tensors = {AUTOENCODER_PREFIX + name: tensor for name, tensor in self.autoencoder.state_dict().items()}
        tensors |= {DENOISER_PREFIX + name: tensor for name, tensor in network.state_dict().items()}
        save_model(path, dataclasses.replace(with_training(self.model, **facts), kind="pipeline"), tensors)
