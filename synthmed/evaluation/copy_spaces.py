"""The two spaces in which copies are sought, pixels and features, and how unusual nearness is in each.

An image's ratio is the distance to its nearest training image over the usual distance to near images of other patients:
about 1 for an honest image and 0 for a copy. By the distance alone blurred and ordinary images, which are near to
everything, would pass for copies.

Shapes: N training, H held-out and M generated images, K neighbours, D features.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from synthmed.data.sets.image_set import ImageSet
from synthmed.evaluation.lookalikes import LIST_LENGTH, Lookalikes
from synthmed.metrics.feature_arrays import Floats
from synthmed.metrics.neighbours import Numbers, nearest

LEAST_RATIO = 1e-3
"""Smaller ratios differ by rounding alone and are taken for this one."""


@dataclass(frozen=True, eq=False)
class CopyFeatures:
    """Features of the images that are compared, by one extractor; those with different units must be scaled before."""

    name: str
    """The extractor's."""
    training: NDArray[np.float32]
    """[N, D]."""
    mirrored: NDArray[np.float32] | None
    """[N, D], of the training images flipped from left to right; `None`: mirrored copies are sought in pixels alone."""
    held_out: NDArray[np.float32] | None
    """[H, D]; `None` where there are no held-out images."""
    generated: NDArray[np.float32]
    """[M, D]."""


@dataclass(frozen=True, eq=False)
class Neighbours:
    """The K training images nearest to each of a set of images, ascending, each once: [M, K] all."""

    distances: Floats
    indices: Numbers
    mirrored: NDArray[np.bool_]

    def subset(self, kept: NDArray[np.bool_]) -> Neighbours:
        return Neighbours(self.distances[kept], self.indices[kept], self.mirrored[kept])


@dataclass(frozen=True, eq=False)
class Space:
    """What was found in one space: neighbours and ratios of the held-out [H] and of the generated images [M]."""

    held_out: Neighbours
    generated: Neighbours
    held_out_ratios: Floats
    generated_ratios: Floats

    def scores(self) -> tuple[Floats, Floats]:
        """Return logarithms of the ratios on a scale where held-out images have the median 0 and a tenth is below -1.

        Ranks would not do: in each space one held-out image has rank 1, so that two of H would share the lowest score.
        """
        held_out, generated = (
            np.log(np.maximum(ratios, LEAST_RATIO)) for ratios in (self.held_out_ratios, self.generated_ratios)
        )
        low, median = np.quantile(held_out, (0.1, 0.5))
        unit = max(median - low, 1e-6)
        return (held_out - median) / unit, (generated - median) / unit


def find_in_pixels(search: Lookalikes, images: ImageSet) -> Neighbours:
    """Return the training images that resemble each image most in its pixels."""
    return Neighbours(*(part.numpy() for part in search.find(images)))


def find_in_features(features: CopyFeatures, images: NDArray[np.float32]) -> Neighbours:
    """Return the nearest training images, the nearer of each and its mirror image."""
    references, count = features.training, len(features.training)
    if features.mirrored is not None:
        references = np.concatenate([references, features.mirrored])
    # Twice as many, because each training image may be found twice: as it is and mirrored.
    distances, places = nearest(images, references, min(2 * LIST_LENGTH, len(references)))
    indices = places % count
    again = np.tril(indices[:, :, None] == indices[:, None], -1).any(axis=2)
    order = np.argsort(again, axis=1, kind="stable")[:, : min(LIST_LENGTH, count)]
    return Neighbours(
        np.take_along_axis(distances, order, axis=1),
        np.take_along_axis(indices, order, axis=1),
        np.take_along_axis(places >= count, order, axis=1),
    )


def compare(held_out: Neighbours, generated: Neighbours, units: NDArray[np.str_]) -> Space:
    """Return both sets' ratios; the usual distance counts as at least the smallest one of any held-out image.

    Where an image stands many times in the training data, all neighbours of its copy are that image, and the usual
    distance would be as small as the nearest.
    """
    least = float(held_out.distances[:, 0].min())
    return Space(held_out, generated, ratios(held_out, units, least), ratios(generated, units, least))


def ratios(found: Neighbours, units: NDArray[np.str_], least: float = 0) -> Floats:
    """Return the nearest distance over the median of other patients' images among the neighbours, `least` or more."""
    other = units[found.indices] != units[found.indices[:, :1]]
    # Where all neighbours are of one patient, the farthest stands in for other patients' images.
    other[~other.any(axis=1), -1] = True
    usual = np.nanmedian(np.where(other, found.distances, np.nan), axis=1)
    result: Floats = found.distances[:, 0] / np.maximum(usual, max(least, 1e-12))
    return result
