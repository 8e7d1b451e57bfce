"""Learning rates by step."""

from __future__ import annotations

import math

from synthmed.training.config import StageConfig


def learning_rate(config: StageConfig, step: int, peak: float) -> float:
    """Return the learning rate of a step: a linear warm-up, then constant or half a cosine down to zero.

    Args:
        config: Schedule, warm-up and number of steps.
        step: Index of the step.
        peak: Learning rate after the warm-up.
    """
    if config.lr_schedule == "constant" and step >= config.warmup_steps:
        return peak
    return warmup_cosine(step, peak, config.warmup_steps, config.steps)


def warmup_cosine(step: int, peak: float, warmup_steps: int, steps: int) -> float:
    """Return the learning rate of a step: a linear warm-up, then half a cosine down to zero.

    Args:
        step: Index of the step.
        peak: Learning rate after the warm-up.
        warmup_steps: Steps until the peak.
        steps: Steps until zero.
    """
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup_steps) / max(1, steps - warmup_steps)))
