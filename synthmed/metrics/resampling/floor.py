"""What a score says of real images against other real images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from synthmed.errors import DataError
from synthmed.metrics.feature_arrays import Features, MaskedScores
from synthmed.metrics.statistics import summarise, unit_names

NUM_SPLITS = 10


@dataclass(frozen=True)
class Floor:
    """What a score says of real images against other real images."""

    mean: float
    std: float | None
    """Between splits, which share images: not a standard error; `None` for a single split."""
    num_splits: int
    num_real: int
    """Images of the larger part, which stands for the real ones; the mean over splits, rounded."""
    num_generated: int
    """Images of the part that stands for the generated ones, likewise."""


def real_floor(
    score: MaskedScores,
    *,
    real: Features,
    groups: Sequence[str],
    num_generated: int,
    generator: np.random.Generator,
    num_splits: int = NUM_SPLITS,
) -> dict[str, Floor]:
    """Return the scores of real images against other real images, patients apart.

    Each split draws patients at random until their images are as many as the generated ones, or half of the real ones
    if there are not that many; the rest stands for the real images. So the parts are never larger than the sets that
    the floor is for; where they are smaller, FID's floor comes out too high, not too low.

    Args:
        score: Of masks, for any number of names.
        real: [N_r, D].
        groups: [N_r], the patient of each image; "" for an image by itself.
        num_generated: Images of the set that the floor is for.
        generator: Draws the splits.
        num_splits: How many.

    Raises:
        DataError: All images belong to one patient.
    """
    wanted = min(num_generated, len(real) // 2)
    parts = np.stack([_draw_part(groups, wanted, generator) for _ in range(num_splits)])
    values = score(real=real, generated=real, real_masks=~parts, generated_masks=parts)
    num_real, num_drawn = (round(float(masks.sum(axis=1).mean())) for masks in (~parts, parts))
    spreads = {name: summarise(array) for name, array in values.items()}
    return {name: Floor(found.mean, found.std, num_splits, num_real, num_drawn) for name, found in spreads.items()}


def _draw_part(groups: Sequence[str], wanted: int, generator: np.random.Generator) -> NDArray[np.bool_]:
    """Return which images belong to random patients: [N]; about `wanted` of them, and one patient or more is left."""
    _, membership, sizes = np.unique(unit_names(groups), return_inverse=True, return_counts=True)
    if len(sizes) < 2:
        raise DataError("all real images belong to one patient", "a floor needs at least two patients")
    order = generator.permutation(len(sizes))
    reached = np.cumsum(sizes[order])
    # As many patients as come nearest to the images wanted.
    count = int(np.argmin(np.abs(reached[:-1] - wanted))) + 1
    drawn = np.zeros(len(sizes), dtype=bool)
    drawn[order[:count]] = True
    result: NDArray[np.bool_] = drawn[membership]
    return result
