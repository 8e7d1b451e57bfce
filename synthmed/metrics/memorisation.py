"""Whether generated images stay too near the training images: authenticity, C_T, and the count of suspects.

Pure functions of arrays. Shapes: N training, H held-out real and
M generated images, D features. Distances are Euclidean, to the nearest training image.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from synthmed.errors import DataError
from synthmed.metrics.feature_arrays import Features, Floats, check_features
from synthmed.metrics.neighbours import Numbers, nearest

MIN_CELL = 20
"""Fewest generated images of a cell that counts: the normal approximation of U is good from about there."""
MAX_ROUNDS = 100


@dataclass(frozen=True)
class DataCopying:
    """The three-sample test for data-copying."""

    c_t: float | None
    """Far below 0: copied; about 0: as near as held-out images; above 0: underfitted. `None`: no cell counts."""
    cells: tuple[float | None, ...]
    """Z-score of each cell; `None` where it has too few generated or no held-out images."""
    shares: tuple[float, ...]
    """Share of the held-out images in each cell."""


def authenticity(*, training: ArrayLike, generated: ArrayLike) -> float:
    """Return the share of generated images [M, D] that are not too near a training image [N, D], N >= 2.

    Such an image is farther from its nearest training image than that one is from its own nearest training image
    (Alaa et al. 2022, "How faithful is your synthetic data?").

    Raises:
        DataError: Too few images, unlike or non-finite features.
    """
    references = check_features(training, "training", minimum=2)
    samples = check_features(generated, "generated")
    distances, indices = nearest(samples, references, 1)
    touched, place = np.unique(indices[:, 0], return_inverse=True)
    # Of the training images that are somebody's nearest alone. Two neighbours, one of which is the image itself:
    # the second is 0 away where another training image equals it, and an equal distance is not farther.
    own = nearest(references[touched], references, 2)[0][:, 1]
    return float((distances[:, 0] > own[place]).mean())


def copying_z(*, held_out: ArrayLike, generated: ArrayLike) -> float:
    """Return by how many standard deviations generated images lie farther from the training images than held-out ones.

    The Mann-Whitney U of the two sets of distances, ties counting one half, less its mean under the hypothesis that
    they are alike, over its deviation (Meehan, Chaudhuri & Dasgupta 2020, "A non-parametric test to detect data-copying
    in generative models"): Z_U = (U - mn / 2) / sqrt(mn (m + n + 1) / 12). Held-out [H] and
    generated [M] are distances of such images to their nearest training images.
    """
    from scipy.stats import mannwhitneyu

    n, m = len(np.asarray(held_out)), len(np.asarray(generated))
    u = float(mannwhitneyu(generated, held_out, method="asymptotic").statistic)
    return (u - m * n / 2) / float(np.sqrt(m * n * (m + n + 1) / 12))


def data_copying(
    *, training: ArrayLike, held_out: ArrayLike, generated: ArrayLike, num_cells: int, generator: np.random.Generator
) -> DataCopying:
    """Return C_T: the Z_U of `copying_z` in each cell of the feature space, averaged (Meehan et al. 2020).

    The cells are those of k-means of the training images; distances are to training images of the same cell. Cells
    weigh by their share of the held-out images, and those with fewer than MIN_CELL generated images do not count.

    Args:
        training: [N, D].
        held_out: [H, D], of other patients.
        generated: [M, D].
        num_cells: 1 compares all images at once.
        generator: Draws the first centres.

    Raises:
        DataError: Too few images, unlike or non-finite features.
    """
    references = check_features(training, "training", minimum=num_cells)
    centres = find_centres(references, num_cells, generator)
    return copying_in_cells(training=references, held_out=held_out, generated=generated, centres=centres)


def copying_in_cells(*, training: Features, held_out: ArrayLike, generated: ArrayLike, centres: Floats) -> DataCopying:
    """Return C_T as `data_copying` does, in cells whose centres [K, D] are known."""
    num_cells = len(centres)
    references = check_features(training, "training")
    real, samples = check_features(held_out, "held-out"), check_features(generated, "generated")
    own, expected, found = (nearest(part, centres, 1)[1][:, 0] for part in (references, real, samples))
    scores: list[float | None] = []
    for cell in range(num_cells):
        inside, others, made = references[own == cell], real[expected == cell], samples[found == cell]
        if len(inside) and len(others) and len(made) >= MIN_CELL:
            near, far = (nearest(part, inside, 1)[0][:, 0] for part in (others, made))
            scores.append(copying_z(held_out=near, generated=far))
        else:
            scores.append(None)
    shares = (np.bincount(expected, minlength=num_cells) / len(real)).tolist()
    counted = [(score, share) for score, share in zip(scores, shares, strict=True) if score is not None]
    weight = sum(share for _, share in counted)
    c_t = sum(score * share for score, share in counted) / weight if counted else None
    return DataCopying(c_t, tuple(scores), tuple(shares))


def conformal_ranks(scores: ArrayLike, held_out: ArrayLike) -> Numbers:
    """Return the rank of each score [M] among those of held-out images [H], from the lowest, as [M] in 1..H + 1.

    Divided by H + 1 that is a p-value for the image being one more held-out image (Vovk, Gammerman & Shafer 2005,
    "Algorithmic Learning in a Random World"): the lower the more suspicious; ties count against the suspicion.
    """
    ranks: Numbers = 1 + np.searchsorted(np.sort(np.asarray(held_out)), np.asarray(scores), "right").astype(np.int64)
    return ranks


def count_p_value(count: int, *, num_generated: int, num_held_out: int, rank: int) -> float:
    """Return how probable it is that at least `count` honest generated images have conformal ranks up to `rank`.

    Exact for generated images that are like the held-out ones, whose own scatter is part of it: among all in the order
    of their scores, `count` of the generated ones stand before the `rank`-th held-out one where the first
    count + rank - 1 hold fewer than `rank` held-out ones, which is hypergeometric.

    Args:
        count: Suspects.
        num_generated: M.
        num_held_out: H.
        rank: Largest rank of a suspect, 1..H.
    """
    from scipy.stats import hypergeom

    drawn = count + rank - 1
    return float(hypergeom.cdf(rank - 1, num_generated + num_held_out, num_held_out, drawn))


def find_centres(features: Features, count: int, generator: np.random.Generator) -> Floats:
    """Return the centres of k-means [count, D]: Lloyd's algorithm from k-means++ (Arthur & Vassilvitskii 2007)."""
    if not 1 <= count <= len(features):
        raise DataError(f"{len(features)} images cannot be divided into {count} cells")
    centres = np.asarray(features[[generator.integers(len(features))]], dtype=np.float64)
    while len(centres) < count:
        squared = nearest(features, centres, 1)[0][:, 0] ** 2
        total = squared.sum()
        # Fewer different images than cells: the rest of the cells stay empty copies of one.
        chosen = generator.choice(len(features), p=squared / total if total > 0 else None)
        centres = np.concatenate([centres, features[[chosen]]])
    labels: Numbers | None = None
    for _ in range(MAX_ROUNDS):
        found = nearest(features, centres, 1)[1][:, 0]
        if labels is not None and (found == labels).all():
            break
        labels = found
        for cell in np.unique(labels):
            centres[cell] = features[labels == cell].mean(axis=0, dtype=np.float64)
    return centres
