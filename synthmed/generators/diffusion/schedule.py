"""The noise schedule: constants of the forward process x_t = sqrt(acp_t) x_0 + sqrt(1 - acp_t) eps.

Computed in float64 and stored in float32, as in the published checkpoints (Ho et al. 2020, eq. 4 and 7).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from synthmed.errors import RecipeError
from synthmed.generators.diffusion.config import ScheduleConfig


@dataclass(frozen=True)
class NoiseSchedule:
    """Per-timestep constants, each [T] float32."""

    betas: Tensor
    alphas_cumprod: Tensor
    sqrt_alphas_cumprod: Tensor
    sqrt_one_minus_alphas_cumprod: Tensor
    sqrt_recip_alphas_cumprod: Tensor
    sqrt_recipm1_alphas_cumprod: Tensor
    posterior_mean_coef1: Tensor
    posterior_mean_coef2: Tensor
    posterior_variance: Tensor

    @property
    def num_timesteps(self) -> int:
        """T, the number of timesteps of the forward process."""
        return len(self.betas)

    @property
    def log_snr(self) -> Tensor:
        """Log of signal to noise, of their powers, at each timestep: [T] float64, falling."""
        acp = self.alphas_cumprod.double()
        return acp.log() - (-acp).log1p()

    def add_noise(self, x_0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """Return x_t for clean latents and noise [N, ...] at timesteps t [N] int64."""
        shape = (-1, *[1] * (x_0.ndim - 1))
        signal = self.sqrt_alphas_cumprod.to(x_0.device)[t].view(shape)
        noise = self.sqrt_one_minus_alphas_cumprod.to(x_0.device)[t].view(shape)
        return signal * x_0 + noise * eps

    def velocity(self, x_0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """Return v = sqrt(acp_t) eps - sqrt(1 - acp_t) x_0 (Salimans and Ho 2022, app. D), arguments as `add_noise`."""
        # The forward process of the noise, which goes to the latents' negative.
        return self.add_noise(eps, -x_0, t)


@cache
def build_schedule(config: ScheduleConfig) -> NoiseSchedule:
    """Return the constants of a schedule, computed once: the detail stage asks for them with every batch.

    Raises:
        RecipeError: It leaves so little of an image that its constants are beyond float32.
    """
    betas = _betas(config)
    alphas = 1 - betas
    acp = alphas.cumprod(0)
    previous = torch.cat([torch.ones(1, dtype=torch.float64), acp[:-1]])
    constants = (
        betas,
        acp,
        acp.sqrt(),
        (1 - acp).sqrt(),
        (1 / acp).sqrt(),
        (1 / acp - 1).sqrt(),
        betas * previous.sqrt() / (1 - acp),
        (1 - previous) * alphas.sqrt() / (1 - acp),
        betas * (1 - previous) / (1 - acp),
    )
    found = [constant.float() for constant in constants]
    if not all(constant.isfinite().all() for constant in found):
        raise RecipeError(
            f"the schedule's {config.num_timesteps} steps leave nothing of an image",
            "fewer steps, or smaller variances",
        )
    return NoiseSchedule(*found)


def _betas(config: ScheduleConfig) -> Tensor:
    """Return the variances of the steps, [T] float64."""
    steps = config.num_timesteps
    if config.strategy == "linear":
        return torch.linspace(config.beta_start, config.beta_end, steps, dtype=torch.float64)
    if config.strategy == "scaled_linear":
        return torch.linspace(config.beta_start**0.5, config.beta_end**0.5, steps, dtype=torch.float64) ** 2
    # Nichol and Dhariwal 2021, eq. 17, with the offset of 0.008 that they give.
    share = torch.linspace(0, steps, steps + 1, dtype=torch.float64) / steps
    acp = torch.cos((share + 0.008) / 1.008 * math.pi / 2) ** 2
    return (1 - acp[1:] / acp[:-1]).clamp(0, 0.999)
