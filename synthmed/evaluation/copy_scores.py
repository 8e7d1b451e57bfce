"""The published scores of copying, in features, each beside what held-out real images have in place of generated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from synthmed.errors import DataError
from synthmed.evaluation.copy_spaces import CopyFeatures
from synthmed.metrics.feature_arrays import Features, Floats, Masks
from synthmed.metrics.memorisation import MIN_CELL, DataCopying, authenticity, copying_in_cells, find_centres
from synthmed.metrics.resampling import Floor, real_floor

CELL_IMAGES, MAX_CELLS = 40, 10
"""Held-out images per cell of C_T, and the largest number of cells."""


@dataclass(frozen=True)
class FeatureScores:
    """The published scores of a generated set."""

    extractor: str
    authenticity: float
    """Share of generated images that are farther from their nearest training image than that one is from its own."""
    c_t: float | None = None
    """See `metrics.memorisation.DataCopying`, as `cells`."""
    cells: tuple[float | None, ...] = ()
    real_authenticity: Floor | None = None
    """Of as many held-out images as there are generated ones, or half of them."""
    real_c_t: Floor | None = None
    """Of the same held-out images against the others: about 0, and how far from it chance takes it."""
    missing: Mapping[str, str] = field(default_factory=dict)
    """What has no value -> why."""


def score_authenticity(features: CopyFeatures) -> FeatureScores:
    """Return what can be said without held-out images."""
    share = authenticity(training=features.training, generated=features.generated)
    return FeatureScores(features.name, share)


def score_copying(
    features: CopyFeatures, kept: NDArray[np.bool_], groups: Sequence[str], generator: np.random.Generator
) -> FeatureScores:
    """Return authenticity and C_T, without mirrored images, as published.

    Args:
        features: Those of held-out images among them.
        kept: [H], held-out images that count.
        groups: [H], their patients.
        generator: Draws the first centres of the cells, and parts of the held-out images.
    """
    assert features.held_out is not None
    training, real = features.training, features.held_out[kept]
    centres = find_centres(training, min(MAX_CELLS, max(1, len(real) // CELL_IMAGES), len(training)), generator)

    def copying(held_out: Features, made: Features) -> DataCopying:
        return copying_in_cells(training=training, held_out=held_out, generated=made, centres=centres)

    def of_held_out(*, real_masks: Masks, generated_masks: Masks, **_: Features) -> dict[str, Floats]:
        parts = [(real[others], real[made]) for others, made in zip(real_masks, generated_masks, strict=True)]
        values = [copying(*part).c_t for part in parts]
        shares = [authenticity(training=training, generated=made) for _, made in parts]
        return {"c_t": np.array(values, dtype=np.float64), "authenticity": np.array(shares)}  # None becomes NaN

    found, missing = copying(real, features.generated), {}
    if found.c_t is None:
        missing["C_T"] = f"no cell of the feature space holds {MIN_CELL} generated images"
    floors: dict[str, Floor] = {}
    own = [group for group, keep in zip(groups, kept, strict=True) if keep]
    try:
        floors = real_floor(
            of_held_out, real=real, groups=own, num_generated=len(features.generated), generator=generator
        )
    except DataError as error:
        missing["authenticity and C_T of held-out images"] = str(error)
    if floors and not np.isfinite(floors["c_t"].mean):
        del floors["c_t"]
        missing["C_T of held-out images"] = f"a part of them has no cell with {MIN_CELL} images"
    return FeatureScores(
        features.name,
        authenticity(training=training, generated=features.generated),
        found.c_t,
        found.cells,
        floors.get("authenticity"),
        floors.get("c_t"),
        missing,
    )
