"""How sure a score is: intervals, the floor of real against real, and tests between two generators.

For any score of two sets of images, given as a function of masks (see `MaskedScores`). Shapes as in `feature_arrays`.

Why no bootstrap: an image drawn twice is its own neighbour at distance 0 and lends its covariance nothing new, so
resamples with replacement look less diverse than the set they come from; Fréchet distances come out too large and
scores of neighbours altogether wrong. The three schemes here draw without replacement:

- `jackknife_intervals` leaves out one block of patients at a time. The variance that it finds is on average never less
  than the true one, for any score of independent units (Efron and Stein 1981, theorem 2), and hardly more for smooth
  ones. What the interval is for is the score expected of sets of *these sizes*: FID and its like depend on size, so
  compare equal sizes, and with the floor.
- `real_floor` scores disjoint parts of the real images against each other: what a perfect generator would reach.
- `permutation_test` exchanges the images of two generators.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from synthmed.errors import DataError
from synthmed.metrics.feature_arrays import Features, Floats, Masks, keep_all
from synthmed.metrics.statistics import unit_names

LEVEL = 0.95
NUM_BLOCKS = 20
NUM_SPLITS = 10


class MaskedScores(Protocol):
    """One score or several of two sets of features, under each pair of masks."""

    def __call__(
        self, *, real: Features, generated: Features, real_masks: Masks, generated_masks: Masks
    ) -> Mapping[str, Floats]:
        """Return by name of score its values, [R], from real [N_r, D], generated [N_g, D] and masks [R, N]."""


@dataclass(frozen=True)
class Interval:
    """A score with a confidence interval for its expectation at these sizes."""

    value: float
    low: float
    high: float
    std: float
    """Standard error."""
    level: float
    num_real_blocks: int
    num_generated_blocks: int


@dataclass(frozen=True)
class Floor:
    """What a score says of real images against other real images."""

    mean: float
    std: float | None
    """Between splits, which share images: not a standard error; `None` for a single split."""
    num_splits: int
    num_real: int
    """Images of the larger part, which stands for the real ones; the mean over splits, rounded."""
    num_generated: int
    """Images of the part that stands for the generated ones, likewise."""


@dataclass(frozen=True)
class Permutation:
    """Whether two generators differ in a score against the same real images."""

    difference: float
    """Score of the first less that of the second."""
    p_value: float
    num_permutations: int


def of_function(name: str, score: Callable[[Features, Features], float]) -> MaskedScores:
    """Return a score of masks that calls a plain function of (real, generated) for every row."""

    def masked(*, real: Features, generated: Features, real_masks: Masks, generated_masks: Masks) -> dict[str, Floats]:
        rows = zip(real_masks, generated_masks, strict=True)
        return {name: np.array([score(real[kept], generated[others]) for kept, others in rows])}

    return masked


def blocks_of_groups(groups: Sequence[str], num_blocks: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """Return the block of each image: [N], from 0; blocks hold whole groups and are about equal in images.

    Groups are handed out by size, the largest first, in random order among equals, each to the block that has fewest
    images. An empty name is an image that belongs to no group. Fewer groups than blocks: every group is a block.
    """
    _, membership, sizes = np.unique(unit_names(groups), return_inverse=True, return_counts=True)
    count = min(num_blocks, len(sizes))
    order = generator.permutation(len(sizes))
    order = order[np.argsort(-sizes[order], kind="stable")]
    filled, block = np.zeros(count, dtype=np.int64), np.zeros(len(sizes), dtype=np.int64)
    for group in order:
        block[group] = np.argmin(filled)
        filled[block[group]] += sizes[group]
    result: NDArray[np.int64] = block[membership]
    return result


def jackknife_intervals(
    score: MaskedScores,
    *,
    real: Features,
    generated: Features,
    real_groups: Sequence[str],
    generated_groups: Sequence[str],
    generator: np.random.Generator,
    num_blocks: int = NUM_BLOCKS,
    level: float = LEVEL,
    bounds: Mapping[str, tuple[float, float]] | None = None,
) -> dict[str, Interval]:
    """Return scores with confidence intervals, from leaving out blocks of real and blocks of generated images.

    Both sets are taken as random draws; their variances add up. With unequal blocks the estimate is that of Busing,
    Meijer and van der Leeden 1999, equation 9; the interval takes Student's t with the degrees of freedom of Welch
    1947. The score is computed `1 + blocks of real + blocks of generated` times.

    A share of images, with bounds 0 and 1, that stands at its bound has no variance to be found: its interval is never
    narrower on a side than that of no failure among as many tries as the smaller set has patients (Clopper and Pearson
    1934), 3.7 / patients at 95 %.

    Measured with 200 draws of Gaussians each, 400 x 300 and 120 x 100 images, with and without patients
    (`tests/benchmarks/scores.py coverage`): 95 % intervals hold the expected score in 92 to 99 % of draws for Fréchet
    and kernel distances and in 94 to 100 % for the others, whose standard errors come out up to 1.8 times too large;
    82 to 84 % for the distances where five images of each patient pass for independent ones. The percentile bootstrap
    holds it in 0 to 58 % for Fréchet distances and in 0 to 17 % for coverage where that is not at its bound.

    Args:
        score: Of masks, for any number of names.
        real: [N_r, D].
        generated: [N_g, D].
        real_groups: [N_r], the patient of each image; "" for an image by itself.
        generated_groups: [N_g], likewise.
        generator: Draws the blocks.
        num_blocks: Blocks a side, fewer where there are fewer patients.
        level: Of the interval.
        bounds: By name of score, values that it cannot pass; the interval ends there.

    Raises:
        DataError: All images of a side belong to one patient, so that nothing is known of their spread.
    """
    sides = [
        _blocks(groups, name, num_blocks, generator)
        for groups, name in ((real_groups, "real"), (generated_groups, "generated"))
    ]
    counts = [int(blocks.max()) + 1 for blocks in sides]
    left_out = [blocks != np.arange(count)[:, None] for blocks, count in zip(sides, counts, strict=True)]
    # First all images, then without each block of real ones, then without each of generated ones.
    real_masks = np.concatenate([keep_all(real), left_out[0], np.repeat(keep_all(real), counts[1], axis=0)])
    generated_masks = np.concatenate(
        [np.repeat(keep_all(generated), 1 + counts[0], axis=0), left_out[1]],
    )
    values = score(real=real, generated=generated, real_masks=real_masks, generated_masks=generated_masks)
    shares = [np.bincount(blocks) / len(blocks) for blocks in sides]
    num_patients = min(len(set(unit_names(groups))) for groups in (real_groups, generated_groups))
    found = {}
    for name, array in values.items():
        parts = array[1 : 1 + counts[0]], array[1 + counts[0] :]
        variances = [
            _jackknife_variance(float(array[0]), part, share) for part, share in zip(parts, shares, strict=True)
        ]
        limits = (bounds or {}).get(name, (-np.inf, np.inf))
        found[name] = _interval(float(array[0]), variances, counts, level, limits, num_patients)
    return found


def real_floor(
    score: MaskedScores,
    *,
    real: Features,
    groups: Sequence[str],
    num_generated: int,
    generator: np.random.Generator,
    num_splits: int = NUM_SPLITS,
) -> dict[str, Floor]:
    """Return the scores of real images against other real images, patients apart.

    Each split draws patients at random until their images are as many as the generated ones, or half of the real ones
    where there are not so many; the rest stands for the real images. So the parts are at most as large as the sets that
    the floor is for, and FID's floor is an upper one where they are smaller.

    Args:
        score: Of masks, for any number of names.
        real: [N_r, D].
        groups: [N_r], the patient of each image; "" for an image by itself.
        num_generated: Images of the set that the floor is for.
        generator: Draws the splits.
        num_splits: How many.

    Raises:
        DataError: All images belong to one patient.
    """
    wanted = min(num_generated, len(real) // 2)
    parts = np.stack([_draw_part(groups, wanted, generator) for _ in range(num_splits)])
    values = score(real=real, generated=real, real_masks=~parts, generated_masks=parts)
    sizes = round(float((~parts).sum(axis=1).mean())), round(float(parts.sum(axis=1).mean()))
    return {
        name: Floor(
            float(array.mean()), float(array.std(ddof=1)) if num_splits > 1 else None, num_splits, sizes[0], sizes[1]
        )
        for name, array in values.items()
    }


def permutation_test(
    score: MaskedScores,
    *,
    real: Features,
    first: Features,
    second: Features,
    generator: np.random.Generator,
    num_permutations: int,
    first_labels: ArrayLike | None = None,
    second_labels: ArrayLike | None = None,
) -> dict[str, Permutation]:
    """Return the difference of two generators' scores against the same real images, and its p-value.

    Images are exchanged at random between the generators, within classes where labels are given, sizes kept. The
    p-value is (1 + #{|permuted difference| >= |difference|}) / (1 + permutations) (Phipson and Smyth 2010): exact
    under the hypothesis that both generators make the same distribution, whatever the score.

    Args:
        score: Of masks, for any number of names; computed twice a permutation.
        real: [N_r, D].
        first: [N_a, D], of the first generator.
        second: [N_b, D], of the second one.
        generator: Draws the permutations.
        num_permutations: How many; the smallest p-value is 1 / (1 + it). See `scores.affordable_permutations`.
        first_labels: [N_a], class of each image; `None`: exchanged whatever the class.
        second_labels: [N_b], likewise.
    """
    pool = np.concatenate([first, second])
    labels = np.zeros(len(pool))
    if first_labels is not None and second_labels is not None:
        labels = np.concatenate([np.asarray(first_labels), np.asarray(second_labels)])
    masks = np.zeros((1 + num_permutations, len(pool)), dtype=bool)
    masks[:, : len(first)] = True
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        for row in masks[1:]:
            row[members] = generator.permutation(row[members])
    generated_masks = np.concatenate([masks, ~masks])
    real_masks = np.repeat(keep_all(real), len(generated_masks), axis=0)
    values = score(real=real, generated=pool, real_masks=real_masks, generated_masks=generated_masks)
    found = {}
    for name, array in values.items():
        differences = array[: len(masks)] - array[len(masks) :]
        # Equal differences, as of scores that count images, must not be told apart by rounding.
        edge = abs(differences[0]) - 1e-12 * np.abs(array).max()
        reached = np.count_nonzero(np.abs(differences[1:]) >= edge)
        p_value = (1 + reached) / (1 + num_permutations)
        found[name] = Permutation(float(differences[0]), float(p_value), num_permutations)
    return found


def _blocks(groups: Sequence[str], name: str, num_blocks: int, generator: np.random.Generator) -> NDArray[np.int64]:
    blocks = blocks_of_groups(groups, num_blocks, generator)
    if blocks.max() == 0:
        raise DataError(f"all {name} images belong to one patient", "an interval needs at least two patients")
    return blocks


def _jackknife_variance(value: float, without: Floats, shares: Floats) -> float:
    """Return the variance of a score from its values without each block, and the blocks' shares of the images."""
    inverse = 1 / shares
    pseudo = inverse * value - (inverse - 1) * without
    centre = len(without) * value - ((1 - shares) * without).sum()
    return float(((pseudo - centre) ** 2 / (inverse - 1)).mean())


def _interval(
    value: float,
    variances: list[float],
    counts: list[int],
    level: float,
    bounds: tuple[float, float],
    num_patients: int,
) -> Interval:
    from scipy.special import stdtrit

    variance = sum(variances)
    weighted = sum(part**2 / (count - 1) for part, count in zip(variances, counts, strict=True))
    freedom = variance**2 / weighted if weighted > 0 else float(sum(counts) - 2)
    reach = float(stdtrit(freedom, (1 + level) / 2)) * sqrt(variance)
    if bounds == (0, 1):
        reach = max(reach, 1 - ((1 - level) / 2) ** (1 / num_patients))
    low, high = max(bounds[0], value - reach), min(bounds[1], value + reach)
    return Interval(value, float(low), float(high), sqrt(variance), level, counts[0], counts[1])


def _draw_part(groups: Sequence[str], wanted: int, generator: np.random.Generator) -> NDArray[np.bool_]:
    """Return which images random patients have, about `wanted` images together and at least one patient left: [N]."""
    _, membership, sizes = np.unique(unit_names(groups), return_inverse=True, return_counts=True)
    if len(sizes) < 2:
        raise DataError("all real images belong to one patient", "a floor needs at least two patients")
    order = generator.permutation(len(sizes))
    reached = np.cumsum(sizes[order])
    # As many patients as come nearest to the number wanted.
    count = int(np.argmin(np.abs(reached[:-1] - wanted))) + 1
    drawn = np.zeros(len(sizes), dtype=bool)
    drawn[order[:count]] = True
    result: NDArray[np.bool_] = drawn[membership]
    return result
