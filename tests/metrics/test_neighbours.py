"""Rules of the search for neighbours, against brute force."""

from __future__ import annotations

import numpy as np
import pytest

from synthmed.errors import DataError
from synthmed.metrics.neighbours import blocks_of_distances, nearest
from synthmed.runtime.seeds import numpy_generator


def draw(seed: int, count: int, width: int = 9, *, offset: float = 0.0):
    return (numpy_generator(seed, "features").normal(size=(count, width)) + offset).astype(np.float32)


def by_brute_force(queries, references, k: int, *, exclude_self: bool = False):
    differences = queries[:, None].astype(np.float64) - references[None].astype(np.float64)
    distances = np.sqrt((differences**2).sum(axis=2))
    if exclude_self:
        np.fill_diagonal(distances, np.inf)
    indices = np.argsort(distances, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(distances, indices, axis=1), indices


@pytest.mark.parametrize("block", [1, 5, 16, 1024])
@pytest.mark.parametrize("exclude_self", [False, True])
@pytest.mark.parametrize("k", [1, 3, 30])
def test_neighbours_are_those_of_brute_force(block, exclude_self, k):
    references = draw(1, 31)
    queries = references if exclude_self else draw(2, 23)
    distances, indices = nearest(queries, references, k, exclude_self=exclude_self, block=block)
    expected = by_brute_force(queries, references, k, exclude_self=exclude_self)
    np.testing.assert_allclose(distances, expected[0], rtol=1e-14)
    np.testing.assert_array_equal(indices, expected[1])
    assert distances.dtype == np.float64
    assert indices.dtype == np.int64


def test_equal_rows_are_exactly_zero_apart_and_the_first_wins():
    # Far from the origin, where products of float32 would find hundreds in place of zero.
    references = draw(1, 40, 64, offset=1e4)
    references[[7, 20, 33]] = references[3]
    distances, indices = nearest(references, references, 3, exclude_self=True, block=8)
    assert (distances[[3, 7, 20, 33]] == 0).all()
    assert indices[[3, 7, 20, 33]].tolist() == [[7, 20, 33], [3, 20, 33], [3, 7, 33], [3, 7, 20]]
    assert (distances[0] > 0).all()
    distances, indices = nearest(references[[20]], references, 5)
    assert indices[0, :4].tolist() == [3, 7, 20, 33]
    assert (distances[0, :4] == 0).all()
    assert distances[0, 4] > 0


def test_offset_common_to_all_does_not_blur_the_distances():
    near = np.zeros((6, 4))
    near[:, 0] = np.arange(6) * 1e-3
    distances, _ = nearest(near + 1e6, near + 1e6, 1, exclude_self=True)
    np.testing.assert_allclose(distances[:, 0], 1e-3, rtol=1e-6)


def test_images_that_lie_close_beside_far_ones_are_told_apart():
    # Norms of a billion distances: the fast way sees nothing of the neighbours' order.
    places = np.array([0.0, 1e-3, 3e-3, 7e-3])
    features = np.concatenate([places - 1e6, places + 1e6])[:, None]
    distances, indices = nearest(features, features, 1, exclude_self=True)
    assert indices[:, 0].tolist() == [1, 0, 1, 2, 5, 4, 5, 6]
    np.testing.assert_allclose(distances[:4, 0], [1e-3, 1e-3, 2e-3, 4e-3], rtol=1e-5)


def test_blocks_cover_every_pair_once():
    queries, references = draw(1, 11), draw(2, 7)
    found = np.full((11, 7), np.nan)
    for rows, columns, squared in blocks_of_distances(queries, references, 4):
        assert np.isnan(found[rows, columns]).all()
        found[rows, columns] = squared
    distances, indices = by_brute_force(queries, references, 7)
    np.testing.assert_allclose(np.take_along_axis(found, indices, axis=1), distances**2, rtol=1e-12)


def test_neighbours_that_are_not_there_are_refused():
    with pytest.raises(DataError, match="5 neighbours of 4 images"):
        nearest(draw(1, 5), draw(1, 5), 5, exclude_self=True)
    with pytest.raises(DataError, match="6 neighbours of 5 images"):
        nearest(draw(1, 2), draw(1, 5), 6)
    with pytest.raises(DataError, match="9 features cannot be compared with 4"):
        nearest(draw(1, 2), draw(1, 5, 4), 1)


def test_no_queries_have_no_neighbours():
    distances, indices = nearest(np.empty((0, 9)), draw(1, 5), 2)
    assert distances.shape == indices.shape == (0, 2)
