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
from synthmed.evaluation.copy_scores import FeatureScores, score_authenticity, score_copying
from synthmed.evaluation.copy_spaces import (
    CopyFeatures,
    Neighbours,
    Space,
    compare,
    find_in_features,
    find_in_pixels,
    ratios,
)
from synthmed.evaluation.lookalikes import Lookalikes
from synthmed.metrics.feature_arrays import Floats
from synthmed.metrics.memorisation import conformal_ranks, copying_z, count_p_value
from synthmed.metrics.statistics import unit_names

FALSE_ALARM_RATE = 0.01
MIN_HELD_OUT = 20
"""With fewer held-out images a rate of one false alarm in twenty could not be set."""
SAME_IMAGE = 1e-3
"""Pixel distance up to which a held-out image is a training image."""
NUM_CLOSEST = 8


@dataclass(frozen=True)
class Match:
    """The training image nearest to an image, in one space."""

    key: str
    mirrored: bool
    distance: float
    ratio: float
    """Distance over the median distance of other patients' images among the nearest: about 1, and 0 for a copy."""
    p: float | None
    """Share of held-out images whose ratio is as small or smaller, the image itself counted as one of them; `None`
    where there are too few of those."""


@dataclass(frozen=True)
class CopyRow:
    """What was found for one image."""

    key: str
    pixels: Match
    features: Match | None
    p: float | None
    """Of both spaces together."""
    suspect: bool | None

    @property
    def closest(self) -> Match:
        """The match in the space with the smaller p-value; where there is none, with the smaller ratio."""

        def order(match: Match) -> float:
            return match.ratio if match.p is None else match.p

        return self.features if self.features and order(self.features) < order(self.pixels) else self.pixels


@dataclass(frozen=True)
class CopyReport:
    """Whether generated images are copies of training images. Its keys name real patients' images.

    What ranks images among held-out ones is `None` where there are not enough of those: `unranked` says why.
    """

    rows: tuple[CopyRow, ...]
    """One per generated image, in their order."""
    features: FeatureScores | None
    """`None` where pixels alone were compared."""
    unranked: str | None = None
    """Why it is not known how near is too near."""
    closest_held_out: tuple[CopyRow, ...] = ()
    """The held-out images nearest to training: look at them, for they set the bar. p is their own rank."""
    count: int | None = None
    """Suspects."""
    expected: float | None = None
    """Suspects to expect among as many honest images."""
    p_value: float | None = None
    """Probability of as many or more suspects if the generated images were held-out ones."""
    false_alarm_rate: float | None = None
    """As used: the largest multiple of 1 / (num_held_out + 1) up to the rate asked for, and at least one of them."""
    num_held_out: int = 0
    left_out: tuple[str, ...] = ()
    """Held-out images that are training images: a fault of the data."""
    pixel_z: float | None = None
    """Z_U of the pixel distances: far below 0 for copies; blurred images are nearer to all, too."""


