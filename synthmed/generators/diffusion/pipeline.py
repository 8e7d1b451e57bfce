"""Autoencoder, denoiser and schedule as one object: the Python interface to a model.

Shapes: images [N, C, H, W] float in [-1, 1]; latents [N, Z, h, w] float; labels [N] int64 class numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from synthmed.errors import CheckpointError, UsageError
from synthmed.formats.model_files import AUTOENCODER_PREFIX, DENOISER_PREFIX, ModelConfig, load_tensors, read_config
from synthmed.generators.diffusion.networks.autoencoder import split_moments
from synthmed.generators.diffusion.networks.build import build_networks, check_shapes
from synthmed.generators.diffusion.networks.first_stage import FirstStage
from synthmed.generators.diffusion.networks.unet import Denoiser
from synthmed.generators.diffusion.samplers import ddim, dpmpp_2m, spacing
from synthmed.generators.diffusion.samplers import estimate as samplers
from synthmed.generators.diffusion.schedule import build_schedule

NULL_LABEL = -1


class Pipeline:
    """A class-conditional latent diffusion model, ready to sample.

    Attributes:
        config: What the model file's header holds.
        autoencoder: Between images and latents.
        denoiser: The network that predicts noise or clean latents; `None` in an autoencoder's own file.
    """

    def __init__(self, config: ModelConfig, autoencoder: FirstStage, denoiser: Denoiser | None) -> None:
        self.config = config
        self.autoencoder = autoencoder.eval().requires_grad_(False)
        self.denoiser = None if denoiser is None else denoiser.eval().requires_grad_(False)
        self.schedule = build_schedule(config.schedule)

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in the order of their labels."""
        return self.config.classes

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return next(self.autoencoder.parameters()).device

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """[Z, h, w] of one image's latents."""
        height, width = (side // self.config.vae.downsampling for side in self.config.height_width)
        return self.config.vae.latent_channels, height, width

    @torch.no_grad()
    def moments(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean and the clamped log-variance of the images' latents."""
        return split_moments(self.autoencoder.moments(images.to(self.device)))

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Return float images, nominally in [-1, 1], before rounding to 8 bits."""
        return self.autoencoder.decode(latents.to(self.device))

    @torch.no_grad()
    def denoise(self, x_t: Tensor, t: Tensor, labels: Tensor | None, *, self_conditioned: bool = False) -> Tensor:
        """Return the noise estimate for `x_t`, whatever the network predicts.

        Args:
            x_t: Noisy latents as the network sees them.
            t: Their timesteps [N] int64.
            labels: Class numbers, or `None`.
            self_conditioned: Whether this is a pass after the first, for a network with self-conditioning.
        """
        x_t, t = x_t.to(self.device), t.to(self.device)
        return self._estimate(x_t, self._predict(x_t, t, labels, self_conditioned), t).eps

    @torch.no_grad()
    def sample(
        self,
        labels: Tensor | Sequence[int],
        *,
        seeds: Sequence[int] | None = None,
        noise: Sequence[Tensor] | None = None,
        sampler: Literal["ddim", "dpmpp-2m"] = "ddim",
        steps: int = 150,
        eta: float = 1.0,
        guidance_scale: float = 1.0,
        reference: Literal["null", "other"] = "null",
        decode: bool = True,
    ) -> Tensor:
        """Sample one image a label.

        Args:
            labels: Class numbers [N]; `NULL_LABEL` for none.
            seeds: One seed an image: an image depends on its seed and label alone, whatever the batch.
            noise: Instead of seeds, recorded noise [N, Z, h, w] in Medfusion's order of drawing: the start, then two
                tensors a step, of which the second counts.
            sampler: DDIM, or DPM-Solver++(2M), which takes no eta.
            steps: Passes of the denoiser.
            eta: Share of fresh noise in each DDIM step.
            guidance_scale: s in un + s (cond - un); 1 means no guidance.
            reference: What `un` is conditioned on: no label, or the other class of two.
            decode: Whether to return images rather than latents in the denoiser's scale.

        Raises:
            UsageError: Arguments that do not go together.
        """
        if (seeds is None) == (noise is None):
            raise UsageError("sampling needs either seeds or recorded noise")
        label_tensor = torch.as_tensor(labels, dtype=torch.int64, device=self.device)
        source = _Recorded(noise) if noise is not None else _Seeded(seeds or (), self.latent_shape)
        if source.num_images != len(label_tensor):
            raise UsageError(f"{len(label_tensor)} labels but noise for {source.num_images} images")
        x_t = source.start().to(self.device)
        if sampler == "ddim":
            timesteps = spacing.even_timesteps(self.schedule.num_timesteps, steps)
        else:
            timesteps = spacing.log_snr_timesteps(self.schedule, steps)
        denoise = self._guided(label_tensor, guidance_scale, reference, first=timesteps[0])
        if sampler == "ddim":
            step_noise = lambda number: source.step(number).to(self.device)  # noqa: E731
            latents = ddim.ddim(denoise, x_t, self.schedule, timesteps, step_noise, eta)
        else:
            latents = dpmpp_2m.dpmpp_2m(denoise, x_t, self.schedule, timesteps)
        return self.decode(latents / self.config.latent_scale) if decode else latents

    def _guided(self, labels: Tensor, scale: float, reference: str, *, first: int) -> samplers.Denoise:
        """Return the denoiser with guidance built in, for one timestep of a whole batch; `first` is the first one."""
        if reference == "other":
            if len(self.classes) != 2:
                raise UsageError(f"guidance against the other class needs 2 classes, not {len(self.classes)}")
            away = 1 - labels
        else:
            away = torch.full_like(labels, NULL_LABEL)

        def denoise(x_t: Tensor, t: int) -> samplers.Estimate:
            times = torch.full((len(x_t),), t, dtype=torch.int64, device=x_t.device)
            predicted = self._predict(x_t, times, labels, t != first)
            # On what the network predicts, before any clipping: Medfusion's order.
            if scale != 1 and self.config.unet.conditional:
                un = self._predict(x_t, times, away, t != first)
                predicted = un + scale * (predicted - un)
            return self._estimate(x_t, predicted, t)

        return denoise

    def _predict(self, x_t: Tensor, t: Tensor, labels: Tensor | None, self_conditioned: bool) -> Tensor:
        """Return what the network predicts, noise or clean latents."""
        if self.denoiser is None:
            raise CheckpointError("this model file holds an autoencoder only", "give one made by train-diffusion")
        labels = None if labels is None else labels.to(self.device)
        return self.denoiser(x_t, t, labels, self_conditioned=self_conditioned)  # type: ignore[no-any-return]

    def _estimate(self, x_t: Tensor, predicted: Tensor, t: int | Tensor) -> samplers.Estimate:
        unet = self.config.unet
        return samplers.complete_estimate(
            self.schedule, x_t, predicted, t, objective=unet.objective, clip_x_0=unet.clip_x_0
        )


class _Seeded:
    """Noise that belongs to each image's seed; drawn on the CPU, so that it is the same on every device."""

    def __init__(self, seeds: Sequence[int], shape: tuple[int, int, int]) -> None:
        self.num_images = len(seeds)
        self._shape = shape
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def start(self) -> Tensor:
        return torch.stack([torch.randn(self._shape, generator=generator) for generator in self._generators])

    def step(self, _number: int) -> Tensor:
        return self.start()


class _Recorded:
    """Recorded noise in Medfusion's order of drawing."""

    def __init__(self, noise: Sequence[Tensor]) -> None:
        self.num_images = len(noise[0])
        self._noise = noise

    def start(self) -> Tensor:
        return self._noise[0]

    def step(self, number: int) -> Tensor:
        return self._noise[2 + 2 * number]


def load_pipeline(path: Path | str, device: torch.device | str = "cpu") -> Pipeline:
    """Load a model file made by synthmed, or an autoencoder that diffusers saved.

    Raises:
        CheckpointError: The file is missing, broken, or its weights do not fit its configuration.
    """
    path = Path(path)
    config = read_config(path)
    tensors = load_tensors(path)
    check_shapes(config, {name: tuple(tensor.shape) for name, tensor in tensors.items()}, path)
    modules = build_networks(config)
    for prefix, module in modules.items():
        state = {name: tensors[prefix + name] for name in module.state_dict()}
        module.load_state_dict(state, assign=True)
        module.to(device)
    return Pipeline(config, modules[AUTOENCODER_PREFIX], modules.get(DENOISER_PREFIX))  # type: ignore[arg-type]
