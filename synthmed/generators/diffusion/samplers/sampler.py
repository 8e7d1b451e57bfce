"""What a sampler is: a function from noise to latents, the timesteps it visits, and what the user can tell it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor

    from synthmed.generators.diffusion.schedule import NoiseSchedule

Denoise = Callable[["Tensor", int], "Estimate"]
"""Gives the estimates at one timestep of a whole batch."""
StepNoise = Callable[[int], "Tensor"]
"""Gives standard normal noise for a step."""


class Estimate(NamedTuple):
    """What a denoiser makes of x_t: the clean latents and the noise in it, each [N, Z, h, w]."""

    x_0: Tensor
    eps: Tensor


@dataclass(frozen=True)
class Sampler:
    """One sampler, as command line, help and checks see it."""

    name: str
    title: str
    """What it is, in a few words for the help."""
    run: Callable[..., Tensor]
    """`run(denoise, x_t, schedule, timesteps, step_noise, **options)`: from the start x_t [N, Z, h, w], which is
    standard normal, to latents. `denoise(x_t, t)` gives an `Estimate` for one timestep, `timesteps` go from high to
    low, and `step_noise(step)` gives standard normal noise. Images of one batch never influence each other."""
    spacing: Callable[[NoiseSchedule, int], list[int]]
    """Gives the timesteps for a number of steps, from T - 1 down."""
    defaults: Mapping[str, Any]
    """Settings that it brings where it is named and nothing else is."""
    accepts: frozenset[str] = frozenset()
    """Settings beside the steps that `run` takes as options; the others must be 0."""
    passes_per_step: int = 1
    """Passes of the denoiser in each step."""
