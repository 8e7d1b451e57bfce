"""The architecture of a diffusion model: first stage, denoiser, noise schedule."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from synthmed.config.fields import MAX_WIDTH, described
from synthmed.config.tables import shown
from synthmed.errors import RecipeError
from synthmed.formats.diffusers_files import AutoencoderKLConfig
from synthmed.formats.headers import GENERATOR, Header

# Keep what a hostile file can make the networks ask for within reason.
MAX_LEVELS = 16
MAX_STRIDE = 16
MAX_TIMESTEPS = 100_000
MIN_BETA = 1e-6
MAX_LATENT_SCALE = 1e6
"""Of the latents' factor and of its inverse: it brings them to unit deviation, and no first stage is so far from it."""


@dataclass(frozen=True)
class VaeConfig:
    """Architecture of the autoencoder."""

    image_channels: int = described(3, "3, or 1 to see the luma alone")
    latent_channels: int = described(4, "channels of the latents")
    widths: tuple[int, ...] = described((64, 128, 256, 512), "channels of each level")
    strides: tuple[int, ...] = described((1, 2, 2, 2), "stride into each level; their product is the down-sampling")
    norm_groups: int = described(8, "groups of each group norm")
    deep_supervision: int = described(1, "further outputs at half, quarter, ... size that the loss also sees")

    def __post_init__(self) -> None:
        _check_levels("vae", self.widths, self.strides, self.norm_groups)
        if self.image_channels not in (1, 3):
            raise RecipeError(f"vae.image_channels is {self.image_channels}", "it must be 1 or 3")
        if not 1 <= self.latent_channels <= MAX_WIDTH:
            raise RecipeError(f"vae.latent_channels is {self.latent_channels}", f"it must be in 1 .. {MAX_WIDTH}")
        if not 0 <= self.deep_supervision < len(self.widths):
            raise RecipeError(
                f"vae.deep_supervision is {self.deep_supervision}", f"at most {len(self.widths) - 1} for these widths"
            )

    @property
    def downsampling(self) -> int:
        """Factor between the sides of an image and of its latents."""
        return math.prod(self.strides)


Objective = Literal["eps", "x_0", "v"]
FirstStageConfig = VaeConfig | AutoencoderKLConfig


@dataclass(frozen=True)
class UnetConfig:
    """Architecture of the denoiser, and what its output means."""

    build: Literal["unet2", "unet1"] = described("unet2", "which of Medfusion's denoisers; unet1 is the older one")
    widths: tuple[int, ...] = described((256, 256, 512, 1024), "channels of each level")
    strides: tuple[int, ...] = described((1, 2, 2, 2), "stride into each level; unet2 does not use the last")
    norm_groups: int = described(32, "groups of each group norm")
    emb_channels: int = described(1024, "width of the time and label embedding")
    objective: Literal["eps", "x_0", "v"] = described(
        "eps", "what the network predicts: the noise, the clean latents, or v, their difference on the way to the noise"
    )
    conditional: bool = described(True, "class-conditional; if false the model has exactly one class")
    learned_variance: bool = described(
        False, "also predicts a variance, which no sampler uses; only imported models have it"
    )
    self_conditioning: bool = described(False, "sees its input twice, as in Medfusion; only imported models have it")
    clip_x_0: bool = described(False, "clip each step's estimate of the clean latents to [-1, 1]")

    def __post_init__(self) -> None:
        _check_levels("unet", self.widths, self.strides, self.norm_groups)
        if self.emb_channels % 8 or not 16 <= self.emb_channels <= MAX_WIDTH:
            raise RecipeError(
                f"unet.emb_channels is {self.emb_channels}", f"it must be a multiple of 8 in 16 .. {MAX_WIDTH}"
            )


@dataclass(frozen=True)
class DetailUnetConfig(UnetConfig):
    """Architecture of the detail stage's denoiser, which works at half the side of the images."""

    widths: tuple[int, ...] = described((48, 48, 64), "channels of each level")
    strides: tuple[int, ...] = described((1, 2, 2), "stride into each level; unet2 does not use the last")
    norm_groups: int = described(16, "groups of each group norm")
    emb_channels: int = described(128, "width of the time and label embedding")
    objective: Literal["eps", "x_0", "v"] = described("v", "what the network predicts; see unet.objective")
    conditional: bool = described(False, "whether it is told the class, which it also sees in the image")


