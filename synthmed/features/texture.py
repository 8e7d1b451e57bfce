"""Texture of the luma: co-occurrence of grey levels and local binary patterns.

Planes are [N, H, W] int64 in [0, 255]; features are [N] float64 by name. A quarter turn of an image changes none.
"""

from __future__ import annotations

import torch
from torch import Tensor

from synthmed.features.intensity import Features, count, entropy

GREY_LEVELS = 16
DISTANCES = (1, 2, 4, 8)
DIRECTIONS = ((0, 1), (1, 0), (1, 1), (1, -1))
# Eight neighbours in the order of a walk around the centre.
RING = ((-1, -1), (-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1))
RADII = (1, 2)
# A neighbour counts as brighter from so many grey levels on: with less, noise that nobody sees decides the patterns of
# smooth regions, and outweighs all other features.
TOLERANCE = 5
NUM_PATTERNS = len(RING) + 2


def shift(plane: Tensor, rows: int, columns: int) -> tuple[Tensor, Tensor]:
    """Return two views of a plane: where both ends of a step lie inside, its starts and its ends."""
    height, width = plane.shape[1:]
    starts = plane[:, max(0, -rows) : height - max(0, rows), max(0, -columns) : width - max(0, columns)]
    ends = plane[:, max(0, rows) : height - max(0, -rows), max(0, columns) : width - max(0, -columns)]
    return starts, ends


def co_occurrence(luma: Tensor, rows: int, columns: int) -> Tensor:
    """Return how often two grey levels stand a step apart, either way round: [N, 16, 16], each summing to 1.

    A level is 16 of the 256 grey values.
    """
    starts, ends = shift(luma // (256 // GREY_LEVELS), rows, columns)
    counts = count(starts * GREY_LEVELS + ends, GREY_LEVELS**2).view(-1, GREY_LEVELS, GREY_LEVELS)
    both = counts + counts.transpose(1, 2)
    return both / both.sum(dim=(1, 2), keepdim=True)


def co_occurrence_features(luma: Tensor) -> Features:
    """Return Haralick's statistics at four distances, each the mean over four directions (Haralick et al. 1973).

    Contrast is log(1 + sum (i - j)^2 p), homogeneity sum p / (1 + (i - j)^2), energy the root of sum p^2.
    """
    found: Features = {}
    for distance in DISTANCES:
        directions = [
            _haralick(co_occurrence(luma, rows * distance, columns * distance)) for rows, columns in DIRECTIONS
        ]
        for name in directions[0]:
            found[f"cooccurrence.d{distance}.{name}"] = torch.stack([one[name] for one in directions]).mean(dim=0)
    return found


def _haralick(p: Tensor) -> Features:
    levels = torch.arange(GREY_LEVELS, dtype=torch.float64)
    squares = (levels.unsqueeze(1) - levels) ** 2
    marginal = p.sum(dim=2)
    deviations = levels - (marginal @ levels).unsqueeze(1)
    variance = (marginal * deviations**2).sum(dim=1)
    covariance = (p * deviations.unsqueeze(2) * deviations.unsqueeze(1)).sum(dim=(1, 2))
    rounding = 1 / 12  # variance inside a grey level; where there is no other, all is alike: correlation 1
    return {
        "contrast": torch.log1p((p * squares).sum(dim=(1, 2))),
        "homogeneity": (p / (1 + squares)).sum(dim=(1, 2)),
        "energy": p.square().sum(dim=(1, 2)).sqrt(),
        "correlation": (covariance + rounding) / (variance + rounding),
        "entropy": entropy(p.flatten(1)),
    }


def binary_patterns(luma: Tensor, radius: int) -> Tensor:
    """Return the rotation-invariant uniform pattern of each pixel whose ring lies inside (Ojala et al. 2002, eq. 9).

    That is the number of brighter neighbours, 0 .. 8, where they stand together on the ring, else 9. The ring is
    square, so that no value is interpolated, and "brighter" means by 5 grey levels (Heikkilä and Pietikäinen 2006).
    """
    rows, columns = (size - 2 * radius for size in luma.shape[1:])
    centre = luma[:, radius : radius + rows, radius : radius + columns]
    # Where the steps of the ring start, counted from the corner of the image.
    starts = [(radius * (1 + row), radius * (1 + column)) for row, column in RING]
    ring = [luma[:, top : top + rows, left : left + columns] for top, left in starts]
    brighter = torch.stack([neighbour - centre >= TOLERANCE for neighbour in ring])
    changes = (brighter != brighter.roll(1, dims=0)).sum(dim=0)
    return torch.where(changes <= 2, brighter.sum(dim=0), NUM_PATTERNS - 1)


def binary_pattern_features(luma: Tensor) -> Features:
    """Return the share of each pattern at two radii, as its root: so compare histograms by Hellinger's distance."""
    found: Features = {}
    for radius in RADII:
        patterns = binary_patterns(luma, radius)
        shares = (count(patterns, NUM_PATTERNS) / patterns[0].numel()).sqrt()
        found |= {f"patterns.r{radius}.p{number}": shares[:, number] for number in range(NUM_PATTERNS)}
    return found
