"""Rules of similarity between pairs, against loops over pairs."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from synthmed.errors import DataError
from synthmed.metrics.diversity import pair_similarity, random_pairs
from synthmed.metrics.reconstruction import ms_ssim
from synthmed.runtime.seeds import numpy_generator, torch_generator


def pictures(count: int, size: int = 48):
    # Coarse noise: fine noise is equally unlike at every scale.
    coarse = torch.randint(0, 256, (count, 3, 8, 8), generator=torch_generator(1, "pictures")).float()
    return torch.nn.functional.interpolate(coarse, size, mode="bilinear").to(torch.uint8)


def test_few_images_give_every_pair_once():
    pairs = random_pairs(9, 1000, numpy_generator(0, "pairs"))
    assert sorted(map(tuple, pairs.tolist())) == sorted((a, b) for b in range(9) for a in range(b))


@pytest.mark.parametrize("count", [50, 100_000])
def test_many_images_give_as_many_different_pairs_as_wanted(count):
    pairs = random_pairs(count, 200, numpy_generator(0, "pairs"))
    assert len({tuple(pair) for pair in pairs.tolist()}) == 200
    assert (pairs[:, 0] >= 0).all()
    assert (pairs[:, 0] < pairs[:, 1]).all()
    assert (pairs[:, 1] < count).all()
    assert pairs.max() > 0.8 * count
    np.testing.assert_array_equal(pairs, random_pairs(count, 200, numpy_generator(0, "pairs")))


def test_similarity_is_the_mean_over_pairs_whatever_the_batch():
    images = pictures(5)
    values = [
        float(ms_ssim(images[a][None].float() / 255, images[b][None].float() / 255)) for b in range(5) for a in range(b)
    ]
    for batch in (3, 100):
        found = pair_similarity(images.__getitem__, 5, numpy_generator(0, "pairs"), batch=batch)
        assert found.mean == pytest.approx(np.mean(values), rel=1e-5)
        assert found.std == pytest.approx(np.std(values, ddof=1), rel=1e-4)
        assert (found.num_pairs, found.num_scales) == (10, 3)


def test_set_that_repeats_itself_is_more_alike():
    images = pictures(12)
    repeated = images[[0, 1] * 6]
    honest, collapsed = (
        pair_similarity(some.__getitem__, 12, numpy_generator(0, "pairs"), max_pairs=30) for some in (images, repeated)
    )
    assert honest.num_pairs == collapsed.num_pairs == 30
    assert collapsed.mean > honest.mean + 0.2
    same = pair_similarity(images[[0] * 4].__getitem__, 4, numpy_generator(0, "pairs"))
    assert same.mean == pytest.approx(1)


def test_what_makes_no_pair_is_refused():
    with pytest.raises(DataError, match="1 images make no pair"):
        pair_similarity(pictures(1).__getitem__, 1, numpy_generator(0, "pairs"))
    with pytest.raises(DataError, match="images of 10 pixels are too small"):
        pair_similarity(pictures(2, 10).__getitem__, 2, numpy_generator(0, "pairs"))
