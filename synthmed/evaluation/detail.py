"""How much detail, brightness and contrast generated images have against real ones, as figures.

Detail is the power in each band of frequencies, which a blurred set lacks and a noisy one has too much of. Classes have
equal weight on both sides; a class that one side lacks is left out of all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from math import exp, log
from typing import Literal

import numpy as np

from synthmed.data.sets.image_set import ImageSet
from synthmed.errors import DataError
from synthmed.evaluation.notes import Notes
from synthmed.evaluation.scores import ALL
from synthmed.metrics.bands import BAND_TITLES, EDGES, band_powers, band_ratios
from synthmed.metrics.brightness import FIGURES, SIDES, brightness_scores, grey_statistics
from synthmed.metrics.feature_arrays import Features, Floats, MaskedScores, Masks
from synthmed.metrics.resampling import Floor, Interval, jackknife_intervals, real_floor
from synthmed.runtime.seeds import numpy_generator

# As for grid patterns: more of them take minutes at 512 px, and the means of these are known well enough.
MAX_IMAGES = 1000
READ_BLOCK = 32
# The whole interval of the ratio of spreads must lie this far from 1 to be called a fault, for real images differ by
# more than chance too: between the splits of fundus, chest, histology and drawn sets the ratios were 0.91 to 1.20, and
# 4 of 21 intervals were without 1, none further than at 1.05. A fault of a sampler that is worth a look, such as noise
# of a wrong size, changes the spread by half or doubles it: 64 images show a doubling.
SPREAD_MARGIN = 1.25
# With fewer, the interval of a skewed figure's deviation is too narrow: one in ten honest sets of 10 would be a fault.
LEAST_FOR_FAULT = 20
LOG = "log "
LEAST_RATIO = 1e-6
"""Less than this is nothing."""
MAX_REACH = log(1e6)
"""Of the interval of a logarithm, to each side."""
What = Literal["bands", "brightness"]
TITLES: Mapping[What, str] = {"bands": "detail by band", "brightness": "brightness"}
Compared = tuple[dict[str, Interval], dict[str, Floor]]
"""By name of a figure."""


@dataclass(frozen=True)
class Measured:
    """A set of images and what was measured on each."""

    images: ImageSet
    powers: Floats
    """[N, 1 + bands]: the class, and `band_powers`."""
    grey: Floats
    """[N, 3]: the class, and `grey_statistics`."""

    def of_classes(self, labels: list[int]) -> Measured:
        """Return the part of some classes."""
        members = np.flatnonzero(np.isin(self.images.labels, labels))
        return Measured(self.images.subset(members), self.powers[members], self.grey[members])


@dataclass(frozen=True)
class BandRow:
    """The power of a generated set in one band, against that of real images."""

    generated: str
    """Name of the set."""
    label: str
    """Name of the class, or `all`."""
    band: str
    above: float
    """Cycles per pixel."""
    up_to: float | None
    """`None` for all up to the corner."""
    num_real: int
    num_generated: int
    interval: Interval
    """Mean power of generated images over that of real ones."""
    floor: Floor
    """The same of real images over other real ones."""


@dataclass(frozen=True)
class BrightnessRow:
    """One figure of brightness of a generated set, beside that of real images; grey levels from 0 to 255."""

    generated: str
    label: str
    figure: str
    """Of `metrics.brightness.FIGURES`."""
    num_real: int
    num_generated: int
    of_real: Interval
    of_generated: Interval
    ratio: Interval
    """Generated over real."""
    floor: Floor
    """That ratio of real images over other real ones."""

    @property
    def has_fault(self) -> bool:
        """Whether brightness varies clearly more, or less, from image to image than in real ones."""
        if self.figure != "spread" or min(self.num_real, self.num_generated) < LEAST_FOR_FAULT:
            return False
        return self.ratio.low > SPREAD_MARGIN or self.ratio.high < 1 / SPREAD_MARGIN


def measure(images: ImageSet) -> Measured:
    """Return powers by band and brightness of at most MAX_IMAGES images, as many of each class as there are."""
    part = _spread(images)
    powers, grey = [], []
    for block in part.blocks(READ_BLOCK):
        powers.append(band_powers(block.numpy()))
        grey.append(grey_statistics(block.numpy()))
    labels = part.labels.astype(np.float64)
    return Measured(
        part, np.column_stack([labels, np.concatenate(powers)]), np.column_stack([labels, np.concatenate(grey)])
    )


def _spread(images: ImageSet) -> ImageSet:
    """Return images from all over the set, no class taking the place of another."""
    most = max(1, MAX_IMAGES // max(1, len(np.unique(images.labels))))
    chosen = []
    for label in np.unique(images.labels):
        members = np.flatnonzero(images.labels == label)
        steps = np.linspace(0, len(members) - 1, min(most, len(members)))
        chosen.append(members[np.unique(steps.astype(np.int64))])
    return images.subset(np.sort(np.concatenate(chosen)))


def band_rows(real: Measured, generated: Measured, seed: int, notes: Notes) -> Iterator[BandRow]:
    """Yield the power of a generated set in each band, over all classes and class by class; what fails is noted.

    Raises:
        DataError: Images differ in size, or no class is in both sets.
    """
    for label, sizes, (intervals, floors) in _comparisons("bands", real, generated, seed, notes):
        for title, above, up_to in zip(BAND_TITLES, EDGES, (*EDGES[1:], None), strict=True):
            # Parts of the real images may have nothing in a band of which all of them have little.
            if title in intervals and title in floors:
                found = intervals[title], floors[title]
                yield BandRow(generated.images.name, label, title, above, up_to, *sizes, *found)


def brightness_rows(real: Measured, generated: Measured, seed: int, notes: Notes) -> Iterator[BrightnessRow]:
    """Yield brightness, its spread and contrast of a generated set beside real images, likewise.

    Raises:
        DataError: Images differ in size, or no class is in both sets.
    """
    for label, sizes, (intervals, floors) in _comparisons("brightness", real, generated, seed, notes):
        for figure in FIGURES:
            of_real, of_generated, ratio = (intervals[f"{side} {figure}"] for side in SIDES)
            floor = floors[f"ratio {figure}"]
            yield BrightnessRow(generated.images.name, label, figure, *sizes, of_real, of_generated, ratio, floor)


def _comparisons(
    what: What, real: Measured, generated: Measured, seed: int, notes: Notes
) -> Iterator[tuple[str, tuple[int, int], Compared]]:
    """Yield label, numbers of real and generated images, intervals and floors of each part that has them."""
    for label, reference, candidate in _parts(real, generated):
        found: Compared | None = None
        with notes.noted(f"{TITLES[what]} of {generated.images.name}, {label}"):
            found = _compare(what, label, reference, candidate, seed)
        if found:
            yield label, (len(reference.images), len(candidate.images)), found
        elif label == ALL:
            return  # nor can it be had of a part of the images: that is said once


def _parts(real: Measured, generated: Measured) -> Iterator[tuple[str, Measured, Measured]]:
    """Yield the parts that are compared, each with its label: all common classes, then each."""
    if real.images.size != generated.images.size:
        raise DataError(f"detail of {generated.images.size} pixels cannot be compared with {real.images.size}")
    common = sorted(set(real.images.labels.tolist()) & set(generated.images.labels.tolist()))
    if not common:
        raise DataError(f"{real.images.name} and {generated.images.name} have no class in common")
    yield ALL, real.of_classes(common), generated.of_classes(common)
    for label in common if len(common) > 1 else ():
        yield real.images.classes[label], real.of_classes([label]), generated.of_classes([label])


def _compare(what: What, label: str, real: Measured, generated: Measured, seed: int) -> Compared:
    """Return the intervals of all figures of a part, and what real images reach against other real ones.

    Raises:
        DataError: Too few images on a side, or all of one patient.
    """
    score: MaskedScores = band_ratios if what == "bands" else brightness_scores
    values = [one.powers if what == "bands" else one.grey for one in (real, generated)]
    intervals = jackknife_intervals(
        _WithLogs(score),
        real=values[0],
        generated=values[1],
        real_groups=real.images.groups,
        generated_groups=generated.images.groups,
        generator=numpy_generator(seed, "jackknife", what, label),
    )
    floors = real_floor(
        score,
        real=values[0],
        groups=real.images.groups,
        num_generated=len(generated.images),
        generator=numpy_generator(seed, "floor", what, label),
    )
    found = {name: one for name, one in intervals.items() if not name.startswith(LOG)}
    ratios = [name for name in found if what == "bands" or name.startswith("ratio")]
    return {**found, **{name: _of_log(found[name], intervals[LOG + name]) for name in ratios}}, floors


class _WithLogs:
    """Scores, and their logarithms, in which the interval of a ratio is about symmetrical."""

    def __init__(self, score: MaskedScores) -> None:
        self.score = score

    def __call__(
        self, *, real: Features, generated: Features, real_masks: Masks, generated_masks: Masks
    ) -> Mapping[str, Floats]:
        found = self.score(real=real, generated=generated, real_masks=real_masks, generated_masks=generated_masks)
        return {**found, **{LOG + name: np.log(np.maximum(values, LEAST_RATIO)) for name, values in found.items()}}


def _of_log(plain: Interval, logarithm: Interval) -> Interval:
    """Return a ratio with the interval of its logarithm."""
    if plain.value <= LEAST_RATIO:
        return plain
    # Bounded, so that what two or three images say of a ratio stays a number.
    factor = exp(min(logarithm.high - logarithm.value, MAX_REACH))
    return replace(plain, low=plain.value / factor, high=plain.value * factor, std=plain.value * logarithm.std)
