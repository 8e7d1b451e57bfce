"""Statistics of scores: AUROC and balanced accuracy, and bootstrap intervals that resample patients.

Pure functions of NumPy arrays. Shapes: N images, K classes, S repeated
trainings ("seeds"), R resamples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Counts = NDArray[np.uint16]

NUM_RESAMPLES = 2000
LEVEL = 0.95
BLOCK_VALUES = 1 << 22


@dataclass(frozen=True)
class Summary:
    """Mean and sample standard deviation of repeated measurements."""

    mean: float
    std: float | None
    """`None` for a single measurement."""


@dataclass(frozen=True)
class Share:
    """How many of some images have a property, with an interval for the share that it estimates."""

    count: int
    images: int
    value: float
    low: float
    high: float


def share_interval(count: int, images: int, *, units: int | None = None) -> Share:
    """Return a share with its score interval of 95 % (Wilson 1927), which also holds near 0 and 1.

    Args:
        count: Images with the property.
        images: All of them, at least 1.
        units: Independent ones among them, such as patients; `None`: all. The interval is that of so many, as if the
            images of a patient agreed wholly: never too narrow.
    """
    share, trials = count / images, units or images
    z = NormalDist().inv_cdf((1 + LEVEL) / 2)
    centre = (share + z * z / (2 * trials)) / (1 + z * z / trials)
    reach = z * sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials)) / (1 + z * z / trials)
    # Rounding must not take the ends past what they stand beside.
    return Share(count, images, share, max(0.0, min(centre - reach, share)), min(1.0, max(centre + reach, share)))


def share_difference(first: Share, second: Share) -> tuple[float, float]:
    """Return the interval of the first share less the second, independent (Newcombe 1998, method 10)."""
    difference = first.value - second.value
    below = sqrt((first.value - first.low) ** 2 + (second.high - second.value) ** 2)
    above = sqrt((first.high - first.value) ** 2 + (second.value - second.low) ** 2)
    return difference - below, difference + above


def unit_names(groups: Sequence[str]) -> list[str]:
    """Return the independent unit (patient) of each image; an image of no group, an empty name, is one by itself."""
    return [group or f"\0{number}" for number, group in enumerate(groups)]


def count_units(groups: Sequence[str]) -> int:
    """Return how many independent units (patients) images come from."""
    return len(set(unit_names(groups)))


def summarise(values: ArrayLike) -> Summary:
    """Return mean and spread of the results of repeated trainings."""
    array = np.asarray(values, dtype=np.float64)
    return Summary(float(array.mean()), float(array.std(ddof=1)) if array.size > 1 else None)


def format_spread(mean: float, std: float | None) -> str:
    """Return a mean and its spread, if there is one, as tables show them."""
    return f"{mean:.3f}" if std is None else f"{mean:.3f} ± {std:.3f}"


def interval(resampled: ArrayLike) -> tuple[float, float]:
    """Return the percentile bootstrap interval of 95 % of a statistic's resampled values [R].

    NaN marks a resample without a value, e.g. an AUROC where only one class was drawn; those do not count.
    """
    tail = (1 - LEVEL) / 2
    low, high = np.nanquantile(np.asarray(resampled, dtype=np.float64), (tail, 1 - tail))
    return float(low), float(high)


def resample_weights(groups: Sequence[str], num_resamples: int, generator: np.random.Generator) -> Counts:
    """Return how often each image occurs in each bootstrap resample: [R, N].

    Whole groups (patients) are drawn with replacement, because the images of one patient are not independent. An
    empty name is an image that belongs to no group.
    """
    _, membership = np.unique(unit_names(groups), return_inverse=True)
    count = int(membership.max()) + 1
    times_drawn = generator.multinomial(count, np.full(count, 1 / count), size=num_resamples)
    weights: Counts = times_drawn.astype(np.uint16)[:, membership]
    return weights


def weighted_auroc(scores: ArrayLike, positive: ArrayLike, weights: ArrayLike) -> Floats:
    """Return the AUROC of one set of scores under many weightings of its images.

    The probability that a random positive image scores above a random negative one, ties counting one half
    (Mann-Whitney). One sort serves all weightings.

    Args:
        scores: [N], higher means more positive.
        positive: [N] bool.
        weights: [R, N], not negative.

    Returns:
        [R]; NaN where the weight of positives or of negatives is zero.
    """
    order = np.argsort(np.asarray(scores), kind="stable")
    ranked, is_positive = np.asarray(scores)[order], np.asarray(positive, dtype=bool)[order]
    starts = np.flatnonzero(np.r_[True, ranked[1:] != ranked[:-1]])
    columns = np.atleast_2d(np.asarray(weights))[:, order]
    # In blocks, so that the sums of thousands of resamples of a large test set do not stand in memory at once.
    rows = max(1, BLOCK_VALUES // len(order))
    blocks = [columns[start : start + rows] for start in range(0, len(columns), rows)]
    return np.concatenate([_auroc_of_sorted(block.astype(np.float64), is_positive, starts) for block in blocks])


def _auroc_of_sorted(weights: Floats, positive: NDArray[np.bool_], starts: NDArray[np.intp]) -> Floats:
    """Return AUROCs of images sorted by score; `starts` are the first positions of runs of equal scores."""
    positives = np.add.reduceat(weights * positive, starts, axis=1)
    negatives = np.add.reduceat(weights * ~positive, starts, axis=1)
    negatives_below = np.cumsum(negatives, axis=1) - negatives
    won = (positives * (negatives_below + negatives / 2)).sum(axis=1)
    pairs = positives.sum(axis=1) * negatives.sum(axis=1)
    result: Floats = np.divide(won, pairs, out=np.full(len(pairs), np.nan), where=pairs > 0)
    return result


def auroc(probabilities: ArrayLike, labels: ArrayLike, positive: int) -> float:
    """Return the area under the ROC curve by torchmetrics.

    Args:
        probabilities: [N, K].
        labels: [N] int.
        positive: Positive class of two; with more classes not used: the mean of one-against-rest AUROCs is taken.
    """
    import torch
    from torchmetrics.functional.classification import binary_auroc, multiclass_auroc

    scores, truth = torch.tensor(np.asarray(probabilities).copy()), torch.tensor(np.asarray(labels).copy())
    if scores.shape[1] == 2:
        return float(binary_auroc(scores[:, positive], (truth == positive).long()))
    return float(multiclass_auroc(scores, truth, num_classes=scores.shape[1], average="macro"))


def balanced_accuracy(probabilities: ArrayLike, labels: ArrayLike) -> float:
    """Return the mean over classes of the share of their images for which the class is the likeliest."""
    predicted, truth = np.asarray(probabilities).argmax(axis=1), np.asarray(labels)
    return float(np.mean([(predicted[truth == label] == label).mean() for label in np.unique(truth)]))


def bootstrap_auroc(probabilities: ArrayLike, labels: ArrayLike, positive: int, weights: ArrayLike) -> Floats:
    """Return the AUROC of each training under each resample of the test images: [S, R].

    All trainings see the same resamples, so that means and differences over them can be taken resample by resample.

    Args:
        probabilities: [S, N, K].
        labels: [N] int.
        positive: Positive class of two; with more classes not used: the mean of one-against-rest AUROCs is taken.
        weights: [R, N] of `resample_weights`.
    """
    stacked, truth = np.asarray(probabilities, dtype=np.float64), np.asarray(labels)
    classes = [positive] if stacked.shape[2] == 2 else range(stacked.shape[2])
    return np.stack(
        [
            np.mean([weighted_auroc(scores[:, label], truth == label, weights) for label in classes], axis=0)
            for scores in stacked
        ]
    )


def roc_curve(scores: ArrayLike, positive: ArrayLike) -> tuple[Floats, Floats]:
    """Return false and true positive rates over all thresholds, from (0, 0) to (1, 1)."""
    values, is_positive = np.asarray(scores, dtype=np.float64), np.asarray(positive, dtype=bool)
    order = np.argsort(-values, kind="stable")
    # Images with equal scores pass a threshold together: only the last of a tie is a point of the curve.
    last_of_tie = np.r_[values[order][1:] != values[order][:-1], True]
    true_positives = np.cumsum(is_positive[order])[last_of_tie]
    false_positives = np.cumsum(~is_positive[order])[last_of_tie]
    return np.r_[0, false_positives / (~is_positive).sum()], np.r_[0, true_positives / is_positive.sum()]


def mean_roc_curve(probabilities: ArrayLike, labels: ArrayLike, positive: int) -> tuple[Floats, Floats]:
    """Return the ROC curve averaged over trainings (and classes, if more than two) at 201 equal false positive rates.

    Args:
        probabilities: [S, N, K].
        labels: [N] int.
        positive: Positive class of two.
    """
    stacked, truth = np.asarray(probabilities, dtype=np.float64), np.asarray(labels)
    classes = [positive] if stacked.shape[2] == 2 else range(stacked.shape[2])
    grid = np.linspace(0, 1, 201)
    curves = [roc_curve(scores[:, label], truth == label) for scores in stacked for label in classes]
    mean = np.mean([np.interp(grid, *curve) for curve in curves], axis=0)
    return np.r_[0, grid], np.r_[0, mean]
