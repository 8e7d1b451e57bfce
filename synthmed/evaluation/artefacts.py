"""The faults that the paper names: grid patterns, eyes with two optic discs or none, the same image again and again.

Each is measured on real images too, with the same rule, because real images have some of it: what counts is more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb, exp, fsum, lgamma, log, log1p

import numpy as np
from numpy.typing import NDArray

from synthmed.data.sets.image_set import ImageSet
from synthmed.data.sets.resized import SmallImages
from synthmed.errors import DataError
from synthmed.metrics.neighbours import nearest
from synthmed.metrics.resampling import blocks_of_groups
from synthmed.metrics.spectrum import SpectrumComparison, compare_spectra, log_spectra
from synthmed.metrics.statistics import Share, count_units, share_difference, share_interval, unit_names
from synthmed.phantoms.optic_discs import WORK_SIZE, calibrate_finder

Floats = NDArray[np.float64]
Numbers = NDArray[np.int64]

EYE_DATASETS = ("airogs", "phantom-fundus")

SPECTRUM_BLOCKS = 16
LEAST_BLOCKS = 4
# A mean spectrum of so many is sure to 0.2 dB, and more take minutes at 512 px.
MAX_SPECTRA = 1000
READ_BLOCK = 32

THUMBNAIL_SIZE = 16
# Share of real images whose nearest image of another patient is within the distance that counts as near.
NEAR_QUANTILE = 0.01
COPY_FACTOR = 0.5
SIGNIFICANT = 0.001
MAX_PAIRS = 20


@dataclass(frozen=True)
class DiscCounts:
    """Images by the number of optic discs seen in them."""

    none: Share
    one: Share
    several: Share


@dataclass(frozen=True)
class DiscComparison:
    """Optic discs of generated eyes against real ones."""

    real: DiscCounts
    generated: DiscCounts
    difference_none: tuple[float, float]
    """Interval of the generated share less the real one."""
    difference_several: tuple[float, float]
    radii: tuple[float, float]
    """Of the discs, as shares of the image's width, as each half of the real images has it."""
    least_contrasts: tuple[float, float]
    """See `data.optic_discs.DiscFinder`."""

    @property
    def has_faults(self) -> bool:
        """Whether more generated than real images have no disc, or several, by more than chance."""
        return self.difference_none[0] > 0 or self.difference_several[0] > 0


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
    """Distance from an image to its nearest other one, whose it may be."""
    median_generated: float
    """Falls with the number of images, so only sets of the same size compare."""
    real: Share
    """Images with another one that is near, whose it may be."""
    generated: Share
    real_pairs: int
    """Near pairs among these, each image with its nearest only."""
    generated_pairs: int
    expected_pairs: float
    """Near pairs if generated images were as often alike as real ones."""
    p_value: float
    """That so many or more come up then."""
    real_copies: int
    """Pairs half as far apart as near ones, which chance hardly ever brings."""
    generated_copies: int
    closest: tuple[SimilarPair, ...]
    """Of the generated set, the closest first, at most MAX_PAIRS, near or not."""

    @property
    def has_duplicates(self) -> bool:
        """Whether the generated set repeats itself more than real images do."""
        return self.p_value < SIGNIFICANT or (self.generated_copies > 0 and self.real_copies == 0)


