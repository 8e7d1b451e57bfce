"""A diffusion model's recipe: its architecture, its trainings, and how it is sampled."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

from synthmed.errors import RecipeError
from synthmed.generators.diffusion.config import DetailUnetConfig, ScheduleConfig, UnetConfig, VaeConfig
from synthmed.generators.diffusion.settings import DiffusionSettings
from synthmed.generators.diffusion.training.config import (
    AdversarialConfig,
    AutoencoderConfig,
    DetailConfig,
    DiffusionConfig,
)
from synthmed.generators.family import Recipe


@dataclass(frozen=True)
class DiffusionRecipe(Recipe):
    """Everything that a diffusion model is made with."""

    vae: VaeConfig = field(default_factory=VaeConfig)
    unet: UnetConfig = field(default_factory=UnetConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    autoencoder: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    adversarial: AdversarialConfig = field(default_factory=AdversarialConfig)
    detail_unet: DetailUnetConfig = field(default_factory=DetailUnetConfig)
    detail: DetailConfig = field(default_factory=DetailConfig)
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    sampler: DiffusionSettings = field(default_factory=DiffusionSettings)

    @property
    def image_channels(self) -> int:
        """Channels of the images that the model is trained on."""
        return self.vae.image_channels

    def with_channels(self, channels: int) -> list[str]:
        """Return the changes, as `table.key=value`, that fit the recipe to images of 1 or 3 channels."""
        return [] if channels == self.vae.image_channels else [f"vae.image_channels={channels}"]

    def __post_init__(self) -> None:
        # Imported models may have these; their losses are not written, and no published model was trained with them.
        for table, name in itertools.product(("unet", "detail_unet"), ("learned_variance", "self_conditioning")):
            if getattr(getattr(self, table), name):
                raise RecipeError(f"{table}.{name} cannot be trained", "leave it out; only imported models have it")
