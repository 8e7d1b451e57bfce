"""What the trainings of a diffusion model can be told."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from synthmed.config.fields import described
from synthmed.errors import RecipeError
from synthmed.training.config import KEEP, StageConfig

MAX_LOG_SNR = 20.0
MIN_LOG_SNR_DEVIATION = 0.1


@dataclass(frozen=True)
class AutoencoderConfig(StageConfig):
    """Training of the autoencoder."""

    keep: Literal["best", "last"] = described("best", KEEP)
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
    # What it is trained for, the discriminators' judgement, is no part of the validation loss.
    keep: Literal["best", "last"] = described("last", KEEP)
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
class DenoisingConfig(StageConfig):
    """What every training that removes noise can be told."""

    keep: Literal["best", "last"] = described("best", KEEP)
    loss: Literal["l1", "mse"] = described("l1", "distance of what is predicted from what is true")
    timesteps: Literal["uniform", "normal"] = described(
        "uniform", "how timesteps are drawn: evenly, or so that the log of signal to noise is normal"
    )
    log_snr_mean: float = described(0.0, "for normal timesteps: mean of log(signal / noise), of their powers")
    log_snr_deviation: float = described(2.0, "for normal timesteps: its standard deviation")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not -MAX_LOG_SNR <= self.log_snr_mean <= MAX_LOG_SNR:
            raise RecipeError(
                f"log_snr_mean is {self.log_snr_mean}", f"it must be in {-MAX_LOG_SNR:g} .. {MAX_LOG_SNR:g}"
            )
        if not MIN_LOG_SNR_DEVIATION <= self.log_snr_deviation <= MAX_LOG_SNR:
            raise RecipeError(
                f"log_snr_deviation is {self.log_snr_deviation}",
                f"it must be in {MIN_LOG_SNR_DEVIATION:g} .. {MAX_LOG_SNR:g}",
            )


@dataclass(frozen=True)
class DetailConfig(DenoisingConfig):
    """Training of the detail stage, on images and what the autoencoder leaves of them."""

    loss: Literal["l1", "mse"] = described("mse", "distance of what is predicted from what is true")
    timesteps: Literal["uniform", "normal"] = described(
        "normal", "how timesteps are drawn: evenly, or so that the log of signal to noise is normal"
    )


@dataclass(frozen=True)
class DiffusionConfig(DenoisingConfig):
    """Training of the denoiser."""

    label_dropout: float = described(0.1, "share of samples trained without their label")
    label_dropout_of: Literal["sample", "batch"] = described("sample", "what one coin decides for")
    latents: Literal["mean", "sample"] = described("mean", "what of the autoencoder's posterior is trained on")
    latent_scale: Literal["measured", "one"] = described("measured", "measured brings latents to unit deviation")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.label_dropout <= 1:
            raise RecipeError(f"diffusion.label_dropout is {self.label_dropout}", "it must be in [0, 1]")
