"""Whether a model copies its training images: the nearest one of each generated image, against held-out real images.

Real images of other patients tell how near is too near: an image is ranked among them, so that a stated share of honest
images is suspected, whatever the data. Two spaces are searched, pixels and features (`copy_spaces`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from synthmed.data.sets.image_set import ImageSet
from synthmed.errors import DataError
from synthmed.evaluation.copy_spaces import CopyFeatures, Neighbours, Space, compare, find_in_features, find_in_pixels
from synthmed.evaluation.lookalikes import Lookalikes
from synthmed.metrics.feature_arrays import Floats
from synthmed.metrics.memorisation import authenticity, conformal_ranks, copying_z, count_p_value, data_copying
from synthmed.metrics.statistics import unit_names

FALSE_ALARM_RATE = 0.01
MIN_HELD_OUT = 20
"""With fewer held-out images a rate of one false alarm in twenty could not be set."""
SAME_IMAGE = 1e-3
"""Pixel distance up to which a held-out image is a training image."""
NUM_CLOSEST = 8
CELL_IMAGES, MAX_CELLS = 40, 10
"""Held-out images per cell of C_T, and the largest number of cells."""


@dataclass(frozen=True)
class Match:
    """The training image nearest to an image, in one space."""

    key: str
    mirrored: bool
    distance: float
    ratio: float
    """Distance over the median distance of other patients' images among the nearest: about 1, and 0 for a copy."""
    p: float
    """Share of held-out images whose ratio is as small or smaller, the image itself counted as one of them."""


@dataclass(frozen=True)
class CopyRow:
    """What was found for one image."""

    key: str
    pixels: Match
    features: Match | None
    p: float
    """Of both spaces together."""
    suspect: bool

    @property
    def closest(self) -> Match:
        """The match in the space with the smaller p-value."""
        return self.features if self.features and self.features.p < self.pixels.p else self.pixels


@dataclass(frozen=True)
class FeatureScores:
    """The published scores, in features."""

    extractor: str
    authenticity: float
    """Share of generated images that are farther from their nearest training image than that one is from its own."""
    c_t: float | None
    """See `metrics.memorisation.DataCopying`, as `cells`."""
    cells: tuple[float | None, ...]


@dataclass(frozen=True)
class CopyReport:
    """Whether generated images are copies of training images. Its keys name real patients' images."""

    rows: tuple[CopyRow, ...]
    """One per generated image, in their order."""
    closest_held_out: tuple[CopyRow, ...]
    """The held-out images nearest to training: look at them, for they set the bar. p is their own rank."""
    count: int
    """Suspects."""
    expected: float
    """Suspects to expect among as many honest images."""
    p_value: float
    """Probability of as many or more suspects if the generated images were held-out ones."""
    false_alarm_rate: float
    """As used: the largest multiple of 1 / (num_held_out + 1) up to the rate asked for, and at least one of them."""
    num_held_out: int
    left_out: tuple[str, ...]
    """Held-out images that are training images: a fault of the data."""
    pixel_z: float
    """Z_U of the pixel distances: far below 0 for copies; blurred images are nearer to all, too."""
    features: FeatureScores | None
    """`None` where pixels alone were compared."""


def find_copies(
    *,
    training: ImageSet,
    held_out: ImageSet,
    generated: ImageSet,
    features: CopyFeatures | None = None,
    false_alarm_rate: float = FALSE_ALARM_RATE,
    generator: np.random.Generator,
    device: torch.device,
) -> CopyReport:
    """Return the nearest training image of each generated one, and which are suspiciously near.

    The scores of both spaces are brought to one scale, that of the held-out images, and the lower one counts. Its rank
    among the held-out images is the p-value, so that two spaces need no more held-out images than one.

    Args:
        training: The images that the model was trained on.
        held_out: Real images of other patients, which it has not seen: validation or test.
        generated: What it made.
        features: Of the same images in the same order; `None` searches pixels alone.
        false_alarm_rate: Share of honest images that may be suspected.
        generator: Draws the first centres of the cells of C_T.
        device: Where pixels are compared.

    Raises:
        DataError: Fewer than 20 held-out or two training images, a patient in both, or features that do not fit.
    """
    _check(training, held_out, generated, features)
    spaces, kept = _search(training, held_out, generated, features, device)
    scores = _feature_scores(features, kept, generator) if features else None
    return _report(spaces, kept, training.keys, held_out.keys, generated.keys, false_alarm_rate, scores)


def _check(training: ImageSet, held_out: ImageSet, generated: ImageSet, features: CopyFeatures | None) -> None:
    if len(training) < 2 or not len(generated):
        raise DataError(f"no copies can be sought in {len(training)} training and {len(generated)} generated images")
    if len(held_out) < MIN_HELD_OUT:
        raise DataError(
            f"{len(held_out)} held-out images cannot tell what is too near", f"at least {MIN_HELD_OUT}, better 200"
        )
    if shared := set(training.groups) & set(held_out.groups) - {""}:
        raise DataError(
            f"{len(shared)} held-out patients are in the training images too, e.g. {min(shared)}", "hold out others"
        )
    if not training.size == held_out.size == generated.size:
        sizes = " ".join("{}x{}".format(*images.size) for images in (training, held_out, generated))
        raise DataError(f"training, held-out and generated images have other sizes: {sizes}", "load them at one size")
    if features:
        expected = [len(training), len(training), len(held_out), len(generated)]
        mirrored = features.training if features.mirrored is None else features.mirrored
        given = [len(part) for part in (features.training, mirrored, features.held_out, features.generated)]
        if given != expected:
            raise DataError(f"there are {given} rows of {features.name} features for {expected} images")


