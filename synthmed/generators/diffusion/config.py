"""Recipes: one frozen dataclass a stage.

Owns the defaults of everything that a training or a sampler can be told.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from synthmed.config.fields import described
from synthmed.errors import RecipeError
from synthmed.training.config import StageConfig

# Keep what a hostile file can make the networks ask for within reason; the widest published model has 1024.
MAX_WIDTH = 16_384
MAX_LEVELS = 16
MAX_TIMESTEPS = 100_000


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


@dataclass(frozen=True)
class UnetConfig:
    """Architecture of the denoiser, and what its output means."""

    build: Literal["unet2", "unet1"] = described("unet2", "which of Medfusion's denoisers; unet1 is the older one")
    widths: tuple[int, ...] = described((256, 256, 512, 1024), "channels of each level")
    strides: tuple[int, ...] = described((1, 2, 2, 2), "stride into each level; unet2 does not use the last")
    norm_groups: int = described(32, "groups of each group norm")
    emb_channels: int = described(1024, "width of the time and label embedding")
    objective: Literal["eps", "x_0"] = described("eps", "what the network predicts: the noise or the clean latents")
    conditional: bool = described(True, "whether it is told the label; a model without has one class")
    learned_variance: bool = described(False, "whether it predicts a variance too, which no sampler uses; not trained")
    self_conditioning: bool = described(False, "whether it sees its input twice, as in Medfusion; not trained")
    clip_x_0: bool = described(False, "clip each step's estimate of the clean latents to [-1, 1]")

    def __post_init__(self) -> None:
        _check_levels("unet", self.widths, self.strides, self.norm_groups)
        if self.emb_channels % 8 or not 16 <= self.emb_channels <= MAX_WIDTH:
            raise RecipeError(
                f"unet.emb_channels is {self.emb_channels}", f"it must be a multiple of 8 in 16 .. {MAX_WIDTH}"
            )


@dataclass(frozen=True)
class ScheduleConfig:
    """Noise schedule of the forward process."""

    strategy: Literal["scaled_linear", "linear", "cosine"] = described(
        "scaled_linear", "what is evenly spaced: the square roots of the variances, or they; or a cosine, without both"
    )
    num_timesteps: int = described(1000, "T")
    beta_start: float = described(0.002, "variance of the first step")
    beta_end: float = described(0.02, "variance of the last step")

    def __post_init__(self) -> None:
        if not 1 <= self.num_timesteps <= MAX_TIMESTEPS:
            raise RecipeError(
                f"schedule.num_timesteps is {self.num_timesteps}", f"it must be at least 1 and at most {MAX_TIMESTEPS}"
            )
        if not 0 < self.beta_start <= self.beta_end < 1:
            raise RecipeError(
                f"schedule.beta_start is {self.beta_start} and beta_end {self.beta_end}",
                "they must rise and lie between 0 and 1",
            )


@dataclass(frozen=True)
class DataConfig:
    """What the model is trained on."""

    size: int = described(256, "side of the square images in pixels")

    def __post_init__(self) -> None:
        if self.size < 1:
            raise RecipeError(f"data.size is {self.size}", "it must be at least 1")


@dataclass(frozen=True)
class AutoencoderConfig(StageConfig):
    """Training of the autoencoder."""

    pixel_loss: Literal["mse", "l1"] = described("mse", "distance of pixels")
    ssim_weight: float = described(1.0, "weight of 1 - SSIM beside the pixel distance")
    lpips_weight: float = described(0.0, "weight of LPIPS beside it; above 0 the command needs --vgg-weights")
    deep_weight: float = described(0.25, "weight of each deep-supervision output; 0.25 is its share of a sum of pixels")
    kl_weight: float = described(1e-6, "weight of the KL divergence, as a sum over latents per image over pixels")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("ssim_weight", "lpips_weight", "deep_weight", "kl_weight"):
            if not 0 <= getattr(self, name) < math.inf:
                raise RecipeError(f"{name} is {getattr(self, name)}", "it must be at least 0 and finite")


@dataclass(frozen=True)
class AdversarialConfig(AutoencoderConfig):
    """Training of the autoencoder against discriminators, after its own: the same loss and their judgement."""

    lr: float = described(1e-6, "peak learning rate of the autoencoder")
    pixel_loss: Literal["mse", "l1"] = described("l1", "distance of pixels")
    discriminator_lr: float = described(1e-6, "peak learning rate of the discriminators")
    adversarial_weight: float = described(1.0, "weight of the judgement, on top of the adaptive one")
    start_step: int = described(0, "steps before the judgement counts; the discriminators learn from the first")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.discriminator_lr < math.inf:
            raise RecipeError(f"discriminator_lr is {self.discriminator_lr}", "it must be above zero and finite")
        for name in ("adversarial_weight", "start_step"):
            if not 0 <= getattr(self, name) < math.inf:
                raise RecipeError(f"{name} is {getattr(self, name)}", "it must be at least 0 and finite")


@dataclass(frozen=True)
class DiffusionConfig(StageConfig):
    """Training of the denoiser."""

    loss: Literal["l1", "mse"] = described("l1", "distance of what is predicted from what is true")
    label_dropout: float = described(0.1, "share of samples trained without their label")
    label_dropout_of: Literal["sample", "batch"] = described("sample", "what one coin decides for")
    latents: Literal["mean", "sample"] = described("mean", "what of the autoencoder's posterior is trained on")
    latent_scale: Literal["measured", "one"] = described("measured", "measured brings latents to unit deviation")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.label_dropout <= 1:
            raise RecipeError(f"diffusion.label_dropout is {self.label_dropout}", "it must be in [0, 1]")


@dataclass(frozen=True)
class SamplerConfig:
    """How images are sampled unless the command says otherwise."""

    sampler: Literal["ddim", "dpmpp-2m"] = described("ddim", "DDIM, or DPM-Solver++ of second order, multistep")
    steps: int = described(150, "passes of the denoiser an image")
    eta: float = described(1.0, "share of fresh noise in each DDIM step: 0 none, 1 as the ancestral sampler")
    guidance_scale: float = described(1.0, "1 for none; more follows the label more closely")

    @property
    def passes(self) -> int:
        """Passes of the denoiser an image: guidance doubles them."""
        return self.steps if self.guidance_scale == 1 else 2 * self.steps

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise RecipeError(f"sampler.steps is {self.steps}", "it must be at least 1")
        if not 0 <= self.eta <= 1:
            raise RecipeError(f"sampler.eta is {self.eta}", "it must be in [0, 1]")
        if not 0 <= self.guidance_scale < math.inf:
            raise RecipeError(f"sampler.guidance_scale is {self.guidance_scale}", "it must be at least 0 and finite")
        if self.sampler == "dpmpp-2m" and self.eta != 0:
            raise RecipeError("sampler dpmpp-2m has no eta", "set eta to 0 or use ddim")


@dataclass(frozen=True)
class Recipe:
    """Everything that a model of one data set is made with."""

    name: str = ""
    preset: str = ""
    dataset: str = ""
    description: str = ""
    data: DataConfig = field(default_factory=DataConfig)
    vae: VaeConfig = field(default_factory=VaeConfig)
    unet: UnetConfig = field(default_factory=UnetConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    autoencoder: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    adversarial: AdversarialConfig = field(default_factory=AdversarialConfig)
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    sampler: SamplerConfig = field(default_factory=SamplerConfig)

    def __post_init__(self) -> None:
        # Imported models may have these; their losses are not written, and no published model was trained with them.
        for name in ("learned_variance", "self_conditioning"):
            if getattr(self.unet, name):
                raise RecipeError(f"unet.{name} cannot be trained", "leave it out; only imported models have it")


def _check_levels(section: str, widths: Sequence[int], strides: Sequence[int], norm_groups: int) -> None:
    if len(widths) != len(strides) or len(widths) < 2:
        raise RecipeError(f"{section} has {len(widths)} widths and {len(strides)} strides", "give one stride a width")
    if len(widths) > MAX_LEVELS:
        raise RecipeError(f"{section} has {len(widths)} levels", f"at most {MAX_LEVELS}")
    if min(widths) < 1 or min(strides) < 1 or norm_groups < 1:
        raise RecipeError(f"{section} has a width, stride or group count below 1", "all must be positive")
    if strides[0] != 1:
        raise RecipeError(f"{section}.strides starts with {strides[0]}", "the first level works at full size: 1")
    for width in widths:
        if width > MAX_WIDTH:
            raise RecipeError(f"{section}.widths has {width}", f"at most {MAX_WIDTH}")
        if width % norm_groups:
            raise RecipeError(f"{section}.widths has {width}", f"it must be a multiple of norm_groups = {norm_groups}")
