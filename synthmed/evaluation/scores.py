"""The scores of generated sets against one real set, on one extractor's features: values, intervals, floors, tests.

Over all classes and class by class, each with the interval and the real-against-real floor of its own sizes. What is
drawn at random does not depend on the name of a set: the same images have the same scores and intervals.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from synthmed.data.sets.image_set import ImageSet
from synthmed.errors import DataError
from synthmed.evaluation.notes import Notes
from synthmed.metrics.diversity import PairSimilarity, pair_similarity
from synthmed.metrics.frechet import frechet_distances
from synthmed.metrics.kernel import NUM_SUBSETS, Kid, kid
from synthmed.metrics.resampling import Floor, Interval, Permutation, jackknife_intervals, permutation_test, real_floor
from synthmed.metrics.scores import BOUNDS, FAMILIES, FAMILY_TITLES, MINIMUM, SCORES, affordable_permutations
from synthmed.runtime.seeds import numpy_generator

ALL = "all"
CURVE_POINTS = 6
CURVE_REPEATS = 5


@dataclass(frozen=True)
class Featured:
    """A set of images with its features."""

    images: ImageSet
    features: NDArray[np.float32]
    """[N, D]."""

    def part(self, images: ImageSet) -> Featured:
        """Return a part of the set with its features."""
        row_of_key = {key: row for row, key in enumerate(self.images.keys)}
        return Featured(images, self.features[[row_of_key[key] for key in images.keys]])

    def of_class(self, label: int) -> Featured:
        """Return the part of one class."""
        members = np.flatnonzero(self.images.labels == label)
        return Featured(self.images.subset(members), self.features[members])


@dataclass(frozen=True)
class ScoreRow:
    """One score of one generated set over all classes or on one."""

    generated: str
    """Name of the set."""
    label: str
    """Name of the class, or `all`."""
    score: str
    num_real: int
    num_generated: int
    interval: Interval
    floor: Floor
    """What real images score against other real ones."""


@dataclass(frozen=True)
class KidRow:
    """The kernel distance as published: mean and standard deviation over subsets."""

    generated: str
    label: str
    kid: Kid


@dataclass(frozen=True)
class DifferenceRow:
    """Whether two generated sets differ in a score, over all classes."""

    score: str
    first: str
    second: str
    test: Permutation


@dataclass(frozen=True)
class DiversityRow:
    """MS-SSIM between pairs of images of one class of a set."""

    images: str
    label: str
    similarity: PairSimilarity


@dataclass(frozen=True)
class Curve:
    """The Fréchet distance of random parts of a generated set: mean and range over repeats."""

    generated: str
    sizes: tuple[int, ...]
    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


def score_rows(real: Featured, generated: Featured, seed: int, notes: Notes) -> Iterator[ScoreRow]:
    """Yield all scores of a generated set, over all classes and class by class; what has no value is noted."""
    families = list(FAMILIES)
    for name, reference, candidate in _parts(real, generated):
        for family in list(families):
            rows: list[ScoreRow] = []
            with notes.noted(f"{FAMILY_TITLES[family]} of {generated.images.name}, {name}"):
                rows = _family_rows(family, name, reference, candidate, seed)
            if name == ALL and not rows:
                families.remove(family)  # nor can it be had of a part of the images: that is said once
            yield from rows


def _family_rows(family: str, label: str, real: Featured, generated: Featured, seed: int) -> list[ScoreRow]:
    """Return the scores of a family over images of one label, or of all.

    Raises:
        DataError: Too few images on a side, or all of one patient.
    """
    sizes = len(real.images), len(generated.images)
    # Half of the images is the smallest part that intervals and floors are computed from.
    if min(sizes) < 2 * MINIMUM[family]:
        raise DataError(f"there are {sizes[0]} real and {sizes[1]} generated images", f"it takes {2 * MINIMUM[family]}")
    intervals = jackknife_intervals(
        FAMILIES[family],
        real=real.features,
        generated=generated.features,
        real_groups=real.images.groups,
        generated_groups=generated.images.groups,
        generator=numpy_generator(seed, "jackknife", family, label),
        bounds=BOUNDS,
    )
    floors = real_floor(
        FAMILIES[family],
        real=real.features,
        groups=real.images.groups,
        num_generated=len(generated.images),
        generator=numpy_generator(seed, "floor", family, label),
    )
    name = generated.images.name
    return [ScoreRow(name, label, score, *sizes, found, floors[score]) for score, found in intervals.items()]


def num_score_rows(images: ImageSet) -> int:
    """Return how many rows `score_rows` yields for sets of these classes where none is too small."""
    return len(SCORES) * (1 + len(images.classes) if len(images.classes) > 1 else 1)


def kid_rows(real: Featured, generated: Featured, seed: int) -> Iterator[KidRow]:
    """Yield the kernel distances over subsets, over all classes and class by class."""
    for name, reference, candidate in _parts(real, generated):
        if min(len(reference.images), len(candidate.images)) >= 4:
            generator = numpy_generator(seed, "kid-subsets", name)
            found = kid(reference.features, candidate.features, generator, num_subsets=NUM_SUBSETS)
            yield KidRow(generated.images.name, name, found)


def difference_rows(real: Featured, generated: Sequence[Featured], seed: int, notes: Notes) -> Iterator[DifferenceRow]:
    """Yield the difference of every two generated sets in every score, with its p-value; what has none is noted.

    Images are exchanged within classes, so that the test compares how images look and not how often classes occur.
    """
    for first, second in combinations(generated, 2):
        names = first.images.name, second.images.name
        for family in FAMILIES:
            tests: dict[str, Permutation] = {}
            with notes.noted(f"difference in {FAMILY_TITLES[family]} of {names[0]} and {names[1]}"):
                tests = _test(family, real, first, second, seed)
            for score, test in tests.items():
                yield DifferenceRow(score, *names, test)


def _test(family: str, real: Featured, first: Featured, second: Featured, seed: int) -> dict[str, Permutation]:
    num_generated = max(len(first.features), len(second.features))
    return permutation_test(
        FAMILIES[family],
        real=real.features,
        first=first.features,
        second=second.features,
        first_labels=first.images.labels,
        second_labels=second.images.labels,
        generator=numpy_generator(seed, "permutation", family),
        num_permutations=affordable_permutations(
            family, num_real=len(real.features), num_generated=num_generated, num_features=real.features.shape[1]
        ),
    )


def diversity_rows(images: ImageSet, seed: int, notes: Notes) -> Iterator[DiversityRow]:
    """Yield how alike the images of each class are among themselves; a class without a pair is noted."""
    for label, name in enumerate(images.classes):
        part = images.subset(np.flatnonzero(images.labels == label))
        with notes.noted(f"MS-SSIM of {images.name}, {name}"):
            similarity = pair_similarity(part.load, len(part), numpy_generator(seed, "pairs", name))
            yield DiversityRow(images.name, name, similarity)


def frechet_curve(real: Featured, generated: Featured, seed: int) -> Curve:
    """Return the Fréchet distance against the number of generated images: it falls as they grow, to a limit.

    Raises:
        DataError: Fewer than two images on a side.
    """
    if min(len(real.features), len(generated.features)) < 2:
        raise DataError(f"{generated.images.name} or {real.images.name} has fewer than two images")
    generator = numpy_generator(seed, "curve")
    count = len(generated.features)
    sizes = np.unique(np.linspace(max(2, count // CURVE_POINTS), count, CURVE_POINTS).astype(int))
    masks = np.zeros((len(sizes) * CURVE_REPEATS, count), dtype=bool)
    for row, size in enumerate(np.repeat(sizes, CURVE_REPEATS)):
        masks[row, generator.choice(count, size, replace=False)] = True
    everything = np.ones((len(masks), len(real.features)), dtype=bool)
    values = frechet_distances(real.features, generated.features, everything, masks).reshape(len(sizes), -1)
    spread = (tuple(found.tolist()) for found in (values.mean(1), values.min(1), values.max(1)))
    return Curve(generated.images.name, tuple(sizes.tolist()), *spread)


def _parts(real: Featured, generated: Featured) -> Iterator[tuple[str, Featured, Featured]]:
    yield ALL, real, generated
    if len(real.images.classes) > 1:
        for label, name in enumerate(real.images.classes):
            yield name, real.of_class(label), generated.of_class(label)
