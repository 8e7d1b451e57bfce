"""Faults that the paper names: grid patterns, and eyes with two optic discs or none.

Each is measured on real images too, with the same rule, because real images have some of it: what counts is more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from synthmed.data.sets.image_set import ImageSet
from synthmed.errors import DataError
from synthmed.metrics.feature_arrays import Floats
from synthmed.metrics.neighbours import Numbers
from synthmed.metrics.resampling import blocks_of_groups
from synthmed.metrics.spectrum import SpectrumComparison, compare_spectra, log_spectra
from synthmed.metrics.statistics import Share, count_units, share_difference, share_interval
from synthmed.phantoms.optic_discs import WORK_SIZE, calibrate_finder

EYE_DATASETS = ("airogs", "phantom-fundus")

SPECTRUM_BLOCKS = 16
LEAST_BLOCKS = 4
# The mean spectrum of this many images is known to 0.2 dB, and more take minutes at 512 px.
MAX_SPECTRA = 1000
READ_BLOCK = 32


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
    """See `phantoms.optic_discs.DiscFinder`."""

    @property
    def has_faults(self) -> bool:
        """Whether more images than in the real set have no disc, or several, beyond chance."""
        return self.difference_none[0] > 0 or self.difference_several[0] > 0


def check_grid(*, real: ImageSet, generated: ImageSet, generator: np.random.Generator) -> SpectrumComparison:
    """Return by which isolated frequencies generated images differ from real ones.

    Classes have equal weight on both sides; images of a class that the other side lacks are left out.

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
    """Return the mean log spectrum of each block [B, H, W], classes having equal weight, and weights [B]."""
    counts = np.bincount(images.labels, minlength=max(classes) + 1)
    weight_of = np.zeros(len(counts))
    weight_of[list(classes)] = counts[list(classes)].sum() / (len(classes) * counts[list(classes)])
    weights = weight_of[images.labels]
    sums = np.zeros((int(blocks.max()) + 1, *images.size))
    spectra = (spectrum for part in images.blocks(READ_BLOCK) for spectrum in log_spectra(part.numpy()))
    for block, weight, spectrum in zip(blocks, weights, spectra, strict=True):
        sums[block] += weight * spectrum
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
    pictures = {"real": real.resized(WORK_SIZE), "generated": generated.resized(WORK_SIZE)}
    sides = {"real": halves, "generated": np.arange(len(generated)) % 2}
    counts = {name: np.zeros(len(side), dtype=np.int64) for name, side in sides.items()}
    finders = []
    for half in (0, 1):
        finder = calibrate_finder(pictures["real"].load(np.flatnonzero(halves != half)))
        finders.append(finder)
        for name, side in sides.items():
            mine = np.flatnonzero(side == half)
            if len(mine):
                counts[name][mine] = finder.count(pictures[name].load(mine))
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
    found = [int((counts == discs).sum()) for discs in (0, 1, 2)]
    return DiscCounts(*(share_interval(count, len(counts), units=count_units(groups)) for count in found))
