"""Whether a model copies its training images: the nearest one of each generated image, against held-out real images.

How near is too near is told by real images of other patients: nearness is ranked among theirs, so that a stated share
of honest images is suspected, whatever the data. Two spaces are searched, pixels and features (`copy_spaces`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from synthmed.data.images import ImageArray
from synthmed.data.pixels import to_rgb_arrays
from synthmed.data.sets.image_set import ImageSet
from synthmed.data.sheets import contact_sheet
from synthmed.errors import DataError
from synthmed.evaluation.copy_spaces import CopyFeatures, Neighbours, compare, find_in_features, find_in_pixels
from synthmed.evaluation.lookalikes import Lookalikes
from synthmed.metrics.memorisation import authenticity, conformal_ranks, copying_z, count_p_value, data_copying
from synthmed.metrics.statistics import unit_names

Floats = NDArray[np.float64]

FALSE_ALARM_RATE = 0.01
MIN_HELD_OUT = 20
"""Fewer held-out images could not tell one false alarm in twenty."""
SAME_IMAGE = 1e-3
"""Pixel distance up to which a held-out image is a training image."""
NUM_CLOSEST = 8
CELL_IMAGES, MAX_CELLS = 40, 10
"""Held-out images for each cell of C_T, and the most cells."""
AMPLIFIED = 4


@dataclass(frozen=True)
class Match:
    """The training image nearest to an image, in one space."""

    key: str
    mirrored: bool
    distance: float
    ratio: float
    """To the median distance of other patients' images among the nearest: about 1 for an honest image, 0 for a copy."""
    p: float
    """Share of held-out images whose ratio is as small, the image itself counted in."""


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
        """The match of the space that speaks louder."""
        return self.features if self.features and self.features.p < self.pixels.p else self.pixels


@dataclass(frozen=True)
class FeatureScores:
    """The published scores, in features."""

    extractor: str
    authenticity: float
    """Share of the generated images that are farther from the nearest training image than that is from the next."""
    c_t: float | None
    """See `metrics.memorisation.DataCopying`, as `cells`."""
    cells: tuple[float | None, ...]


@dataclass(frozen=True)
class CopyReport:
    """Whether generated images are copies of training images. Its keys name real patients' images."""

    rows: tuple[CopyRow, ...]
    """One a generated image, in their order."""
    closest_held_out: tuple[CopyRow, ...]
    """The held-out images nearest to training: look at them, for they set the bar. p is their own rank."""
    count: int
    """Suspects."""
    expected: float
    """Suspects among as many held-out images."""
    p_value: float
    """Probability of as many or more suspects if the generated images were held-out ones."""
    false_alarm_rate: float
    """As used: the largest up to the one asked for that `num_held_out` can tell, at least 1 / (num_held_out + 1)."""
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

    The spaces' scores are brought to one scale, that of the held-out images, and the lower one counts; its rank among
    the held-out ones is the p-value, so that two spaces need no more held-out images than one.

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
    search = Lookalikes(training, device)
    found = [tuple(find_in_pixels(search, images) for images in (held_out, generated))]
    kept = found[0][0].distances[:, 0] > SAME_IMAGE
    num_held_out = int(kept.sum())
    if num_held_out < MIN_HELD_OUT:
        raise DataError(
            f"{len(kept) - num_held_out} of {len(kept)} held-out images are training images", "bring others"
        )
    if features:
        found.append(tuple(find_in_features(features, images) for images in (features.held_out, features.generated)))
    units = np.array(unit_names(training.groups))
    spaces = [compare(held.subset(kept), made, units) for held, made in found]
    held_scores, scores = (np.min(both, axis=0) for both in zip(*(space.scores() for space in spaces), strict=True))
    rank = max(1, int(false_alarm_rate * (num_held_out + 1) + 1e-9))
    ranks, held_ranks = conformal_ranks(scores, held_scores), conformal_ranks(held_scores, held_scores) - 1
    rows = _rows(
        generated.keys,
        training.keys,
        [(s.generated, s.generated_ratios, _p_values(s.generated_ratios, s.held_out_ratios)) for s in spaces],
        ranks / (num_held_out + 1),
        ranks <= rank,
    )
    held_rows = _rows(
        [key for key, keep in zip(held_out.keys, kept, strict=True) if keep],
        training.keys,
        [(s.held_out, s.held_out_ratios, _p_values(s.held_out_ratios, s.held_out_ratios)) for s in spaces],
        held_ranks / num_held_out,
        held_ranks <= rank,
    )
    count = int((ranks <= rank).sum())
    pixels = spaces[0]
    return CopyReport(
        rows=rows,
        closest_held_out=tuple(held_rows[number] for number in np.argsort(held_scores, kind="stable")[:NUM_CLOSEST]),
        count=count,
        expected=len(generated) * rank / (num_held_out + 1),
        p_value=count_p_value(count, num_generated=len(generated), num_held_out=num_held_out, rank=rank),
        false_alarm_rate=rank / (num_held_out + 1),
        num_held_out=num_held_out,
        left_out=tuple(key for key, keep in zip(held_out.keys, kept, strict=True) if not keep),
        pixel_z=copying_z(held_out=pixels.held_out.distances[:, 0], generated=pixels.generated.distances[:, 0]),
        features=_feature_scores(features, kept, generator) if features else None,
    )