def check_grid(*, real: ImageSet, generated: ImageSet, generator: np.random.Generator) -> SpectrumComparison:
    """Return by which isolated frequencies generated images differ from real ones.

    Classes weigh the same on both sides; images of a class that the other side has not are left out.

    Args:
        real: Any real images; which ones hardly matters.
        generated: Of the same size and classes.
        generator: Draws blocks and halves of the real images.

    Raises:
        DataError: Sizes differ, no class is in both, or there are too few real images to know their scatter.
    """
    if real.size != generated.size:
        raise DataError(f"spectra of {generated.size} pixels cannot be compared with {real.size}")
    real, generated = _spread(real), _spread(generated)
    common = sorted(set(real.labels.tolist()) & set(generated.labels.tolist()))
    if not common:
        raise DataError(f"{real.name} and {generated.name} have no class in common")
    blocks = blocks_of_groups(real.groups, SPECTRUM_BLOCKS, generator)
    sums, weights = _block_spectra(real, blocks, common)
    if len(weights) < LEAST_BLOCKS:
        raise DataError(f"{len(real)} real images of {count_units(real.groups)} patients are too few for spectra")
    total, weight = _block_spectra(generated, np.zeros(len(generated), dtype=np.int64), common)
    return compare_spectra(
        real_blocks=sums,
        real_weights=weights,
        generated=total[0],
        generated_weight=float(weight[0]),
        generator=generator,
    )


def _spread(images: ImageSet) -> ImageSet:
    """Return at most MAX_SPECTRA images, from all over the set."""
    if len(images) <= MAX_SPECTRA:
        return images
    return images.subset(np.unique(np.linspace(0, len(images) - 1, MAX_SPECTRA).astype(np.int64)))


def _block_spectra(images: ImageSet, blocks: Numbers, classes: Sequence[int]) -> tuple[Floats, Floats]:
    """Return the mean log spectrum of each block [B, H, W], classes weighing the same in the set, and weights [B]."""
    counts = np.bincount(images.labels, minlength=max(classes) + 1)
    weight_of = np.zeros(len(counts))
    weight_of[list(classes)] = counts[list(classes)].sum() / (len(classes) * counts[list(classes)])
    weights = weight_of[images.labels]
    sums = np.zeros((int(blocks.max()) + 1, *images.size))
    for start in range(0, len(images), READ_BLOCK):
        numbers = range(start, min(start + READ_BLOCK, len(images)))
        spectra = log_spectra(images.load(numbers).numpy())
        for number, spectrum in zip(numbers, spectra, strict=True):
            sums[blocks[number]] += weights[number] * spectrum
    in_block: Floats = np.bincount(blocks, weights).astype(np.float64)
    kept = in_block > 0
    return sums[kept] / in_block[kept, None, None], in_block[kept]


def check_discs(*, real: ImageSet, generated: ImageSet, generator: np.random.Generator) -> DiscComparison:
    """Return how many optic discs eyes have, generated against real.

    What a disc is comes from one half of the real patients for the other half, and from each half for every second
    generated image, so that neither side is the one that the rule was made for.

    Args:
        real: Real eyes, one disc in nearly each.
        generated: Eyes; their size may differ.
        generator: Draws the halves.

    Raises:
        DataError: There are fewer than two real patients, or no generated images.
    """
    halves = blocks_of_groups(real.groups, 2, generator)
    if not len(generated) or not halves.any():
        raise DataError(f"too few eyes to count optic discs: {len(real)} real and {len(generated)} generated")
    pictures = {"real": SmallImages(real, WORK_SIZE), "generated": SmallImages(generated, WORK_SIZE)}
    sides = {"real": halves, "generated": np.arange(len(generated)) % 2}
    counts = {name: np.zeros(len(side), dtype=np.int64) for name, side in sides.items()}
    finders = []
    for half in (0, 1):
        finder = calibrate_finder(pictures["real"].load(np.flatnonzero(halves != half).tolist()))
        finders.append(finder)
        for name, side in sides.items():
            mine = np.flatnonzero(side == half)
            if len(mine):
                counts[name][mine] = finder.count(pictures[name].load(mine.tolist()))
    real_counts = _disc_counts(counts["real"], real.groups)
    made_counts = _disc_counts(counts["generated"], generated.groups)
    return DiscComparison(
        real_counts,
        made_counts,
        share_difference(made_counts.none, real_counts.none),
        share_difference(made_counts.several, real_counts.several),
        (finders[0].radius / WORK_SIZE, finders[1].radius / WORK_SIZE),
        (finders[0].least_contrast, finders[1].least_contrast),
    )


