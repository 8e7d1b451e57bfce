"""Precision, recall, density and coverage of generated images, by balls around images in feature space.

A ball around an image reaches to its k-th nearest other image of the same set, edge included.

- precision: generated images that lie in some real image's ball; recall: real images that lie in some generated
  image's ball (Kynkäänniemi et al. 2019, equations 1 and 2, k = 3);
- density: real balls that hold a generated image, over k, on average; coverage: real images whose ball holds some
  generated image (Naeem et al. 2020, equations 3 and 4, k = 5).

All four need the distances of the same pairs, which are made once, in blocks, for any number of resamples. Shapes as in
`feature_arrays`, with N_r real and N_g generated images.
"""

from __future__ import annotations

from math import ceil, sqrt

import numpy as np
from numpy.typing import ArrayLike

from synthmed.metrics.feature_arrays import Features, Floats, Masks, check_masks, check_pair
from synthmed.metrics.neighbours import BLOCK, blocks_of_distances, nearest, rounding_error

PRECISION_K = 3
DENSITY_K = 5


def manifold_scores_of_masks(
    *,
    real: ArrayLike,
    generated: ArrayLike,
    real_masks: Masks,
    generated_masks: Masks,
    precision_k: int = PRECISION_K,
    density_k: int = DENSITY_K,
    block: int = BLOCK,
) -> dict[str, Floats]:
    """Return the four scores under each pair of masks, each [R]: precision, recall, density, coverage.

    All but density lie in [0, 1]; density is about 1 for images from the real distribution, and more where they crowd
    into its densest parts.

    Args:
        real: [N_r, D].
        generated: [N_g, D].
        real_masks: [R, N_r]; balls reach to neighbours that the mask keeps.
        generated_masks: [R, N_g].
        precision_k: Neighbour that the balls of precision and recall reach to.
        density_k: Neighbour that the balls of density and coverage reach to.
        block: Rows and columns of distances at a time.

    Raises:
        DataError: A mask keeps no more images than neighbours, or unlike features.
    """
    minimum = max(precision_k, density_k) + 1
    first, second = check_pair(real, generated, minimum=minimum)
    kept_real = check_masks(real_masks, len(first), "real", minimum=minimum)
    kept_generated = check_masks(generated_masks, len(second), "generated", minimum=minimum)
    # An image that lies exactly on the edge of a ball, as copies do, must not fall out of it by rounding.
    slack = rounding_error(first, second)
    real_balls, density_balls = squared_radii(first, kept_real, (precision_k, density_k), block) + slack
    (generated_balls,) = squared_radii(second, kept_generated, (precision_k,), block) + slack

    precise, recalled = np.zeros_like(kept_generated), np.zeros_like(kept_real)
    covered, held = np.zeros_like(kept_real), np.zeros(len(kept_real))
    for rows, columns, squared in blocks_of_distances(first, second, block):
        for index in range(len(kept_real)):
            precise[index, columns] |= (squared <= real_balls[index, rows, None]).any(axis=0)
            recalled[index, rows] |= (squared <= generated_balls[index, columns]).any(axis=1)
            inside = squared <= density_balls[index, rows, None]
            inside &= kept_generated[index, columns]
            covered[index, rows] |= inside.any(axis=1)
            held[index] += np.count_nonzero(inside)
    num_real, num_generated = kept_real.sum(axis=1), kept_generated.sum(axis=1)
    return {
        "precision": (precise & kept_generated).sum(axis=1) / num_generated,
        "recall": (recalled & kept_real).sum(axis=1) / num_real,
        "density": held / (density_k * num_generated),
        "coverage": (covered & kept_real).sum(axis=1) / num_real,
    }


def squared_radii(features: Features, masks: Masks, ks: tuple[int, ...], block: int) -> Floats:
    """Return the squared distance of each image to its k-th nearest other image that a mask keeps.

    One search serves all masks: it finds so many neighbours that every mask keeps enough of them for nearly every
    image; the neighbours of the few others are searched for again.

    Returns:
        [len(ks), R, N]; minus infinity for images that the mask itself leaves out, which have no ball.
    """
    largest, share = max(ks), float(masks.mean(axis=1).min())
    searched = largest if share == 1 else ceil((largest + 4 * sqrt(largest) + 6) / share)
    distances, indices = nearest(features, features, min(searched, len(features) - 1), exclude_self=True, block=block)
    radii = np.full((len(ks), *masks.shape), -np.inf)
    for index, mask in enumerate(masks):
        kept = np.cumsum(mask[indices], axis=1)
        for place, k in enumerate(ks):
            reached = np.argmax(kept >= k, axis=1)
            radii[place, index] = np.take_along_axis(distances, reached[:, None], axis=1)[:, 0]
        short = np.flatnonzero((kept[:, -1] < largest) & mask)
        if len(short):
            # The image itself is kept, and found first, at distance 0.
            again, _ = nearest(features[short], features[mask], largest + 1, block=block)
            radii[:, index, short] = again[:, np.array(ks)].T
        radii[:, index, ~mask] = -np.inf
    return np.where(np.isfinite(radii), radii**2, -np.inf)
