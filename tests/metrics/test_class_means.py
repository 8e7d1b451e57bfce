"""Means with equal weights of classes, against sums by hand."""

from __future__ import annotations

import numpy as np
import pytest

from synthmed.errors import DataError
from synthmed.metrics.class_means import balanced_means, class_means, common_weights

# Class, and two figures.
REAL = np.array([[0, 1, 10], [0, 3, 30], [1, 5, 50], [2, 8, 80]], dtype=float)
MADE = np.array([[0, 2, 20], [1, 4, 40], [1, 6, 60]], dtype=float)
ALL = np.ones((1, 4), dtype=bool)


def test_means_of_each_class_are_of_the_images_that_a_mask_keeps():
    counts, means = class_means(REAL, np.array([[1, 1, 1, 1], [1, 0, 0, 1]], dtype=bool), 4)
    assert counts.tolist() == [[2, 1, 1, 0], [1, 0, 1, 0]]
    assert means[0].tolist() == [[2, 20], [5, 50], [8, 80], [0, 0]]
    assert means[1].tolist() == [[1, 10], [0, 0], [8, 80], [0, 0]]


def test_classes_of_both_sides_weigh_the_same():
    real, made = balanced_means(REAL, MADE, ALL, ALL[:, :3])
    assert real.tolist() == [[3.5, 35]] and made.tolist() == [[3.5, 35]]


def test_sets_without_a_class_in_common_are_refused():
    with pytest.raises(DataError, match="no class has 1 of them on both sides"):
        balanced_means(REAL[3:], MADE, ALL[:, :1], ALL[:, :3])
    with pytest.raises(DataError, match="no class has 2"):
        common_weights(np.array([[2.0, 1.0]]), np.array([[1.0, 2.0]]), least=2)
