"""Rules of the kernel distance, against double loops and against torch-fidelity and torchmetrics."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch_fidelity.metric_kid import kid_features_to_metric
from torchmetrics.image.kid import KernelInceptionDistance

from synthmed.errors import DataError
from synthmed.metrics.feature_arrays import keep_all
from synthmed.metrics.kernel import kernel_distances, kid
from synthmed.runtime.seeds import numpy_generator


def draw(seed: int, count: int, width: int = 6, *, shift: float = 0.0):
    return (numpy_generator(seed, "features").normal(size=(count, width)) + 0.5 + shift).astype(np.float32)


def distance(real, generated) -> float:
    return float(kernel_distances(real, generated, keep_all(real), keep_all(generated))[0])


def by_double_loop(real, generated) -> float:
    x, y = real.astype(np.float64), generated.astype(np.float64)

    def kernel(a, b) -> float:
        return float((a @ b / len(a) + 1) ** 3)

    def mean_of_pairs(rows) -> float:
        return float(np.mean([kernel(a, b) for i, a in enumerate(rows) for j, b in enumerate(rows) if i != j]))

    return mean_of_pairs(x) + mean_of_pairs(y) - 2 * float(np.mean([kernel(a, b) for a in x for b in y]))


def test_distance_equals_a_double_loop():
    real, generated = draw(1, 13), draw(2, 9, shift=0.3)
    assert distance(real, generated) == pytest.approx(by_double_loop(real, generated), rel=1e-12)
    assert distance(generated, real) == pytest.approx(by_double_loop(real, generated), rel=1e-12)


@pytest.mark.parametrize("block", [1, 4, 7, 100])
def test_masks_and_blocks_do_not_change_the_distance(block):
    real, generated = draw(1, 21), draw(2, 15, shift=0.3)
    generator = numpy_generator(3, "masks")
    masks = [generator.uniform(size=(5, count)) < 0.6 for count in (21, 15)]
    expected = [by_double_loop(real[one], generated[other]) for one, other in zip(*masks, strict=True)]
    np.testing.assert_allclose(kernel_distances(real, generated, *masks, block=block), expected, rtol=1e-11)


@pytest.mark.filterwarnings("ignore:Metric `Kernel Inception Distance` will save all:UserWarning")
def test_distance_equals_torch_fidelity_and_torchmetrics():
    real, generated = draw(1, 50, 24), draw(2, 50, 24, shift=0.1)
    ours = kid(real, generated, numpy_generator(0, "kid"), num_subsets=2, subset_size=50)
    theirs = kid_features_to_metric(
        torch.from_numpy(real).double(),
        torch.from_numpy(generated).double(),
        kid_subsets=2,
        kid_subset_size=50,
        rng_seed=0,
        verbose=False,
        kid_kernel="poly",
        kid_kernel_poly_degree=3,
        kid_kernel_poly_gamma=None,
        kid_kernel_poly_coef0=1,
    )
    assert ours.mean == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-9)
    assert ours.full == pytest.approx(ours.mean, rel=1e-9)

    class Identity(torch.nn.Module):
        num_features = 24

        def forward(self, images):
            return images

    metric = KernelInceptionDistance(feature=Identity(), subsets=2, subset_size=50).set_dtype(torch.float64)
    metric.update(torch.from_numpy(real).double(), real=True)
    metric.update(torch.from_numpy(generated).double(), real=False)
    assert ours.mean == pytest.approx(float(metric.compute()[0]), rel=1e-6)


def test_subsets_are_drawn_without_replacement_and_by_the_generator():
    real, generated = draw(1, 40), draw(2, 30, shift=0.3)
    first = kid(real, generated, numpy_generator(0, "kid"), num_subsets=7)
    assert first == kid(real, generated, numpy_generator(0, "kid"), num_subsets=7)
    assert (first.num_subsets, first.subset_size) == (7, 15)
    generator = numpy_generator(0, "kid")
    values = []
    for _ in range(7):
        one, other = (generator.choice(count, 15, replace=False) for count in (40, 30))
        values.append(by_double_loop(real[one], generated[other]))
    assert first.mean == pytest.approx(np.mean(values), rel=1e-10)
    assert first.std == pytest.approx(np.std(values), rel=1e-8)


def test_subsets_hold_a_thousand_images_where_there_are_more():
    result = kid(draw(1, 1100, 2), draw(2, 1001, 2), numpy_generator(0, "kid"), num_subsets=3)
    assert result.subset_size == 1000
    assert result.std > 0


def test_estimate_is_unbiased_whatever_the_sizes():
    pairs = ((5, 60), (20, 20))
    values = [
        [distance(draw(2 * seed, one), draw(2 * seed + 1, other, shift=0.2)) for one, other in pairs]
        for seed in range(400)
    ]
    few, many = np.mean(values, axis=0)
    error = np.std(values, axis=0).max() / np.sqrt(400)
    assert few == pytest.approx(many, abs=4 * error)


def test_too_few_images_are_refused():
    with pytest.raises(DataError, match="3 generated images are too few for this score"):
        kid(draw(1, 9), draw(2, 3), numpy_generator(0, "kid"))
    with pytest.raises(DataError, match="it needs at least 10"):
        kid(draw(1, 9), draw(2, 30), numpy_generator(0, "kid"), subset_size=10)
