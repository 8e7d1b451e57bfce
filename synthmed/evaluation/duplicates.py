"""Images of a generated set that are nearly the same: the same image again and again is a fault that the paper names.

Real images are measured with the same rule, because some of them are alike too: what counts is more.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import comb

import numpy as np
from numpy.typing import NDArray

from synthmed.data.sets.image_set import ImageSet
from synthmed.errors import DataError
from synthmed.metrics.feature_arrays import Floats
from synthmed.metrics.neighbours import nearest
from synthmed.metrics.statistics import Share, share_interval, unit_names

THUMBNAIL_SIZE = 16
# Share of real images whose nearest image of another patient is within the distance that counts as near.
NEAR_QUANTILE = 0.01
COPY_FACTOR = 0.5
SIGNIFICANT = 0.001
MAX_PAIRS = 20


@dataclass(frozen=True)
class SimilarPair:
    """Two images of a set, by key."""

    first: str
    second: str
    distance: float


@dataclass(frozen=True)
class NearDuplicates:
    """Images of a generated set that are nearly the same, against real ones.

    Images are compared as thumbnails whose brightness and contrast are taken out. The distance of two is
    sqrt(2 - 2 r), r being the correlation of their pixels: 0 for equal ones, 1.4 for unlike ones.
    """

    near: float
    """Distance within which the nearest image of another patient lies for one real image in a hundred."""
    median_real: float
    """Distance from an image to its nearest other one, of whichever patient."""
    median_generated: float
    """Falls with the number of images, so that only sets of the same size can be compared."""
    real: Share
    """Images with another one that is near, of whichever patient."""
    generated: Share
    real_pairs: int
    """Near pairs among these, each image with its nearest only."""
    generated_pairs: int
    expected_pairs: float
    """Near pairs if generated images were as often alike as real ones."""
    p_value: float
    """Probability of as many near pairs or more in that case."""
    real_copies: int
    """Pairs half as far apart as near ones, which hardly ever come by chance."""
    generated_copies: int
    closest: tuple[SimilarPair, ...]
    """Of the generated set, the closest first, at most MAX_PAIRS, near or not."""

    @property
    def has_duplicates(self) -> bool:
        """Whether the generated set repeats itself more than real images do."""
        return self.p_value < SIGNIFICANT or (self.generated_copies > 0 and self.real_copies == 0)


@dataclass(frozen=True)
class _Side:
    """What is found in one set, each image with its nearest other one."""

    distances: Floats
    """[N]."""
    pairs: list[tuple[int, int, float]]
    """Each pair once, the closest first: two indices and their distance."""
    possible: int
    """Pairs of different images."""

    def num_pairs(self, limit: float) -> int:
        return sum(distance <= limit for *_, distance in self.pairs)

    def share(self, limit: float) -> Share:
        return share_interval(int((self.distances <= limit).sum()), len(self.distances))


def check_duplicates(*, real: ImageSet, generated: ImageSet) -> NearDuplicates:
    """Return whether images of a generated set repeat each other more than real images do.

    Raises:
        DataError: A set has fewer than two images, or all real ones are of one patient.
    """
    from scipy.stats import binom

    real_thumbnails = _thumbnails(real)
    near = float(np.quantile(_nearest_of_others(real_thumbnails, real), NEAR_QUANTILE))
    ours, theirs = _find_pairs(_thumbnails(generated)), _find_pairs(real_thumbnails)
    count, real_count = ours.num_pairs(near), theirs.num_pairs(near)
    # Given how many near pairs both sets have together, the number in the generated one is binomial if near pairs are
    # as common in both (Przyborowski and Wilenski 1940).
    chance = ours.possible / (ours.possible + theirs.possible)
    return NearDuplicates(
        near=near,
        median_real=float(np.median(theirs.distances)),
        median_generated=float(np.median(ours.distances)),
        real=theirs.share(near),
        generated=ours.share(near),
        real_pairs=real_count,
        generated_pairs=count,
        expected_pairs=real_count * ours.possible / theirs.possible,
        p_value=float(binom.sf(count - 1, count + real_count, chance)),
        real_copies=theirs.num_pairs(COPY_FACTOR * near),
        generated_copies=ours.num_pairs(COPY_FACTOR * near),
        closest=tuple(
            SimilarPair(generated.keys[first], generated.keys[second], distance)
            for first, second, distance in ours.pairs[:MAX_PAIRS]
        ),
    )


def _find_pairs(thumbnails: NDArray[np.float32]) -> _Side:
    distances, indices = nearest(thumbnails, thumbnails, 1, exclude_self=True)
    unique = {
        (min(index, other), max(index, other)): distance
        for index, (other, distance) in enumerate(zip(indices[:, 0].tolist(), distances[:, 0].tolist(), strict=True))
    }
    pairs = sorted(((*pair, distance) for pair, distance in unique.items()), key=lambda pair: pair[2])
    return _Side(distances[:, 0], pairs, comb(len(thumbnails), 2))


def _thumbnails(images: ImageSet) -> NDArray[np.float32]:
    """Return thumbnails less the mean of each channel, of length one in all: [N, 3 * THUMBNAIL_SIZE^2]."""
    shown = images.resized(THUMBNAIL_SIZE)
    values = shown.load(range(len(shown))).numpy().astype(np.float64)
    centred = (values - values.mean(axis=(2, 3), keepdims=True)).reshape(len(values), -1)
    # Flat images have no length; they are all alike.
    length = np.linalg.norm(centred, axis=1, keepdims=True)
    result: NDArray[np.float32] = (centred / np.maximum(length, 1e-9)).astype(np.float32)
    return result


def _nearest_of_others(thumbnails: NDArray[np.float32], images: ImageSet) -> Floats:
    """Return the distance from each image to the nearest one of another patient, [N]."""
    _, patient, sizes = np.unique(unit_names(images.groups), return_inverse=True, return_counts=True)
    if len(sizes) < 2:
        raise DataError(f"{images.name} has images of one patient only", "how alike others are cannot be known")
    # One more than a patient's other images: at least one of these neighbours is another patient's.
    distances, indices = nearest(thumbnails, thumbnails, int(sizes.max()), exclude_self=True)
    is_other = patient[indices] != patient[:, None]
    first = is_other.argmax(axis=1)
    result: Floats = np.take_along_axis(distances, first[:, None], axis=1)[:, 0]
    return result