@dataclass(frozen=True)
class ScheduleConfig:
    """Noise schedule of the forward process."""

    strategy: Literal["scaled_linear", "linear", "cosine"] = described(
        "scaled_linear",
        "evenly spaced square roots of the variances, evenly spaced variances, or a cosine, which takes no variances",
    )
    num_timesteps: int = described(1000, "steps of the forward process, T")
    beta_start: float = described(0.002, "variance of the first step")
    beta_end: float = described(0.02, "variance of the last step")

    def __post_init__(self) -> None:
        if not 1 <= self.num_timesteps <= MAX_TIMESTEPS:
            raise RecipeError(
                f"schedule.num_timesteps is {self.num_timesteps}", f"it must be at least 1 and at most {MAX_TIMESTEPS}"
            )
        if not MIN_BETA <= self.beta_start <= self.beta_end < 1:
            raise RecipeError(
                f"schedule.beta_start is {self.beta_start} and beta_end {self.beta_end}",
                f"they must rise and lie between {MIN_BETA:g} and 1",
            )


@dataclass(frozen=True)
class DetailBuild:
    """Architecture of the stage that gives decoded images the detail which the autoencoder loses."""

    unet: DetailUnetConfig = field(default_factory=DetailUnetConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)


@dataclass(frozen=True)
class DiffusionBuild:
    """Architecture of a diffusion model, or of its first stage alone."""

    vae: FirstStageConfig = field(default_factory=VaeConfig)
    unet: UnetConfig | None = None
    """`None` where the file holds the first stage alone."""
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    detail: DetailBuild | None = None
    """`None` where images stay as the autoencoder decodes them."""
    latent_scale: float = 1.0
    """Factor between the first stage's latents and those that the denoiser sees."""

    def check(self, header: Header[Any, Any]) -> None:
        """Raise RecipeError unless this can be built for a header's images and classes."""
        factor = self.vae.downsampling
        if any(side % factor for side in header.height_width):
            raise RecipeError(f"size is {header.size}", f"sides must be multiples of the down-sampling, {factor}")
        if not 1 / MAX_LATENT_SCALE <= self.latent_scale <= MAX_LATENT_SCALE:
            raise RecipeError(
                f"latent_scale is {self.latent_scale}",
                f"it must be in {1 / MAX_LATENT_SCALE:g} .. {MAX_LATENT_SCALE:g}",
            )
        if header.kind not in (GENERATOR, "autoencoder"):
            raise RecipeError(f"kind is {shown(header.kind)}", f"a diffusion model has {GENERATOR} and autoencoder")
        if (header.kind == GENERATOR) != (self.unet is not None):
            raise RecipeError(f"a model of kind {header.kind} has unet {self.unet}")
        if self.detail is not None and any(side % 2 for side in header.height_width):
            raise RecipeError(f"size is {header.size}", "the detail stage wants even sides")
        if self.unet is not None and not self.unet.conditional and len(header.classes) > 1:
            raise RecipeError(f"there are {len(header.classes)} classes", "a model with unet.conditional false has one")


def _check_levels(section: str, widths: Sequence[int], strides: Sequence[int], norm_groups: int) -> None:
    if len(widths) != len(strides) or len(widths) < 2:
        raise RecipeError(f"{section} has {len(widths)} widths and {len(strides)} strides", "give one stride a width")
    if len(widths) > MAX_LEVELS:
        raise RecipeError(f"{section} has {len(widths)} levels", f"at most {MAX_LEVELS}")
    if min(widths) < 1 or min(strides) < 1 or norm_groups < 1:
        raise RecipeError(f"{section} has a width, stride or group count below 1", "all must be positive")
    if max(strides) > MAX_STRIDE:
        raise RecipeError(f"{section}.strides has {max(strides)}", f"at most {MAX_STRIDE}")
    if strides[0] != 1:
        raise RecipeError(f"{section}.strides starts with {strides[0]}", "the first level works at full size: 1")
    for width in widths:
        if width > MAX_WIDTH:
            raise RecipeError(f"{section}.widths has {width}", f"at most {MAX_WIDTH}")
        if width % norm_groups:
            raise RecipeError(f"{section}.widths has {width}", f"it must be a multiple of norm_groups = {norm_groups}")
