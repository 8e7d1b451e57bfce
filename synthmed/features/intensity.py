"""First-order statistics of grey and colour, and where in the image it is bright.

Planes are [N, H, W] int64 in [0, 255]; features are [N] float64 by name. Images without any spread give the value that
a Gaussian of vanishing spread would: no feature divides by nothing.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

Features = dict[str, Tensor]

LEVELS = 256
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
ENTROPY_BINS = 32
# Variance of a spread of one grey level, on [0, 1]: below it shape and correlation are rounding, and fade to none.
FLOOR = (1 / 255) ** 2
LAYOUT = 4


def split_planes(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return luma, Cb and Cr (ITU-R 601, as in JPEG) of images [N, 3, H, W] uint8, each [N, H, W] int64 in [0, 255].

    In whole numbers, so that a brighter image has exactly as much more luma and exactly the same colour.
    """
    red, green, blue = images.long().unbind(dim=1)
    luma = (299 * red + 587 * green + 114 * blue + 500) // 1000
    cb = 128 + (-169 * red - 331 * green + 500 * blue + 500) // 1000
    cr = 128 + (500 * red - 419 * green - 81 * blue + 500) // 1000
    return luma, cb.clamp(0, 255), cr.clamp(0, 255)


def count(values: Tensor, num_values: int) -> Tensor:
    """Return how often each of 0 .. num_values - 1 is among an image's values [N, ...] int64: [N, num_values] float64.

    A row's counts sum to its number of values.
    """
    flat = values.flatten(1)
    offsets = torch.arange(len(flat)).unsqueeze(1) * num_values
    return torch.bincount((flat + offsets).flatten(), minlength=len(flat) * num_values).view(-1, num_values).double()


def entropy(probabilities: Tensor) -> Tensor:
    """Return the entropy in bits of distributions [N, K]: [N]."""
    return -(torch.xlogy(probabilities, probabilities)).sum(dim=1) / math.log(2)


def skewness(second: Tensor, third: Tensor) -> Tensor:
    """Return asinh of the skewness from central moments, so that a few bright pixels do not outweigh all else."""
    return torch.asinh(third / (second + FLOOR) ** 1.5)


def log_kurtosis(second: Tensor, fourth: Tensor) -> Tensor:
    """Return the logarithm of the kurtosis over that of a Gaussian, 3, from central moments."""
    return torch.log((fourth + 3 * FLOOR**2) / (3 * (second + FLOOR) ** 2))


def first_order(plane: Tensor, name: str) -> Features:
    """Return statistics of the values of a plane, wherever they stand, all on [0, 1] but for the last three.

    Quantiles are values that occur: the least with at least that share of the image at or below it.
    """
    shares = count(plane, LEVELS) / plane[0].numel()
    levels = torch.arange(LEVELS, dtype=torch.float64) / (LEVELS - 1)
    mean = shares @ levels
    deviations = levels - mean.unsqueeze(1)
    second, third, fourth = ((shares * deviations**power).sum(dim=1) for power in (2, 3, 4))
    # Counts are whole, so that the share 0.5 of an even number of pixels is reached exactly.
    below = shares.cumsum(dim=1)
    quantiles = {f"{name}.q{round(100 * share):02d}": levels[(below < share - 1e-9).sum(dim=1)] for share in QUANTILES}
    return {
        f"{name}.mean": mean,
        f"{name}.sd": second.sqrt(),
        **quantiles,
        f"{name}.skewness": skewness(second, third),
        f"{name}.log_kurtosis": log_kurtosis(second, fourth),
        f"{name}.entropy": entropy(shares.view(-1, ENTROPY_BINS, LEVELS // ENTROPY_BINS).sum(dim=2)),
    }


def colour_correlations(images: Tensor) -> Features:
    """Return Pearson's correlation of pairs of channels of images [N, 3, H, W]; 1 where an image is grey."""
    values = images.flatten(2).double() / 255
    values = values - values.mean(dim=2, keepdim=True)
    covariance = values @ values.transpose(1, 2) / values.shape[2] + FLOOR
    return {
        f"colour.{'rgb'[a]}{'rgb'[b]}.correlation": covariance[:, a, b]
        / (covariance[:, a, a] * covariance[:, b, b]).sqrt()
        for a, b in ((0, 1), (0, 2), (1, 2))
    }


def layout(luma: Tensor) -> Features:
    """Return mean luma, on [0, 1], of each field of a 4 x 4 grid laid over the image."""
    fields = functional.adaptive_avg_pool2d(luma.double() / 255, LAYOUT)
    return {f"layout.r{row}c{column}": fields[:, row, column] for row in range(LAYOUT) for column in range(LAYOUT)}
