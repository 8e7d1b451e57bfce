"""Rules of the Fréchet distance, against closed forms and against torch-fidelity and torchmetrics."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torchmetrics.image.fid import FrechetInceptionDistance

from synthmed.errors import DataError
from synthmed.metrics.feature_arrays import keep_all
from synthmed.metrics.frechet import frechet_distances, nuclear_norm_of_products
from synthmed.runtime.seeds import numpy_generator


def draw(seed: int, count: int, width: int, *, shift: float = 0.0, dtype=np.float32):
    """Features with correlations and a spectrum that falls as those of networks do."""
    generator = numpy_generator(seed, "features")
    mixing = generator.normal(size=(width, width)) * (1 + np.arange(width)[:, None]) ** -0.7
    return (generator.normal(size=(count, width)) @ mixing + shift + 0.4).astype(dtype)


def distance(a, b) -> float:
    return float(frechet_distances(a, b, keep_all(a), keep_all(b))[0])


def with_moments(seed: int, mean, covariance, count: int):
    """A sample whose own mean and covariance are exactly those given."""
    sample = numpy_generator(seed, "sample").normal(size=(count, len(mean)))
    sample -= sample.mean(axis=0)
    whitened = sample @ np.linalg.inv(np.linalg.cholesky(sample.T @ sample / (count - 1))).T
    return whitened @ np.linalg.cholesky(covariance).T + mean


def test_gaussians_with_commuting_covariances_have_the_closed_form():
    generator = numpy_generator(0, "basis")
    basis, _ = np.linalg.qr(generator.normal(size=(7, 7)))
    first, second = generator.uniform(0.1, 3, 7), generator.uniform(0.1, 3, 7)
    step = generator.normal(size=7)
    a = with_moments(1, np.full(7, 100.0), basis * first @ basis.T, 40)
    b = with_moments(2, 100 + step, basis * second @ basis.T, 60)
    expected = (step**2).sum() + ((np.sqrt(first) - np.sqrt(second)) ** 2).sum()
    assert distance(a, b) == pytest.approx(expected, rel=1e-10)


def test_general_gaussians_of_two_dimensions_have_the_closed_form():
    # tr (AB)^1/2 of 2 x 2 matrices is sqrt(tr AB + 2 sqrt(det AB)), commuting or not.
    one, other = np.array([[2.0, 0.9], [0.9, 1.0]]), np.array([[0.5, -0.4], [-0.4, 3.0]])
    assert not np.allclose(one @ other, other @ one)
    product = one @ other
    root = np.sqrt(np.trace(product) + 2 * np.sqrt(np.linalg.det(product)))
    expected = 0.25 + 9 + np.trace(one) + np.trace(other) - 2 * root
    a, b = with_moments(1, np.array([0.0, 1.0]), one, 30), with_moments(2, np.array([0.5, 4.0]), other, 50)
    assert distance(a, b) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("counts", [(300, 200), (30, 200), (200, 30), (30, 50), (49, 49), (48, 49)])
def test_all_ways_to_the_distance_agree(counts):
    a, b = draw(1, counts[0], 48), draw(2, counts[1], 48, shift=0.2)
    found = distance(a, b)
    centred = [side - side.mean(axis=0) for side in (a.astype(np.float64), b.astype(np.float64))]
    singular = np.linalg.svd(centred[0] @ centred[1].T, compute_uv=False).sum()
    singular /= np.sqrt((counts[0] - 1) * (counts[1] - 1))
    assert nuclear_norm_of_products(*centred) == pytest.approx(singular, rel=1e-9)
    traces = sum(np.cov(side, rowvar=False).trace() for side in centred)
    apart = ((a.mean(axis=0, dtype=np.float64) - b.mean(axis=0, dtype=np.float64)) ** 2).sum()
    assert found == pytest.approx(apart + traces - 2 * singular, rel=1e-9)


@pytest.mark.parametrize("counts", [(400, 300), (40, 50)])
def test_distance_equals_torch_fidelity_and_torchmetrics(counts):
    a, b = draw(1, counts[0], 64), draw(2, counts[1], 64, shift=0.2)
    ours = distance(a, b)
    theirs = fid_statistics_to_metric(
        *(fid_features_to_statistics(torch.from_numpy(side.astype(np.float64))) for side in (a, b)), False
    )
    assert ours == pytest.approx(theirs["frechet_inception_distance"], rel=1e-6)

    class Identity(torch.nn.Module):
        num_features = 64

        def forward(self, images):
            return images

    metric = FrechetInceptionDistance(feature=Identity(), input_img_size=(3, 8, 8), normalize=True).set_dtype(
        torch.float64
    )
    metric.update(torch.from_numpy(a).double(), real=True)
    metric.update(torch.from_numpy(b).double(), real=False)
    assert ours == pytest.approx(float(metric.compute()), rel=1e-6)


@pytest.mark.parametrize("count", [20, 100])
def test_equal_sets_are_at_distance_zero_and_order_does_not_matter(count):
    a, b = draw(1, count, 32), draw(2, count, 32)
    spread = np.cov(a, rowvar=False).trace()
    assert distance(a, a[::-1]) < 1e-9 * spread
    assert distance(a, b) == pytest.approx(distance(b, a), rel=1e-9)


@pytest.mark.parametrize("counts", [(90, 80), (25, 80), (25, 22)])
def test_masks_give_what_the_images_kept_give(counts):
    a, b = draw(1, counts[0], 20), draw(2, counts[1], 20, shift=0.3)
    generator = numpy_generator(3, "masks")
    shares = np.array([1.0, 0.9, 0.4, 0.4])[:, None]
    masks = [generator.uniform(size=(4, count)) < shares for count in counts]
    masks[0][3] = masks[0][2]
    expected = [distance(a[one], b[other]) for one, other in zip(*masks, strict=True)]
    np.testing.assert_allclose(frechet_distances(a, b, *masks), expected, rtol=1e-9)


def test_constant_features_count_for_their_means_alone():
    a, b = draw(1, 60, 8), draw(2, 60, 8)
    expected = distance(a, b) + 4
    a, b = (np.concatenate([side, np.full((60, 1), value)], axis=1) for side, value in ((a, 1.0), (b, 3.0)))
    assert distance(a, b) == pytest.approx(expected, rel=1e-7)


def test_features_that_cannot_be_scored_are_refused():
    good = draw(1, 10, 4)
    broken = good.copy()
    broken[2, 1] = np.nan
    with pytest.raises(DataError, match="1 of 10 generated images have features that are not finite"):
        distance(good, broken)
    with pytest.raises(DataError, match="1 real images are too few"):
        distance(good[:1], good)
    with pytest.raises(DataError, match="4 features and generated ones 3"):
        distance(good, good[:, :3])
    with pytest.raises(DataError, match="shape"):
        distance(good[0], good)