def draw_pairs(report: CopyReport, *, training: ImageSet, generated: ImageSet, pairs: int = 12) -> ImageArray:
    """Return a sheet of the generated images nearest to training images, to be saved only where patients may be shown.

    A row holds the generated image, its nearest training image (mirrored where that fits), and four times their
    difference. The second column is REAL PATIENTS: such a sheet must not go where the training images may not.

    Args:
        report: Of these sets.
        training: Of one image size with the generated images.
        generated: The images of the report's rows.
        pairs: Rows at most.
    """
    places = {key: number for number, key in enumerate(training.keys)}
    chosen = sorted(
        range(len(report.rows)), key=lambda number: (report.rows[number].p, report.rows[number].closest.ratio)
    )
    chosen = chosen[:pairs]
    matches = [report.rows[number].closest for number in chosen]
    made = to_rgb_arrays(generated.load(chosen))
    real = to_rgb_arrays(training.load([places[match.key] for match in matches]))
    tiles = []
    for image, other, match in zip(made, real, matches, strict=True):
        shown = other[:, ::-1] if match.mirrored else other
        difference = np.abs(image.astype(np.int64) - shown) * AMPLIFIED
        tiles += [image, shown, np.minimum(difference, 255).astype(np.uint8)]
    # No keys: they are long, and those of real images are no matter for a picture.
    titles = [f"p {report.rows[number].p:.3g}{' suspect' * report.rows[number].suspect}" for number in chosen]
    return contact_sheet(np.stack(tiles), 3, row_titles=titles)


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


def _p_values(ratios: Floats, held_out: Floats) -> Floats:
    """Return conformal p-values; those of the held-out images themselves, which count themselves once more."""
    return conformal_ranks(ratios, held_out) / (len(held_out) + 1)


def _rows(
    keys: Sequence[str],
    training_keys: Sequence[str],
    spaces: Sequence[tuple[Neighbours, Floats, Floats]],
    p_values: Floats,
    suspects: NDArray[np.bool_],
) -> tuple[CopyRow, ...]:
    """Return rows of neighbours, ratios and p-values in each space."""

    def match(number: int, found: Neighbours, ratios: Floats, its_p_values: Floats) -> Match:
        return Match(
            key=training_keys[int(found.indices[number, 0])],
            mirrored=bool(found.mirrored[number, 0]),
            distance=float(found.distances[number, 0]),
            ratio=float(ratios[number]),
            p=float(its_p_values[number]),
        )

    return tuple(
        CopyRow(
            key=key,
            pixels=match(number, *spaces[0]),
            features=match(number, *spaces[1]) if len(spaces) > 1 else None,
            p=float(p_values[number]),
            suspect=bool(suspects[number]),
        )
        for number, key in enumerate(keys)
    )


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
