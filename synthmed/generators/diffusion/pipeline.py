"""Autoencoder, denoiser and schedule as one object: the Python interface to a diffusion model.

Shapes: images [N, C, H, W] float in [-1, 1]; latents [N, Z, h, w] float; labels [N] int64.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from synthmed.errors import CheckpointError, RecipeError, UsageError
from synthmed.formats.model_files import AUTOENCODER_PREFIX, DENOISER_PREFIX, DETAIL_PREFIX, load_tensors, read_shapes
from synthmed.generators.diffusion.estimate import complete_estimate
from synthmed.generators.diffusion.guidance import NULL_LABEL, away_labels, guide
from synthmed.generators.diffusion.header import DiffusionHeader, read_diffusion_header
from synthmed.generators.diffusion.networks.autoencoder import split_moments
from synthmed.generators.diffusion.networks.build import build_networks, check_shapes
from synthmed.generators.diffusion.networks.detail import BANDS, DetailNetwork
from synthmed.generators.diffusion.networks.first_stage import FirstStage
from synthmed.generators.diffusion.networks.unet import Denoiser
from synthmed.generators.diffusion.noise import RecordedNoise, SeededNoise
from synthmed.generators.diffusion.samplers import SAMPLERS
from synthmed.generators.diffusion.samplers.sampler import Denoise, Estimate
from synthmed.generators.diffusion.schedule import build_schedule
from synthmed.generators.diffusion.settings import DiffusionSettings
from synthmed.generators.family import OnStep
from synthmed.runtime.seeds import derive_seed

DETAIL_SAMPLER = "dpmpp-2m"
PREFIXES = (AUTOENCODER_PREFIX, DENOISER_PREFIX, DETAIL_PREFIX)


class Pipeline:
    """A class-conditional latent diffusion model, ready to sample.

    Attributes:
        header: What the model file says of itself.
        autoencoder: Between images and latents.
        denoiser: The network that removes noise from latents; `None` in an autoencoder's own file.
        detail: The network that gives decoded images what the autoencoder loses; `None` where there is none.
    """

    def __init__(
        self,
        header: DiffusionHeader,
        autoencoder: FirstStage,
        denoiser: Denoiser | None = None,
        detail: DetailNetwork | None = None,
    ) -> None:
        self.header = header
        self.autoencoder = autoencoder.eval().requires_grad_(False)
        self.denoiser = None if denoiser is None else denoiser.eval().requires_grad_(False)
        self.detail = None if detail is None else detail.eval().requires_grad_(False)
        self.schedule = build_schedule(header.build.schedule)

    @property
    def networks(self) -> dict[str, nn.Module]:
        """The networks by the prefix of their tensors in a model file."""
        found = {AUTOENCODER_PREFIX: self.autoencoder, DENOISER_PREFIX: self.denoiser, DETAIL_PREFIX: self.detail}
        return {prefix: network for prefix, network in found.items() if network is not None}

    def tensors(self) -> dict[str, Tensor]:
        """Return all weights under the names of a model file."""
        networks = self.networks.items()
        return {prefix + name: tensor for prefix, net in networks for name, tensor in net.state_dict().items()}

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return next(self.autoencoder.parameters()).device

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """[Z, h, w] of one image's latents."""
        vae = self.header.build.vae
        height, width = (side // vae.downsampling for side in self.header.height_width)
        return vae.latent_channels, height, width

    @torch.no_grad()
    def moments(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean and the clamped log-variance of the images' latents."""
        return split_moments(self.autoencoder.moments(images.to(self.device)))

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Return float images, nominally in [-1, 1], before rounding to 8 bits and without the detail stage."""
        return self.autoencoder.decode(latents.to(self.device))

    def reconstruct(self, images: Tensor) -> Tensor:
        """Return decoded posterior means of float images, [N, C, H, W] in [-1, 1] but for overshoot, without detail."""
        return self.decode(self.moments(images)[0])

    @torch.no_grad()
    def refine(
        self, structure: Tensor, seeds: Sequence[int], steps: int, labels: Tensor | Sequence[int] | None = None
    ) -> Tensor:
        """Return decoded images with the detail that the autoencoder loses, [N, C, H, W] float.

        Args:
            structure: Images as `decode` gives them.
            seeds: One seed per image.
            steps: Passes of the detail stage; 0 gives the images as they are.
            labels: Labels [N], for a detail stage that is told them.

        Raises:
            UsageError: The model has no detail stage.
        """
        if steps == 0:
            return structure
        detail, build = self.detail, self.header.build.detail
        if detail is None or build is None:
            raise UsageError("the model has no detail stage", "sample without it: detail_steps=0")
        known = None if labels is None or not build.unet.conditional else self._check_labels(labels)
        schedule, objective = build_schedule(build.schedule), build.unet.objective
        guide = detail.guide(structure.to(self.device))

        def denoise(x_t: Tensor, t: int) -> Estimate:
            times = torch.full((len(x_t),), t, dtype=torch.int64, device=x_t.device)
            return complete_estimate(schedule, x_t, detail(x_t, times, known, guide), t, objective=objective)

        _, channels, height, width = structure.shape
        # Noise of its own: an image's structure does not depend on whether it gets detail.
        own = [derive_seed(seed, "detail") for seed in seeds]
        start = SeededNoise(own, (BANDS * channels, height // 2, width // 2)).start().to(self.device)
        sampler = SAMPLERS[DETAIL_SAMPLER]
        residual = sampler.run(denoise, start, schedule, sampler.spacing(schedule, steps), None)
        return detail.add(structure, residual)

    @torch.no_grad()
    def denoise(self, x_t: Tensor, t: Tensor, labels: Tensor | None, *, self_conditioned: bool = False) -> Tensor:
        """Return the noise estimate for `x_t`, whatever the network predicts.

        Args:
            x_t: Noisy latents as the network sees them.
            t: Their timesteps [N] int64.
            labels: Labels, or `None`.
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
        sampler: str = "ddim",
        steps: int | None = None,
        eta: float | None = None,
        guidance_scale: float = 1.0,
        reference: Literal["null", "other"] = "null",
        detail_steps: int = 0,
        decode: bool = True,
        on_step: OnStep | None = None,
    ) -> Tensor:
        """Sample one image per label.

        Args:
            labels: Labels [N]; `NULL_LABEL` for none.
            seeds: One seed per image: an image depends on its seed and label alone, whatever the batch.
            noise: Instead of seeds, recorded noise [N, Z, h, w] in Medfusion's order of drawing: the start, then two
                tensors per step, of which the second counts.
            sampler: Its name in `SAMPLERS`.
            steps: Steps of the sampler; its usual number by default.
            eta: Share of fresh noise in each step, for samplers that take it; their usual one by default.
            guidance_scale: s in un + s (cond - un); 1 means no guidance.
            reference: What `un` is conditioned on: no label, or the other class of two.
            detail_steps: Passes of the detail stage, which needs seeds.
            decode: Whether to return images rather than latents in the denoiser's scale.
            on_step: Called after each step.

        Raises:
            UsageError: Arguments that do not go together, or that the model does not have.
        """
        given = {"sampler": sampler, "steps": steps, "eta": eta, "guidance_scale": guidance_scale}
        given["detail_steps"] = detail_steps
        settings = self._settings({name: value for name, value in given.items() if value is not None})
        label_tensor = self._check_labels(labels)
        if (seeds is None) == (noise is None):
            raise UsageError("sampling needs either seeds or recorded noise")
        if noise is not None and detail_steps:
            raise UsageError("the detail stage needs seeds", "recorded noise goes without it: detail_steps=0")
        source = RecordedNoise(noise) if noise is not None else SeededNoise(seeds or (), self.latent_shape)
        if source.num_images != len(label_tensor):
            raise UsageError(f"{len(label_tensor)} labels but noise for {source.num_images} images")
        away = away_labels(label_tensor, reference, self.header.classes)
        latents = self._run(settings, label_tensor, away, source, on_step)
        if not decode:
            return latents
        images = self.decode(latents / self.header.build.latent_scale)
        return self.refine(images, seeds or (), settings.detail_steps, label_tensor)

    def _settings(self, given: dict[str, str | int | float]) -> DiffusionSettings:
        try:
            # Another sampler than the usual one brings its own steps and eta.
            settings = DiffusionSettings().changed(given)
            settings.check(self.header)
        except RecipeError as error:
            raise UsageError(str(error)) from error
        return settings

    def _check_labels(self, labels: Tensor | Sequence[int]) -> Tensor:
        tensor = torch.as_tensor(labels, dtype=torch.int64, device=self.device)
        count = len(self.header.classes)
        if bool(((tensor < NULL_LABEL) | (tensor >= count)).any()):
            raise UsageError(f"labels are {sorted(set(tensor.tolist()))}", f"the model has labels 0 to {count - 1}")
        return tensor

    def _run(
        self,
        settings: DiffusionSettings,
        labels: Tensor,
        away: Tensor,
        source: SeededNoise | RecordedNoise,
        on_step: OnStep | None,
    ) -> Tensor:
        """Return latents in the denoiser's scale."""
        method = settings.method
        timesteps = method.spacing(self.schedule, settings.steps)
        denoise = self._denoiser(labels, away, settings, first=timesteps[0], on_step=on_step)
        return method.run(
            denoise,
            source.start().to(self.device),
            self.schedule,
            timesteps,
            lambda step: source.step(step).to(self.device),
            **{name: getattr(settings, name) for name in method.accepts},
        )

    def _denoiser(
        self, labels: Tensor, away: Tensor, settings: DiffusionSettings, *, first: int, on_step: OnStep | None
    ) -> Denoise:
        """Return the denoiser with guidance built in, for one timestep of a whole batch; `first` is the first one."""
        conditional = self.header.build.unet is not None and self.header.build.unet.conditional
        scale, passes = settings.guidance_scale if conditional else 1.0, 0

        def denoise(x_t: Tensor, t: int) -> Estimate:
            nonlocal passes
            times = torch.full((len(x_t),), t, dtype=torch.int64, device=x_t.device)
            predicted = guide(lambda told: self._predict(x_t, times, told, t != first), labels, away, scale)
            estimate = self._estimate(x_t, predicted, t)
            passes += 1
            if on_step is not None and passes % settings.method.passes_per_step == 0:
                on_step(passes // settings.method.passes_per_step, settings.steps)
            return estimate

        return denoise

    def _predict(self, x_t: Tensor, t: Tensor, labels: Tensor | None, self_conditioned: bool) -> Tensor:
        """Return what the network predicts, noise or clean latents."""
        if self.denoiser is None:
            raise CheckpointError("this model file holds an autoencoder only", "give one made by train-diffusion")
        labels = None if labels is None else labels.to(self.device)
        return self.denoiser(x_t, t, labels, self_conditioned=self_conditioned)  # type: ignore[no-any-return]

    def _estimate(self, x_t: Tensor, predicted: Tensor, t: int | Tensor) -> Estimate:
        unet = self.header.build.unet
        assert unet is not None
        return complete_estimate(self.schedule, x_t, predicted, t, objective=unet.objective, clip_x_0=unet.clip_x_0)


def load_pipeline(
    path: Path | str, device: torch.device | str = "cpu", header: DiffusionHeader | None = None
) -> Pipeline:
    """Load the networks of a diffusion model's file, or of an autoencoder that diffusers saved.

    Args:
        path: The file.
        device: Where to.
        header: Of the file, where it has been read already.

    Raises:
        CheckpointError: The file is missing, broken, of another family, or its weights do not fit its header.
    """
    path = Path(path)
    header = header or read_diffusion_header(path)
    # Before any weight is read: a file and its header may disagree in gigabytes.
    check_shapes(header, read_shapes(path), path)
    tensors = load_tensors(path)
    modules = build_networks(header)
    for prefix, module in modules.items():
        state = {name: tensors[prefix + name] for name in module.state_dict()}
        module.load_state_dict(state, assign=True)
        module.to(device)
    return Pipeline(header, *(modules.get(prefix) for prefix in PREFIXES))  # type: ignore[arg-type]
