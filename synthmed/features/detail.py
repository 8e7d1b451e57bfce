"""Detail of different fineness: Haar wavelets, gradients, the Laplacian.

Planes are [N, H, W] int64 in [0, 255], computed on [0, 1]; features are [N] float64 by name.
"""

from __future__ import annotations

import torch
from torch import Tensor

from synthmed.features.intensity import FLOOR, Features, log_kurtosis

SCALES = 3
SUB_BANDS = ("horizontal", "vertical", "diagonal")  # the direction in which the values change
GRADIENT_QUANTILES = (0.5, 0.9, 0.99)


def haar_step(plane: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
    """Return the next coarser plane and the three sub-bands of one orthonormal Haar step: [N, H / 2, W / 2] each.

    The energy of the four together is that of the plane. An odd last row or column is left out.
    """
    height, width = (size // 2 * 2 for size in plane.shape[1:])
    top, bottom = plane[:, 0:height:2], plane[:, 1:height:2]
    a, b, c, d = (half[:, :, start:width:2] for half in (top, bottom) for start in (0, 1))
    return (a + b + c + d) / 2, ((a - b + c - d) / 2, (a + b - c - d) / 2, (a - b - c + d) / 2)


def log_energy(plane: Tensor) -> Tensor:
    """Return the logarithm of the mean square of a plane: [N]; it ends at that of one grey level."""
    return torch.log(plane.square().mean(dim=(1, 2)) + FLOOR)


def _shape(plane: Tensor) -> Tensor:
    """Return the logarithm of the kurtosis about the mean of a plane: [N]."""
    deviations = plane - plane.mean(dim=(1, 2), keepdim=True)
    squares = deviations.square()
    return log_kurtosis(squares.mean(dim=(1, 2)), squares.square().mean(dim=(1, 2)))


def wavelet_features(luma: Tensor, cb: Tensor, cr: Tensor) -> Features:
    """Return energy and shape of the sub-bands of the luma at three scales, and the energy of the colours' detail."""
    found: Features = {}
    plane = luma.double() / 255
    for scale in range(1, SCALES + 1):
        plane, bands = haar_step(plane)
        for name, band in zip(SUB_BANDS, bands, strict=True):
            found[f"haar.s{scale}.{name}.log_energy"] = log_energy(band)
            found[f"haar.s{scale}.{name}.mean_absolute"] = band.abs().mean(dim=(1, 2))
            found[f"haar.s{scale}.{name}.log_kurtosis"] = _shape(band)
    for colour, values in (("cb", cb), ("cr", cr)):
        plane = values.double() / 255
        for scale in range(1, SCALES + 1):
            plane, bands = haar_step(plane)
            found[f"haar.s{scale}.{colour}.log_energy"] = log_energy(torch.cat(bands, dim=1))
    return found


def gradient_features(luma: Tensor) -> Features:
    """Return statistics of edges: strength, how few the strong ones are, and whether they prefer a direction.

    Gradients are central differences, in grey levels per pixel, on [0, 1].
    """
    plane = luma.double() / 255
    centre = plane[:, 1:-1, 1:-1]
    left, right, above, below = plane[:, 1:-1, :-2], plane[:, 1:-1, 2:], plane[:, :-2, 1:-1], plane[:, 2:, 1:-1]
    gx, gy = (right - left) / 2, (below - above) / 2
    xx, yy, xy = (values.mean(dim=(1, 2)) for values in (gx * gx, gy * gy, gx * gy))
    strength = (gx * gx + gy * gy).sqrt()
    laplacian = left + right + above + below - 4 * centre
    shares = torch.tensor(GRADIENT_QUANTILES, dtype=torch.float64)
    quantiles = _quantiles(strength.flatten(1), shares)
    return {
        "gradient.mean": strength.mean(dim=(1, 2)),
        "gradient.sd": strength.flatten(1).std(dim=1, correction=0),
        "gradient.log_kurtosis": _shape(strength),
        **{
            f"gradient.q{round(100 * share)}": values
            for share, values in zip(GRADIENT_QUANTILES, quantiles, strict=True)
        },
        # The structure tensor's double angle: 1 and -1 are all across and all along, or the two diagonals.
        "gradient.across": (xx - yy) / (xx + yy + FLOOR),
        "gradient.diagonal": 2 * xy / (xx + yy + FLOOR),
        "laplacian.log_energy": log_energy(laplacian),
        "laplacian.log_kurtosis": _shape(laplacian),
    }


def _quantiles(values: Tensor, shares: Tensor) -> Tensor:
    """Return quantiles of rows [N, M], each a value that occurs: [len(shares), N]."""
    ranks = (shares * (values.shape[1] - 1)).round().long()
    return values.sort(dim=1).values[:, ranks].T
