"""DDIM (Song et al. 2021), with any share of fresh noise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from synthmed.generators.diffusion.samplers.sampler import Denoise, Sampler, StepNoise
from synthmed.generators.diffusion.samplers.spacing import even_timesteps

if TYPE_CHECKING:
    from torch import Tensor

    from synthmed.generators.diffusion.schedule import NoiseSchedule


def ddim(
    denoise: Denoise,
    x_t: Tensor,
    schedule: NoiseSchedule,
    timesteps: Sequence[int],
    step_noise: StepNoise,
    eta: float = 1.0,
) -> Tensor:
    """Sample with DDIM (Song et al. 2021, eq. 12 and 16); the last step gives x_0.

    Args:
        denoise: Estimates of the network.
        x_t: Start, standard normal, [N, Z, h, w].
        schedule: Constants of the forward process.
        timesteps: From high to low.
        step_noise: Standard normal noise for step 0, 1, ...; not asked for when eta is 0.
        eta: 0 deterministic, 1 the noise of the ancestral sampler.
    """
    for step, t in enumerate(timesteps):
        x_0, eps = denoise(x_t, t)
        if step + 1 == len(timesteps):
            return x_0
        acp, acp_next = schedule.alphas_cumprod[t], schedule.alphas_cumprod[timesteps[step + 1]]
        sigma = eta * ((1 - acp / acp_next) * (1 - acp_next) / (1 - acp)).sqrt()
        x_t = x_0 * acp_next.sqrt() + (1 - acp_next - sigma**2).sqrt() * eps
        if eta > 0:
            x_t = x_t + sigma * step_noise(step)
    return x_t


SAMPLER = Sampler(
    name="ddim",
    title="DDIM, as published",
    run=ddim,
    spacing=even_timesteps,
    defaults={"steps": 150, "eta": 1.0},
    accepts=frozenset({"eta"}),
)