def _search(
    training: ImageSet, held_out: ImageSet, generated: ImageSet, features: CopyFeatures | None, device: torch.device
) -> tuple[list[Space], NDArray[np.bool_]]:
    """Return what is found in each space, pixels first, and which held-out images are no training images, [H]."""
    search = Lookalikes(training, device)
    found = [tuple(find_in_pixels(search, images) for images in (held_out, generated))]
    kept = found[0][0].distances[:, 0] > SAME_IMAGE
    if kept.sum() < MIN_HELD_OUT:
        raise DataError(f"{(~kept).sum()} of {len(kept)} held-out images are training images", "bring others")
    if features:
        found.append(tuple(find_in_features(features, images) for images in (features.held_out, features.generated)))
    units = np.array(unit_names(training.groups))
    return [compare(held.subset(kept), made, units) for held, made in found], kept


def _report(
    spaces: Sequence[Space],
    kept: NDArray[np.bool_],
    training_keys: Sequence[str],
    held_out_keys: Sequence[str],
    generated_keys: Sequence[str],
    false_alarm_rate: float,
    feature_scores: FeatureScores | None,
) -> CopyReport:
    made, held = [], []
    for space in spaces:
        made.append(_matches(training_keys, space.generated, space.generated_ratios, space.held_out_ratios))
        held.append(_matches(training_keys, space.held_out, space.held_out_ratios, space.held_out_ratios))
    kept_keys = [key for key, keep in zip(held_out_keys, kept, strict=True) if keep]
    size, pixels = len(kept_keys), spaces[0]
    # An image stands among the held-out ones by the lower of its scores in all spaces, the nearest to training first.
    held_scores, scores = (np.min(both, axis=0) for both in zip(*(space.scores() for space in spaces), strict=True))
    # Of a held-out image among all of them, itself included.
    held_ranks, ranks = conformal_ranks(held_scores, held_scores) - 1, conformal_ranks(scores, held_scores)
    # The rank up to which an image is a suspect; a rate such as 0.01 times 100 may come out as 0.9999...
    limit = max(1, int(false_alarm_rate * (size + 1) + 1e-9))
    count = int((ranks <= limit).sum())
    return CopyReport(
        rows=tuple(_row(generated_keys, made, k, rank, size + 1, limit) for k, rank in enumerate(ranks)),
        closest_held_out=tuple(
            _row(kept_keys, held, k, held_ranks[k], size, limit)
            for k in np.argsort(held_scores, kind="stable")[:NUM_CLOSEST]
        ),
        count=count,
        expected=len(generated_keys) * limit / (size + 1),
        p_value=count_p_value(count, num_generated=len(generated_keys), num_held_out=size, rank=limit),
        false_alarm_rate=limit / (size + 1),
        num_held_out=size,
        left_out=tuple(key for key, keep in zip(held_out_keys, kept, strict=True) if not keep),
        pixel_z=copying_z(held_out=pixels.held_out.distances[:, 0], generated=pixels.generated.distances[:, 0]),
        features=feature_scores,
    )


def _row(
    keys: Sequence[str], matches: Sequence[Sequence[Match]], index: int, rank: np.int64, of: int, limit: int
) -> CopyRow:
    """Return the row of one image, whose rank is that among `of` images."""
    features = matches[1][index] if len(matches) > 1 else None
    return CopyRow(keys[index], matches[0][index], features, p=float(rank / of), suspect=bool(rank <= limit))


def _matches(keys: Sequence[str], found: Neighbours, ratios: Floats, held_out: Floats) -> list[Match]:
    """Return the nearest training image of each image, with p-values among the ratios of the held-out images.

    Those of the held-out images themselves come out a little high: each counts itself once more.
    """
    p_values = conformal_ranks(ratios, held_out) / (len(held_out) + 1)
    columns = (found.indices[:, 0], found.mirrored[:, 0], found.distances[:, 0], ratios, p_values)
    rows = zip(*(column.tolist() for column in columns), strict=True)
    return [Match(keys[index], mirrored, distance, ratio, p) for index, mirrored, distance, ratio, p in rows]


def _feature_scores(features: CopyFeatures, kept: NDArray[np.bool_], generator: np.random.Generator) -> FeatureScores:
    """Return authenticity and C_T, without mirrored images, as published."""
    copying = data_copying(
        training=features.training,
        held_out=features.held_out[kept],
        generated=features.generated,
        num_cells=min(MAX_CELLS, max(1, int(kept.sum()) // CELL_IMAGES), len(features.training)),
        generator=generator,
    )
    share = authenticity(training=features.training, generated=features.generated)
    return FeatureScores(features.name, share, copying.c_t, copying.cells)
