"""From what a network predicts to both estimates: the clean latents and the noise in x_t."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from synthmed.generators.diffusion.samplers.sampler import Estimate
from synthmed.generators.diffusion.schedule import NoiseSchedule


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
