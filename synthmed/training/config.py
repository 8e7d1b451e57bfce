"""Settings that every training has: steps, batches, learning rate, averaging."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from synthmed.config.fields import described
from synthmed.config.limits import MAX_BATCH_SIZE, MAX_STEPS
from synthmed.errors import RecipeError

KEEP = "which averaged weights become the model: those of the lowest validation loss, or the last"


@dataclass(frozen=True)
class StageConfig:
    """Settings that all trainings share."""

    steps: int = described(100_000, "number of training steps")
    batch_size: int = described(32, "images per step, over all processes")
    lr: float = described(1e-4, "peak learning rate")
    lr_schedule: Literal["constant", "cosine"] = described(
        "constant", "course of the learning rate after the warm-up; cosine ends at zero"
    )
    warmup_steps: int = described(500, "steps over which the learning rate rises from zero")
    weight_decay: float = described(0.0, "weight decay of AdamW")
    beta2: float = described(0.999, "decay of AdamW's second moment")
    clip_norm: float = described(1.0, "largest norm of the gradient, which is scaled down to it; 0 for no clipping")
    ema_decay: float = described(
        0.9999, "decay of the averaged weights per step, reached gradually; 0 for no averaging"
    )
    keep: Literal["best", "last"] = described("last", KEEP)
    precision: Literal["auto", "fp32", "bf16"] = described(
        "auto", "number type; auto takes bf16 where the device has matrix units for it"
    )
    balanced: bool = described(False, "draw each class equally often")
    flips: Literal["none", "horizontal", "both"] = described("none", "axes along which images are mirrored at random")
    validate_every: int = described(1000, "steps between two reports with the loss on the validation split")
    checkpoint_every: int = described(1000, "steps between two checkpoints")
    preview_every: int = described(5000, "steps between two preview sheets; 0 for none")

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "validate_every", "checkpoint_every"):
            most = MAX_BATCH_SIZE if name == "batch_size" else MAX_STEPS
            if not 1 <= getattr(self, name) <= most:
                raise RecipeError(f"{name} is {getattr(self, name)}", f"it must be at least 1 and at most {most}")
        for name in ("warmup_steps", "weight_decay", "clip_norm", "preview_every"):
            if not 0 <= getattr(self, name) < math.inf:
                raise RecipeError(f"{name} is {getattr(self, name)}", "it must be at least 0 and finite")
        if not 0 < self.lr < math.inf:
            raise RecipeError(f"lr is {self.lr}", "it must be above zero and finite")
        if not 0 <= self.beta2 < 1:
            raise RecipeError(f"beta2 is {self.beta2}", "it must be in [0, 1)")
        if not 0 <= self.ema_decay < 1:
            raise RecipeError(f"ema_decay is {self.ema_decay}", "it must be in [0, 1)")
