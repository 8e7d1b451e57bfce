"""Whether two generators differ in a score, by exchanging their images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from synthmed.metrics.feature_arrays import Features, Floats, MaskedScores, Masks, keep_all


@dataclass(frozen=True)
class Permutation:
    """Whether two generators differ in a score against the same real images."""

    difference: float
    """Score of the first less that of the second."""
    p_value: float
    num_permutations: int


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
        score: Of masks, for any number of names; computed twice per permutation.
        real: [N_r, D].
        first: [N_a, D], of the first generator.
        second: [N_b, D], of the second one.
        generator: Draws the permutations.
        num_permutations: The smallest p-value is 1 / (1 + num_permutations). See `scores.affordable_permutations`.
        first_labels: [N_a], class of each image; `None`: exchanged whatever the class.
        second_labels: [N_b], likewise.
    """
    pool = np.concatenate([first, second])
    labels = np.zeros(len(pool))
    if first_labels is not None and second_labels is not None:
        labels = np.concatenate([np.asarray(first_labels), np.asarray(second_labels)])
    masks = _exchange(labels, len(first), generator, num_permutations)
    generated_masks = np.concatenate([masks, ~masks])
    real_masks = np.repeat(keep_all(real), len(generated_masks), axis=0)
    values = score(real=real, generated=pool, real_masks=real_masks, generated_masks=generated_masks)
    return {name: _compare(*np.split(array, 2)) for name, array in values.items()}


def _exchange(labels: NDArray[Any], num_first: int, generator: np.random.Generator, num_permutations: int) -> Masks:
    """Return which images count as the first generator's: [1 + num_permutations, N]; row 0 says whose they are."""
    masks = np.zeros((1 + num_permutations, len(labels)), dtype=bool)
    masks[:, :num_first] = True
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        for row in masks[1:]:
            row[members] = generator.permutation(row[members])
    return masks


def _compare(first: Floats, second: Floats) -> Permutation:
    """Return the test from the scores of both sides, [1 + permutations] each, the true assignment first."""
    differences = first - second
    # Equal differences, as of scores that count images, must not be told apart by rounding.
    edge = abs(differences[0]) - 1e-12 * max(np.abs(first).max(), np.abs(second).max())
    reached = int(np.count_nonzero(np.abs(differences[1:]) >= edge))
    return Permutation(float(differences[0]), (1 + reached) / len(differences), len(differences) - 1)
