"""From what a network predicts to both estimates: the clean latents and the noise in x_t."""

from __future__ import annotations

from torch import Tensor

from synthmed.generators.diffusion.config import Objective
from synthmed.generators.diffusion.samplers.sampler import Estimate
from synthmed.generators.diffusion.schedule import NoiseSchedule


def predict_x_0(schedule: NoiseSchedule, x_t: Tensor, eps: Tensor, t: int | Tensor) -> Tensor:
    """Return the clean latents that `x_t` and the noise estimate imply; t is one timestep or [N] int64."""
    # The same two rounded constants as in the published code, not their float32 quotient.
    signal, noise = _at(t, x_t, schedule.sqrt_recip_alphas_cumprod, schedule.sqrt_recipm1_alphas_cumprod)
    return signal * x_t - noise * eps


def predict_eps(schedule: NoiseSchedule, x_t: Tensor, x_0: Tensor, t: int | Tensor) -> Tensor:
    """Return the noise that `x_t` and the estimate of the clean latents imply; t is one timestep or [N] int64."""
    signal, noise = _at(t, x_t, schedule.sqrt_recip_alphas_cumprod, schedule.sqrt_recipm1_alphas_cumprod)
    return (signal * x_t - x_0) / noise


def velocity_to_x_0(schedule: NoiseSchedule, x_t: Tensor, velocity: Tensor, t: int | Tensor) -> Tensor:
    """Return the clean latents that `x_t` and v imply; t is one timestep or [N] int64."""
    signal, noise = _at(t, x_t, schedule.sqrt_alphas_cumprod, schedule.sqrt_one_minus_alphas_cumprod)
    return signal * x_t - noise * velocity


def _at(t: int | Tensor, x_t: Tensor, *constants: Tensor) -> list[Tensor]:
    """Return constants of the schedule at one timestep, or at [N] of them for [N, ...]."""
    if isinstance(t, int):
        return [constant[t] for constant in constants]
    shape = (-1, *[1] * (x_t.ndim - 1))
    return [constant.to(t.device)[t].view(shape) for constant in constants]


def complete_estimate(
    schedule: NoiseSchedule,
    x_t: Tensor,
    predicted: Tensor,
    t: int | Tensor,
    *,
    objective: Objective = "eps",
    clip_x_0: bool = False,
) -> Estimate:
    """Return both estimates from the one that a network predicts.

    Args:
        schedule: Constants of the forward process.
        x_t: What the network has seen.
        predicted: The noise, the clean latents or v, as `objective` says.
        t: One timestep or [N] int64.
        objective: What was predicted.
        clip_x_0: Clip the clean latents to [-1, 1]. As in Medfusion, predicted noise stays as it is, and noise that
            follows from the clean latents follows from the clipped ones.
    """
    if objective == "eps":
        x_0 = predict_x_0(schedule, x_t, predicted, t)
        return Estimate(x_0.clamp(-1, 1) if clip_x_0 else x_0, predicted)
    x_0 = predicted if objective == "x_0" else velocity_to_x_0(schedule, x_t, predicted, t)
    if clip_x_0:
        x_0 = x_0.clamp(-1, 1)
    return Estimate(x_0, predict_eps(schedule, x_t, x_0, t))
