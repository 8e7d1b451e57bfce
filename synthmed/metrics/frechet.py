"""The Fréchet distance of two sets of features; on Inception's it is the FID (Heusel et al. 2017).

The squared 2-Wasserstein distance of the Gaussians with the sets' means and covariances (Dowson and Landau 1982):

    |m_a - m_b|^2 + tr S_a + tr S_b - 2 tr (S_a S_b)^1/2

Everything is summed in float64. Shapes as in `feature_arrays`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike

from synthmed.metrics.feature_arrays import Features, Floats, Masks, check_masks, check_pair


def frechet_distances(real: ArrayLike, generated: ArrayLike, real_masks: Masks, generated_masks: Masks) -> Floats:
    """Return the Fréchet distance under each pair of masks: [R].

    Cost at 10 000 x 10 000 x 2 048: one covariance a side (84 GFLOP each, once), then per row about 60 GFLOP where
    the masks leave out a twentieth, 100 more where they leave out half. Rows that share a side's mask share its part.
    """
    first, second = check_pair(real, generated, minimum=2)
    kept_real = check_masks(real_masks, len(first), "real", minimum=2)
    kept_generated = check_masks(generated_masks, len(second), "generated", minimum=2)
    # The distance does not change when both sets move; near zero no digits are lost to a common offset.
    origin = first.mean(axis=0, dtype=np.float64)
    sides = _Side(first, origin), _Side(second, origin)
    rows = zip(kept_real, kept_generated, strict=True)
    return np.array([_distance(sides[0].moments(mask), sides[1].moments(other)) for mask, other in rows])


@dataclass
class _Moments:
    """What the distance needs of one set; the square root is kept, since many rows may ask for it."""

    count: int
    mean: Floats
    trace: float
    centred: Floats | None = None
    """[N, D] deviations from the mean, of a set of no more images than features; of others the covariance."""
    covariance: Floats | None = None
    """[D, D]"""
    root: torch.Tensor | None = None

    def covariance_matrix(self) -> torch.Tensor:
        assert self.covariance is not None
        return torch.from_numpy(self.covariance)

    def factor(self) -> torch.Tensor:
        """Return F [D, D] with F F^T equal to the covariance."""
        if self.root is None:
            self.root = square_root_factor(self.covariance_matrix(), rank=self.count - 1)
        return self.root


class _Side:
    """The features of one set, and the moments of those that a mask keeps."""

    def __init__(self, features: Features, origin: Floats) -> None:
        self.features: Floats = features - origin
        self.sum: Floats | None = None
        self.products: Floats | None = None
        self.last: tuple[Masks, _Moments] | None = None

    def moments(self, mask: Masks) -> _Moments:
        if self.last is None or not np.array_equal(self.last[0], mask):
            self.last = mask, self._moments(mask)
        return self.last[1]

    def _moments(self, mask: Masks) -> _Moments:
        count, width = int(mask.sum()), self.features.shape[1]
        if count <= width:
            centred = self.features[mask]
            mean = centred.mean(axis=0)
            centred -= mean
            return _Moments(count, mean, float((centred**2).sum()) / (count - 1), centred=centred)
        total, products = self._sums(mask)
        mean = total / count
        covariance = (products - np.outer(mean, total)) / (count - 1)
        return _Moments(count, mean, float(np.trace(covariance)), covariance=covariance)

    def _sums(self, mask: Masks) -> tuple[Floats, Floats]:
        """Return sum and sum of outer products of the rows kept: directly, or all less the rows left out."""
        if 2 * mask.sum() < len(mask):
            rows = self.features[mask]
            return rows.sum(axis=0), rows.T @ rows
        if self.sum is None or self.products is None:
            self.sum, self.products = self.features.sum(axis=0), self.features.T @ self.features
        rows = self.features[~mask]
        return self.sum - rows.sum(axis=0), self.products - rows.T @ rows


def _distance(a: _Moments, b: _Moments) -> float:
    apart = float(((a.mean - b.mean) ** 2).sum())
    # Rounding can take the distance of equal sets below zero by some 1e-12 of the traces.
    return max(0.0, apart + a.trace + b.trace - 2 * _cross_trace(a, b))


def _cross_trace(a: _Moments, b: _Moments) -> float:
    """Return tr (S_a S_b)^1/2, by the way that is cheaper for the sizes."""
    if a.centred is not None or b.centred is not None:
        few, many = (a, b) if b.centred is None or (a.centred is not None and a.count <= b.count) else (b, a)
        assert few.centred is not None
        if many.centred is not None:
            return nuclear_norm_of_products(few.centred, many.centred)
        # X_a S_b X_a^T / (n_a - 1) has the eigenvalues of S_a S_b, and is as small as the smaller set.
        rows = torch.from_numpy(few.centred)
        return _sum_of_roots(rows @ many.covariance_matrix() @ rows.T / (few.count - 1), few.count - 1)
    factor = a.factor()
    return _sum_of_roots(factor.T @ b.covariance_matrix() @ factor, min(a.count, b.count) - 1)


def nuclear_norm_of_products(a: Floats, b: Floats) -> float:
    """Return tr (S_a S_b)^1/2 of centred features [N_a, D] and [N_b, D], no larger matrix than N_a x N_b in use.

    With S = X^T X / (n - 1) the eigenvalues of S_a S_b are those of M M^T, M = X_a X_b^T / sqrt((n_a - 1)(n_b - 1)):
    the trace is the sum of the singular values of M.
    """
    small, large = (a, b) if len(a) <= len(b) else (b, a)
    products = torch.from_numpy(small) @ torch.from_numpy(large).T
    products /= ((len(a) - 1) * (len(b) - 1)) ** 0.5
    return _sum_of_roots(products @ products.T, min(len(small) - 1, small.shape[1]))


def square_root_factor(covariance: torch.Tensor, *, rank: int) -> torch.Tensor:
    """Return F [D, D] with F F^T = S: Cholesky's, or from eigenvectors where S is singular.

    Args:
        covariance: S, [D, D] float64, symmetric.
        rank: Largest rank S can have, one less than the images behind it; smaller eigenvalues are rounding errors.
    """
    if rank >= len(covariance):
        factor: torch.Tensor
        factor, failed = torch.linalg.cholesky_ex(covariance)
        if not failed:
            return factor
    values, vectors = torch.linalg.eigh(covariance)
    values = values.clamp(min=0)
    values[: max(0, len(values) - rank)] = 0
    scaled: torch.Tensor = vectors * values.sqrt()
    return scaled


def _sum_of_roots(matrix: torch.Tensor, rank: int) -> float:
    """Return the sum of the roots of the `rank` largest eigenvalues of a symmetric matrix without negative ones.

    The others are zero but for rounding, whose roots (1e-8 each) would add up over two thousand features.
    """
    values = torch.linalg.eigvalsh((matrix + matrix.T) / 2)
    return float(values[max(0, len(values) - rank) :].clamp(min=0).sqrt().sum())
