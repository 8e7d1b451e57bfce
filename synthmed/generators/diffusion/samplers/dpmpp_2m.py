"""DPM-Solver++(2M) (Lu et al. 2022)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from synthmed.generators.diffusion.samplers.estimate import Denoise
from synthmed.generators.diffusion.schedule import NoiseSchedule


def dpmpp_2m(denoise: Denoise, x_t: Tensor, schedule: NoiseSchedule, timesteps: Sequence[int]) -> Tensor:
    """Sample with DPM-Solver++(2M) in its data-prediction form (Lu et al. 2022, algorithm 2).

    The last step is of first order and goes to noise level zero, where it gives x_0 itself.
    """
    alpha, sigma = schedule.sqrt_alphas_cumprod, schedule.sqrt_one_minus_alphas_cumprod
    log_snr = (alpha.double().log() - sigma.double().log()).tolist()
    x_0_before: Tensor | None = None
    step_before = 0.0
    for number, t in enumerate(timesteps):
        x_0 = denoise(x_t, t).x_0
        if number + 1 == len(timesteps):
            return x_0
        following = timesteps[number + 1]
        step = log_snr[following] - log_snr[t]
        estimate = x_0
        if x_0_before is not None:
            ratio = step_before / step
            estimate = (1 + 1 / (2 * ratio)) * x_0 - 1 / (2 * ratio) * x_0_before
        decay = torch.expm1(torch.tensor(-step)).to(x_t)
        x_t = sigma[following] / sigma[t] * x_t - alpha[following] * decay * estimate
        x_0_before, step_before = x_0, step
    return x_t