def find_copies(
    *,
    training: ImageSet,
    held_out: ImageSet | None,
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
        held_out: Real images of other patients, which it has not seen: validation or test. Without 20 of them, the
            nearest images are found and nothing is said of how near is too near.
        generated: What it made.
        features: Of the same images in the same order; `None` searches pixels alone.
        false_alarm_rate: Share of honest images that may be suspected.
        generator: Draws the first centres of the cells of C_T.
        device: Where pixels are compared.

    Raises:
        DataError: Fewer than two training images, or features or sizes that do not fit.
    """
    _check(training, held_out, generated, features)
    search = Lookalikes(training, device)
    made = [find_in_pixels(search, generated)]
    if features:
        made.append(find_in_features(features, features.generated))
    units = np.array(unit_names(training.groups))
    try:
        held, kept = _search_held_out(search, training, held_out, features)
    except DataError as error:
        rows = _nearest_alone(made, units, training.keys, generated.keys)
        return CopyReport(rows, score_authenticity(features) if features else None, unranked=str(error))
    spaces = [compare(near.subset(kept), found, units) for near, found in zip(held, made, strict=True)]
    assert held_out is not None
    scores = score_copying(features, kept, held_out.groups, generator) if features else None
    return _report(spaces, kept, training.keys, held_out.keys, generated.keys, false_alarm_rate, scores)


def _check(training: ImageSet, held_out: ImageSet | None, generated: ImageSet, features: CopyFeatures | None) -> None:
    if len(training) < 2 or not len(generated):
        raise DataError(f"no copies can be sought in {len(training)} training and {len(generated)} generated images")
    images = [training, generated] if held_out is None else [training, held_out, generated]
    if len({part.size for part in images}) > 1:
        sizes = " ".join("{}x{}".format(*part.size) for part in images)
        raise DataError(f"training, held-out and generated images have other sizes: {sizes}", "load them at one size")
    if features:
        expected = [len(training), len(training), 0 if held_out is None else len(held_out), len(generated)]
        mirrored = features.training if features.mirrored is None else features.mirrored
        parts = (features.training, mirrored, features.held_out, features.generated)
        given = [0 if part is None else len(part) for part in parts]
        if given != expected:
            raise DataError(f"there are {given} rows of {features.name} features for {expected} images")


def _search_held_out(
    search: Lookalikes, training: ImageSet, held_out: ImageSet | None, features: CopyFeatures | None
) -> tuple[list[Neighbours], NDArray[np.bool_]]:
    """Return what is found for held-out images in each space, pixels first, and which are no training images, [H].

    Raises:
        DataError: They cannot tell what is too near, and why.
    """
    if held_out is None:
        raise DataError("there are no held-out images", "name them with --held-out")
    if len(held_out) < MIN_HELD_OUT:
        raise DataError(
            f"{len(held_out)} held-out images cannot tell what is too near", f"at least {MIN_HELD_OUT}, better 200"
        )
    if shared := set(training.groups) & set(held_out.groups) - {""}:
        raise DataError(
            f"{len(shared)} held-out patients are in the training images too, e.g. {min(shared)}", "hold out others"
        )
    found = [find_in_pixels(search, held_out)]
    kept = found[0].distances[:, 0] > SAME_IMAGE
    if kept.sum() < MIN_HELD_OUT:
        raise DataError(f"{(~kept).sum()} of {len(kept)} held-out images are training images", "bring others")
    if features and features.held_out is not None:
        found.append(find_in_features(features, features.held_out))
    return found, kept


def _nearest_alone(
    made: Sequence[Neighbours], units: NDArray[np.str_], training_keys: Sequence[str], generated_keys: Sequence[str]
) -> tuple[CopyRow, ...]:
    """Return rows that say what is nearest, and not how unusual that is."""
    matches = [_matches(training_keys, found, ratios(found, units), None) for found in made]
    features = matches[1] if len(matches) > 1 else [None] * len(generated_keys)
    pairs = zip(generated_keys, matches[0], features, strict=True)
    return tuple(CopyRow(key, pixels, other, p=None, suspect=None) for key, pixels, other in pairs)


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


def _matches(keys: Sequence[str], found: Neighbours, its_ratios: Floats, held_out: Floats | None) -> list[Match]:
    """Return the nearest training image of each image, with p-values among the ratios of held-out images, if any.

    Those of the held-out images themselves come out a little high: each counts itself once more.
    """
    p_values: list[float | None] = [None] * len(its_ratios)
    if held_out is not None:
        p_values = (conformal_ranks(its_ratios, held_out) / (len(held_out) + 1)).tolist()
    columns = (found.indices[:, 0], found.mirrored[:, 0], found.distances[:, 0], its_ratios)
    rows = zip(*(column.tolist() for column in columns), p_values, strict=True)
    return [Match(keys[index], mirrored, distance, ratio, p) for index, mirrored, distance, ratio, p in rows]
