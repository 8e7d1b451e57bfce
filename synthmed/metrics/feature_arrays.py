"""Features as the scores take them: checks, and which images of a set take part.

Shapes: N images of a set, D features, R resamples. Features are [N, D]; masks are [R, N] bool, a row saying which
images one resample keeps. A score that takes masks gives one value per row, and does once what the rows share.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from synthmed.errors import DataError

Floats = NDArray[np.float64]
Features = NDArray[np.floating]
Masks = NDArray[np.bool_]


class MaskedScores(Protocol):
    """One score or several of two sets of features, under each pair of masks."""

    def __call__(
        self, *, real: Features, generated: Features, real_masks: Masks, generated_masks: Masks
    ) -> Mapping[str, Floats]:
        """Return by name of score its values, [R], from real [N_r, D], generated [N_g, D] and masks [R, N]."""


def check_features(features: ArrayLike, name: str, *, minimum: int = 1) -> Features:
    """Return features as an array, or fail.

    Args:
        features: [N, D], finite.
        name: Whose they are, for the message.
        minimum: Smallest N.

    Raises:
        DataError: Wrong shape, too few images, or a value that is not finite.
    """
    array = np.asarray(features)
    if array.ndim != 2 or array.shape[1] == 0:
        raise DataError(f"{name} features have the shape {array.shape}", "one row an image is wanted")
    if len(array) < minimum:
        raise DataError(f"{len(array)} {name} images are too few for this score", f"it needs at least {minimum}")
    if not np.issubdtype(array.dtype, np.floating):
        array = array.astype(np.float64)
    bad = int((~np.isfinite(array)).any(axis=1).sum())
    if bad:
        raise DataError(f"{bad} of {len(array)} {name} images have features that are not finite")
    return array


def check_pair(real: ArrayLike, generated: ArrayLike, *, minimum: int = 1) -> tuple[Features, Features]:
    """Return the features of both sides as arrays, or fail: see `check_features`."""
    first = check_features(real, "real", minimum=minimum)
    second = check_features(generated, "generated", minimum=minimum)
    if first.shape[1] != second.shape[1]:
        raise DataError(
            f"real images have {first.shape[1]} features and generated ones {second.shape[1]}",
            "take both from the same extractor",
        )
    return first, second


def check_masks(masks: ArrayLike, count: int, name: str, *, minimum: int = 1) -> Masks:
    """Return masks as [R, N] bool, or fail where a row keeps fewer than `minimum` of its images."""
    array = np.atleast_2d(np.asarray(masks, dtype=bool))
    assert array.shape[1] == count, "masks of another set"
    fewest = int(array.sum(axis=1).min())
    if fewest < minimum:
        raise DataError(f"{fewest} {name} images are too few for this score", f"it needs at least {minimum}")
    return array


def keep_all(features: ArrayLike) -> Masks:
    """Return the one mask that keeps every image: [1, N]."""
    return np.ones((1, len(np.asarray(features))), dtype=bool)
