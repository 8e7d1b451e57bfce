"""How a diffusion model is sampled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from synthmed.config.fields import described
from synthmed.errors import RecipeError, nearest
from synthmed.formats.headers import Header
from synthmed.generators.diffusion.config import MAX_TIMESTEPS
from synthmed.generators.diffusion.samplers import SAMPLERS
from synthmed.generators.diffusion.samplers.sampler import Sampler

MAX_GUIDANCE = 100
_SAMPLERS = "how noise becomes latents: " + ", ".join(
    f"{each.name} ({each.title}, {each.defaults['steps']} steps)" for each in SAMPLERS.values()
)


@dataclass(frozen=True)
class DiffusionSettings:
    """Sampler, steps and guidance; what is not said is the model's own preset."""

    sampler: str = described("ddim", _SAMPLERS, choices=(*SAMPLERS,))
    steps: int = described(150, "steps from noise to latents", minimum=1, maximum=MAX_TIMESTEPS)
    eta: float = described(
        1.0, "share of fresh noise in each step: 0 none, 1 as the ancestral sampler", minimum=0, maximum=1
    )
    guidance_scale: float = described(
        1.0,
        "guidance scale: 1 for none, more follows the label more closely",
        option="guidance",
        minimum=0,
        maximum=MAX_GUIDANCE,
    )
    detail_steps: int = described(
        0,
        "passes of the detail stage, which gives decoded images what the autoencoder loses; 0 leaves it out",
        minimum=0,
        maximum=MAX_TIMESTEPS,
        off="no-detail",
    )

    def __post_init__(self) -> None:
        if self.sampler not in SAMPLERS:
            raise RecipeError(f"sampler.sampler is {self.sampler[:100]!r}", nearest(self.sampler, SAMPLERS))
        if self.steps < 1:
            raise RecipeError(f"sampler.steps is {self.steps}", "it must be at least 1")
        if not 0 <= self.detail_steps <= MAX_TIMESTEPS:
            raise RecipeError(f"sampler.detail_steps is {self.detail_steps}", f"it must be in 0 .. {MAX_TIMESTEPS}")
        if not 0 <= self.eta <= 1:
            raise RecipeError(f"sampler.eta is {self.eta}", "it must be in [0, 1]")
        if not 0 <= self.guidance_scale <= MAX_GUIDANCE:
            raise RecipeError(f"sampler.guidance_scale is {self.guidance_scale}", f"it must be in 0 .. {MAX_GUIDANCE}")
        if self.eta != 0 and "eta" not in self.method.accepts:
            takers = [sampler.name for sampler in SAMPLERS.values() if "eta" in sampler.accepts]
            raise RecipeError(f"sampler {self.sampler} has no eta", f"set eta to 0 or use {' or '.join(takers)}")

    @property
    def method(self) -> Sampler:
        """The sampler itself."""
        return SAMPLERS[self.sampler]

    @property
    def passes(self) -> int:
        """Passes of the denoiser per image: guidance doubles them."""
        return self.steps * self.method.passes_per_step * (1 if self.guidance_scale == 1 else 2)

    def check(self, header: Header[Any, Any]) -> None:
        """Raise RecipeError where the model has fewer timesteps than there are steps, or no detail stage for its."""
        timesteps = header.build.schedule.num_timesteps
        if self.steps > timesteps:
            raise RecipeError(f"sampler.steps is {self.steps}", f"the model has {timesteps} timesteps")
        detail = header.build.detail
        if self.detail_steps and detail is None:
            raise RecipeError(f"sampler.detail_steps is {self.detail_steps}", "the model has no detail stage: 0")
        if self.detail_steps and self.detail_steps > detail.schedule.num_timesteps:
            raise RecipeError(
                f"sampler.detail_steps is {self.detail_steps}",
                f"the detail stage has {detail.schedule.num_timesteps} timesteps",
            )

    def changed(self, given: Mapping[str, Any]) -> DiffusionSettings:
        """Return the settings with some values given; another sampler brings its own steps and eta."""
        name = given.get("sampler", self.sampler)
        if name not in SAMPLERS:
            raise RecipeError(f"sampler.sampler is {name!r}", nearest(str(name), SAMPLERS))
        brought = {} if name == self.sampler else dict(SAMPLERS[name].defaults)
        return replace(self, **{**brought, **given})

    def describe(self) -> str:
        """Return the settings as words for plan and data card."""
        words = f"sampler {self.sampler}, {self.steps} steps, eta {self.eta:g}, guidance scale {self.guidance_scale:g}"
        return f"{words}, {self.detail_steps} detail steps" if self.detail_steps else words
