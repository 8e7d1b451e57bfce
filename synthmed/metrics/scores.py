"""The scores of a set of generated images against real ones: their names, directions and functions in one table.

Every score is a function of features alone. Scores that share their cost form a family: a function of masks that gives
all of them at once, for values, intervals, floors and tests alike (`resampling`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from synthmed.metrics.feature_arrays import Features, Floats, MaskedScores, Masks
from synthmed.metrics.frechet import frechet_distances
from synthmed.metrics.kernel import kernel_distances
from synthmed.metrics.manifold import DENSITY_K, PRECISION_K, manifold_scores_of_masks

# What a permutation test may cost, in multiplications: five minutes of one fast core.
PERMUTATION_BUDGET = 1.5e13
PERMUTATIONS = (99, 999)


def _frechet(*, real: Features, generated: Features, real_masks: Masks, generated_masks: Masks) -> dict[str, Floats]:
    return {"fid": frechet_distances(real, generated, real_masks, generated_masks)}


def _kernel(*, real: Features, generated: Features, real_masks: Masks, generated_masks: Masks) -> dict[str, Floats]:
    return {"kid": kernel_distances(real, generated, real_masks, generated_masks)}


FAMILIES: dict[str, MaskedScores] = {"frechet": _frechet, "kernel": _kernel, "manifold": manifold_scores_of_masks}
FAMILY_TITLES = {
    "frechet": "Fréchet distance (FID)",
    "kernel": "kernel distance (KID)",
    "manifold": "precision, recall, density and coverage",
}
# The fewest images of a side that a family can be computed from.
MINIMUM = {"frechet": 2, "kernel": 2, "manifold": max(PRECISION_K, DENSITY_K) + 1}


@dataclass(frozen=True)
class Score:
    """One score: what it is called, and which way is better."""

    name: str
    title: str
    """As tables show it; on other features than Inception's FID is called FD."""
    better: Literal["lower", "higher"]
    bounds: tuple[float, float]
    """Values that the score cannot pass."""


SCORES: dict[str, Score] = {
    score.name: score
    for score in (
        Score("fid", "FID", "lower", (0, np.inf)),
        # The estimate from all images; `kernel.kid` gives mean and spread over subsets as published.
        Score("kid", "KID", "lower", (-np.inf, np.inf)),
        Score("precision", "precision", "higher", (0, 1)),
        Score("recall", "recall", "higher", (0, 1)),
        Score("density", "density", "higher", (0, np.inf)),
        Score("coverage", "coverage", "higher", (0, 1)),
    )
}
BOUNDS = {name: score.bounds for name, score in SCORES.items()}


def affordable_permutations(family: str, *, num_real: int, num_generated: int, num_features: int) -> int:
    """Return how many permutations a test of a family can have in about five minutes of one core: 99 to 999.

    Args:
        family: Of `FAMILIES`.
        num_real: Images of the reference.
        num_generated: Images of one generator.
        num_features: Features an image.
    """
    small = min(num_real, num_generated, num_features)
    costs: dict[str, Callable[[], float]] = {
        # Twice a covariance or products of deviations, and eigenvalues, which run at a fraction of the speed.
        "frechet": lambda: 2 * (num_generated * num_features * min(num_features, num_real) + 20 * small**3),
        "kernel": lambda: 8.0 * num_generated * (num_generated + num_real) / 100,
        # Five comparisons a pair and side, each as dear as some fifty multiplications.
        "manifold": lambda: 500.0 * num_real * num_generated,
    }
    low, high = PERMUTATIONS
    return int(min(high, max(low, PERMUTATION_BUDGET / costs[family]())))
