"""How alike the images of a set are: MS-SSIM between random pairs (Odena, Olah and Shlens 2017, section 4.2).

The lower the mean, the more diverse the images; a generator that repeats itself stands above the real images. Pairs are
to be drawn within a class, so that differences between classes do not count as diversity.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from synthmed.errors import DataError
from synthmed.metrics.reconstruction import MS_SSIM_WINDOW, ms_ssim, num_scales
from synthmed.metrics.statistics import summarise

MAX_PAIRS = 1000
BATCH = 32


@dataclass(frozen=True)
class PairSimilarity:
    """MS-SSIM between pairs of images of a set."""

    mean: float
    std: float | None
    """Standard deviation between pairs; `None` for a single pair."""
    num_pairs: int
    num_scales: int
    """Scales compared: five above 160 pixels, fewer in small images, whose figures compare with their like only."""


def random_pairs(num_images: int, max_pairs: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """Return different pairs of different images: [P, 2], every pair there is where they are at most `max_pairs`.

    Raises:
        DataError: Fewer than two images.
    """
    if num_images < 2:
        raise DataError(f"{num_images} images make no pair", "at least two are needed")
    total = num_images * (num_images - 1) // 2
    numbers = np.arange(total) if total <= max_pairs else generator.choice(total, max_pairs, replace=False)
    # Pair p of (0, 1), (0, 2), (1, 2), (0, 3), ...: the larger image b is the one with b (b - 1) / 2 <= p.
    larger = np.floor((1 + np.sqrt(1 + 8 * numbers.astype(np.float64))) / 2).astype(np.int64)
    larger -= larger * (larger - 1) // 2 > numbers
    larger += larger * (larger + 1) // 2 <= numbers
    return np.stack([numbers - larger * (larger - 1) // 2, larger], axis=1)


def pair_similarity(
    load: Callable[[Sequence[int]], Tensor],
    num_images: int,
    generator: np.random.Generator,
    *,
    max_pairs: int = MAX_PAIRS,
    batch: int = BATCH,
) -> PairSimilarity:
    """Return mean and spread of MS-SSIM between random pairs of images, which belong to one class.

    Args:
        load: From numbers in [0, num_images) to images [n, 3, H, W] uint8; of a tensor, its `__getitem__`.
        num_images: How many there are.
        generator: Draws the pairs.
        max_pairs: Most pairs to compare.
        batch: Pairs at a time.

    Raises:
        DataError: Fewer than two images, or images too small for MS-SSIM (11 pixels).
    """
    pairs = random_pairs(num_images, max_pairs, generator)
    values, scales = [], 0
    for start in range(0, len(pairs), batch):
        first, second = (load(column.tolist()) for column in pairs[start : start + batch].T)
        if (side := min(first.shape[2:])) < MS_SSIM_WINDOW:
            raise DataError(f"images of {side} pixels are too small for MS-SSIM", "at least 11 are needed")
        scales = num_scales(side)
        values.append(ms_ssim(first.float() / 255, second.float() / 255).cpu().double().numpy())
    summary = summarise(np.concatenate(values))
    return PairSimilarity(summary.mean, summary.std, len(pairs), scales)
