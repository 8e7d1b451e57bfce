"""Samplers: pure functions from noise to latents.

Each takes a denoiser `(x_t, t) -> Estimate` for one timestep t, the start x_T [N, Z, h, w], and the integer timesteps
from high to low; noise comes in from outside. Images of one batch never influence each other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from synthmed.diffusion.schedule import NoiseSchedule


class Estimate(NamedTuple):
    """What a denoiser makes of x_t: the clean latents and the noise in it, each [N, Z, h, w]."""

    x_0: Tensor
    eps: Tensor


Denoise = Callable[[Tensor, int], Estimate]
StepNoise = Callable[[int], Tensor]


def even_timesteps(num_timesteps: int, steps: int) -> list[int]:
    """Return `steps` integer timesteps from T - 1 down to 0, evenly spaced and truncated as Medfusion does."""
    spaced = torch.linspace(0, num_timesteps - 1, steps, dtype=torch.long)
    return spaced.flip(0).tolist()


def log_snr_timesteps(schedule: NoiseSchedule, steps: int) -> list[int]:
    """Return `steps` different integer timesteps from T - 1 down to 0, evenly spaced in the log of signal to noise.

    What DPM-Solver wants (Lu et al. 2022, sec. 3.4). On this schedule even timesteps leave more than half of the range
    to the last step: against exact solutions for mixtures of Gaussians, 20 even steps err 5 to 17 times as much.
    """
    log_snr = (schedule.sqrt_alphas_cumprod.double() / schedule.sqrt_one_minus_alphas_cumprod.double()).log()
    wanted = torch.linspace(log_snr[0].item(), log_snr[-1].item(), steps, dtype=torch.float64)
    nearest = (log_snr[None] - wanted[:, None]).abs().argmin(dim=1).tolist()
    if steps == 1:
        return [0]
    ascending: list[int] = []
    for number, t in enumerate(nearest):
        # Where the schedule is coarser than the spacing, neighbours take the next free timestep.
        lowest = ascending[-1] + 1 if ascending else 0
        ascending.append(min(max(t, lowest), len(log_snr) - steps + number))
    return ascending[::-1]


def predict_x_0(schedule: NoiseSchedule, x_t: Tensor, eps: Tensor, t: int | Tensor) -> Tensor:
    """Return the clean latents that `x_t` and the noise estimate imply; t is one timestep or [N] int64."""
    # The same two rounded constants as in the published code, not their float32 quotient.
    signal, noise = _constants(schedule, x_t, t)
    return signal * x_t - noise * eps


def predict_eps(schedule: NoiseSchedule, x_t: Tensor, x_0: Tensor, t: int | Tensor) -> Tensor:
    """Return the noise that `x_t` and the estimate of the clean latents imply; t is one timestep or [N] int64."""
    signal, noise = _constants(schedule, x_t, t)
    return (signal * x_t - x_0) / noise


def _constants(schedule: NoiseSchedule, x_t: Tensor, t: int | Tensor) -> tuple[Tensor, Tensor]:
    constants = schedule.sqrt_recip_alphas_cumprod, schedule.sqrt_recipm1_alphas_cumprod
    if isinstance(t, int):
        return constants[0][t], constants[1][t]
    signal, noise = (constant.to(t.device)[t].view(-1, *[1] * (x_t.ndim - 1)) for constant in constants)
    return signal, noise


def complete_estimate(
    schedule: NoiseSchedule,
    x_t: Tensor,
    predicted: Tensor,
    t: int | Tensor,
    *,
    objective: Literal["eps", "x_0"] = "eps",
    clip_x_0: bool = False,
) -> Estimate:
    """Return both estimates from the one that a network predicts.

    Args:
        schedule: Constants of the forward process.
        x_t: What the network has seen.
        predicted: The noise or the clean latents, as `objective` says.
        t: One timestep or [N] int64.
        objective: What was predicted.
        clip_x_0: Clip the clean latents to [-1, 1]. As in Medfusion, predicted noise stays as it is, and noise that
            follows from the clean latents follows from the clipped ones.
    """
    x_0 = predicted if objective == "x_0" else predict_x_0(schedule, x_t, predicted, t)
    if clip_x_0:
        x_0 = x_0.clamp(-1, 1)
    eps = predict_eps(schedule, x_t, x_0, t) if objective == "x_0" else predicted
    return Estimate(x_0, eps)


def ddim(
    denoise: Denoise,
    x_t: Tensor,
    schedule: NoiseSchedule,
    timesteps: Sequence[int],
    step_noise: StepNoise,
    eta: float = 1.0,
) -> Tensor:
    """Sample with DDIM (Song et al. 2021, eq. 12 and 16).

    Args:
        denoise: Estimates of the network.
        x_t: Start, standard normal, [N, Z, h, w].
        schedule: Constants of the forward process.
        timesteps: From high to low; the last step gives x_0.
        step_noise: Standard normal noise for step number 0, 1, ...; not asked for when eta is 0.
        eta: 0 deterministic, 1 the noise of the ancestral sampler.
    """
    for number, t in enumerate(timesteps):
        x_0, eps = denoise(x_t, t)
        if number + 1 == len(timesteps):
            return x_0
        acp, acp_next = schedule.alphas_cumprod[t], schedule.alphas_cumprod[timesteps[number + 1]]
        sigma = eta * ((1 - acp / acp_next) * (1 - acp_next) / (1 - acp)).sqrt()
        x_t = x_0 * acp_next.sqrt() + (1 - acp_next - sigma**2).sqrt() * eps
        if eta > 0:
            x_t = x_t + sigma * step_noise(number)
    return x_t


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
