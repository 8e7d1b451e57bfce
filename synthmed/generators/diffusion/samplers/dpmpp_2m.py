"""DPM-Solver++(2M) (Lu et al. 2022): second order, multistep, in a fraction of DDIM's steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from synthmed.generators.diffusion.samplers.sampler import Denoise, Sampler, StepNoise
from synthmed.generators.diffusion.samplers.spacing import log_snr_timesteps

if TYPE_CHECKING:
    from torch import Tensor

    from synthmed.generators.diffusion.schedule import NoiseSchedule


def dpmpp_2m(
    denoise: Denoise,
    x_t: Tensor,
    schedule: NoiseSchedule,
    timesteps: Sequence[int],
    _step_noise: StepNoise | None = None,
) -> Tensor:
    """Sample with DPM-Solver++(2M) in its data-prediction form (Lu et al. 2022, algorithm 2).

    The last step is of first order and goes to noise level zero, where it gives x_0 itself. Arguments as for `ddim`.
    """
    import torch

    alpha, sigma = schedule.sqrt_alphas_cumprod, schedule.sqrt_one_minus_alphas_cumprod
    log_snr = (alpha.double().log() - sigma.double().log()).tolist()
    x_0_before: Tensor | None = None
    width_before = 0.0
    for step, t in enumerate(timesteps):
        x_0 = denoise(x_t, t).x_0
        if step + 1 == len(timesteps):
            return x_0
        following = timesteps[step + 1]
        width = log_snr[following] - log_snr[t]
        estimate = x_0
        if x_0_before is not None:
            ratio = width_before / width
            estimate = (1 + 1 / (2 * ratio)) * x_0 - 1 / (2 * ratio) * x_0_before
        decay = torch.expm1(torch.tensor(-width)).to(x_t)
        x_t = sigma[following] / sigma[t] * x_t - alpha[following] * decay * estimate
        x_0_before, width_before = x_0, width
    return x_t


SAMPLER = Sampler(
    name="dpmpp-2m",
    title="DPM-Solver++ of second order, multistep",
    run=dpmpp_2m,
    spacing=log_snr_timesteps,
    defaults={"steps": 20, "eta": 0.0},
)