def _disc_counts(counts: Numbers, groups: Sequence[str]) -> DiscCounts:
    found = [int((counts == number).sum()) for number in (0, 1, 2)]
    return DiscCounts(*(share_interval(count, len(counts), units=count_units(groups)) for count in found))


def check_duplicates(*, real: ImageSet, generated: ImageSet) -> NearDuplicates:
    """Return whether images of a generated set repeat each other more than real images do.

    Raises:
        DataError: A set has fewer than two images, or all real ones are of one patient.
    """
    thumbnails = {"real": _thumbnails(real), "generated": _thumbnails(generated)}
    near = float(np.quantile(_nearest_of_others(thumbnails["real"], real), NEAR_QUANTILE))
    found = {name: nearest(rows, rows, 1, exclude_self=True) for name, rows in thumbnails.items()}
    distances = {name: pair[0][:, 0] for name, pair in found.items()}
    pairs = {name: _pairs(*pair) for name, pair in found.items()}
    counts = {name: sum(distance <= near for *_, distance in listed) for name, listed in pairs.items()}
    copies = {name: sum(distance <= COPY_FACTOR * near for *_, distance in listed) for name, listed in pairs.items()}
    shares = {name: share_interval(int((values <= near).sum()), len(values)) for name, values in distances.items()}
    possible = {name: comb(len(values), 2) for name, values in distances.items()}
    return NearDuplicates(
        near=near,
        median_real=float(np.median(distances["real"])),
        median_generated=float(np.median(distances["generated"])),
        real=shares["real"],
        generated=shares["generated"],
        real_pairs=counts["real"],
        generated_pairs=counts["generated"],
        expected_pairs=counts["real"] * possible["generated"] / possible["real"],
        p_value=_tail(
            counts["generated"],
            counts["generated"] + counts["real"],
            possible["generated"] / (possible["generated"] + possible["real"]),
        ),
        real_copies=copies["real"],
        generated_copies=copies["generated"],
        closest=tuple(
            SimilarPair(generated.keys[first], generated.keys[second], distance)
            for first, second, distance in pairs["generated"][:MAX_PAIRS]
        ),
    )


def _thumbnails(images: ImageSet) -> NDArray[np.float32]:
    """Return thumbnails less the mean of each channel, of length one in all: [N, 3 * THUMBNAIL_SIZE^2]."""
    small = [block.numpy() for block in SmallImages(images, THUMBNAIL_SIZE).blocks()]
    values = np.concatenate(small).astype(np.float64)
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
    # Of so many neighbours one at least is of another patient.
    distances, indices = nearest(thumbnails, thumbnails, int(sizes.max()), exclude_self=True)
    is_other = patient[indices] != patient[:, None]
    first = is_other.argmax(axis=1)
    result: Floats = np.take_along_axis(distances, first[:, None], axis=1)[:, 0]
    return result


def _pairs(distances: Floats, indices: Numbers) -> list[tuple[int, int, float]]:
    """Return each image with its nearest other one, every pair once, the closest first."""
    unique = {
        (min(number, other), max(number, other)): distance
        for number, (other, distance) in enumerate(zip(indices[:, 0].tolist(), distances[:, 0].tolist(), strict=True))
    }
    return sorted(((*pair, distance) for pair, distance in unique.items()), key=lambda pair: pair[2])


def _tail(count: int, trials: int, probability: float) -> float:
    """Return how likely `count` or more of `trials` are, each having a probability.

    Given how many near pairs the two sets have together, those of the generated one are binomial if both have them as
    often (Przyborowski and Wilenski 1940).
    """
    logs = [
        lgamma(trials + 1)
        - lgamma(number + 1)
        - lgamma(trials - number + 1)
        + number * log(probability)
        + (trials - number) * log1p(-probability)
        for number in range(count, trials + 1)
    ]
    return min(1.0, fsum(exp(value) for value in logs))
