"""The kernel distance of two sets of features; on Inception's it is the KID (Binkowski et al. 2018).

The unbiased estimate of the squared maximum mean discrepancy (Gretton et al. 2012, equation 3) under the kernel
k(x, y) = (x . y / D + 1)^3. It can fall below zero, and its mean does not depend on the sizes of the sets, which sets
it apart from FID. Shapes as in `feature_arrays`; all in float64.

One pass over the kernel's values serves any number of resamples: a resample's sum of k(x_i, x_j) over the images that
it keeps is w^T K w for its mask w, so K is made in blocks, multiplied with all masks at once, and thrown away.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from synthmed.metrics.feature_arrays import Floats, Masks, check_masks, check_pair

# As published: section 4 of Binkowski et al. and the code with it.
NUM_SUBSETS = 100
SUBSET_SIZE = 1000
BLOCK = 1024


@dataclass(frozen=True)
class Kid:
    """A kernel distance as tables give it, and without subsets."""

    mean: float
    """Mean over subsets."""
    std: float
    """Standard deviation over subsets (divided by their number): of single subsets, not of the mean."""
    num_subsets: int
    subset_size: int
    """Images of each side in a subset."""
    full: float
    """Estimate from all images at once: the same expectation as the mean, without the noise of drawing subsets."""


def kid(
    real: ArrayLike,
    generated: ArrayLike,
    generator: np.random.Generator,
    *,
    num_subsets: int = NUM_SUBSETS,
    subset_size: int | None = None,
) -> Kid:
    """Return the kernel distance, as mean and spread over random subsets and from all images.

    Args:
        real: [N_r, D].
        generated: [N_g, D].
        generator: Draws the subsets, without replacement within a subset.
        num_subsets: How many subsets.
        subset_size: Images of each side in a subset; `None` takes 1000 as published where both sets hold more, else
            half of the smaller set, because equal subsets would say nothing of the spread.

    Raises:
        DataError: Fewer than four images on a side (two, with `subset_size` given), or unlike features.
    """
    first, second = check_pair(real, generated, minimum=4 if subset_size is None else max(2, subset_size))
    fewest = min(len(first), len(second))
    size = subset_size or (SUBSET_SIZE if fewest > SUBSET_SIZE else fewest // 2)
    real_masks, generated_masks = (np.zeros((num_subsets + 1, len(side)), dtype=bool) for side in (first, second))
    for row in range(num_subsets):
        real_masks[row, generator.choice(len(first), size, replace=False)] = True
        generated_masks[row, generator.choice(len(second), size, replace=False)] = True
    real_masks[-1], generated_masks[-1] = True, True
    values = kernel_distances(first, second, real_masks, generated_masks)
    subsets = values[:-1]
    return Kid(float(subsets.mean()), float(subsets.std()), num_subsets, size, float(values[-1]))


def kernel_distances(
    real: ArrayLike, generated: ArrayLike, real_masks: Masks, generated_masks: Masks, *, block: int = BLOCK
) -> Floats:
    """Return the unbiased kernel distance under each pair of masks: [R].

    Cost: N_r^2 + N_g^2 + 2 N_r N_g products of D numbers, whatever R; memory: both sets in float64 and `block` rows of
    the kernel.
    """
    first, second = check_pair(real, generated, minimum=2)
    one = check_masks(real_masks, len(first), "real", minimum=2).T.astype(np.float64)
    other = check_masks(generated_masks, len(second), "generated", minimum=2).T.astype(np.float64)
    # Not shifted to the mean: the kernel is not the same everywhere.
    x, y = first.astype(np.float64), second.astype(np.float64)
    return _mean_within(x, one, block) + _mean_within(y, other, block) - 2 * _mean_across(x, y, one, other, block)


def _kernel(x: Floats, y: Floats) -> Floats:
    values = x @ y.T
    values /= x.shape[1]
    values += 1
    squares = values * values
    squares *= values
    return squares


def _mean_within(x: Floats, weights: Floats, block: int) -> Floats:
    """Return the mean of the kernel over pairs of two different images that a mask keeps: [R]."""
    sums = np.zeros(weights.shape[1])
    for start in range(0, len(x), block):
        rows = slice(start, start + block)
        own = _kernel(x[rows], x[rows])
        np.fill_diagonal(own, 0)
        sums += (weights[rows] * (own @ weights[rows])).sum(axis=0)
        # Pairs with later images count twice, so that half of the kernel is enough.
        for later in range(start + block, len(x), block):
            columns = slice(later, later + block)
            sums += 2 * (weights[rows] * (_kernel(x[rows], x[columns]) @ weights[columns])).sum(axis=0)
    kept = weights.sum(axis=0)
    result: Floats = sums / (kept * (kept - 1))
    return result


def _mean_across(x: Floats, y: Floats, x_weights: Floats, y_weights: Floats, block: int) -> Floats:
    """Return the mean of the kernel over pairs of one image of each set: [R]."""
    sums = np.zeros(x_weights.shape[1])
    for start in range(0, len(x), block):
        for other in range(0, len(y), block):
            rows, columns = slice(start, start + block), slice(other, other + block)
            sums += (x_weights[rows] * (_kernel(x[rows], y[columns]) @ y_weights[columns])).sum(axis=0)
    result: Floats = sums / (x_weights.sum(axis=0) * y_weights.sum(axis=0))
    return result
