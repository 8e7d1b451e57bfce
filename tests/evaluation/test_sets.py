"""Which images are compared: as many of each class, patients in turn."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from synthmed.data.labels import Classes
from synthmed.data.sets.image_set import ImageSet
from synthmed.errors import DataError
from synthmed.evaluation.sets import balance_classes
from synthmed.runtime.seeds import numpy_generator

CLASSES = ("no-glaucoma", "glaucoma")


@pytest.fixture
def real(make_image_set: Callable[..., ImageSet]) -> ImageSet:
    """Five patients with two images of each class."""
    return make_image_set(
        np.zeros((20, 3, 16, 16)),
        np.arange(20) % 2,
        name="shards:train",
        classes=Classes(CLASSES, {"RG": "glaucoma"}),
        groups=[f"patient{index % 5}" for index in range(20)],
    )


def test_balanced_set_has_equal_classes_and_lets_patients_take_turns(real: ImageSet) -> None:
    images = real.subset([k for k in range(20) if real.labels[k] or k < 14])
    assert Counter(images.labels.tolist()) == {0: 7, 1: 10}
    balanced = balance_classes(images, numpy_generator(0, "balance"))
    assert Counter(balanced.labels.tolist()) == {0: 7, 1: 7}
    # Five patients of two images a class: each gives one before any gives a second.
    for seed in range(5):
        once = balance_classes(real, numpy_generator(seed, "balance"), images_per_class=5)
        for label in (0, 1):
            assert len({once.groups[number] for number in np.flatnonzero(once.labels == label)}) == 5
    again, other = (balance_classes(images, numpy_generator(seed, "balance")) for seed in (0, 1))
    assert again.keys == balanced.keys
    assert other.keys != balanced.keys
    assert list(balanced.keys) == [key for key in images.keys if key in balanced.keys]


def test_images_of_unknown_patients_are_drawn_one_by_one(real: ImageSet) -> None:
    images = replace(real, groups=("",) * 20)
    drawn = Counter(
        key for seed in range(200) for key in balance_classes(images, numpy_generator(seed), images_per_class=2).keys
    )
    # 200 draws of 2 in 10: each image about 40 times, with a standard deviation of 5.7.
    assert len(drawn) == 20
    assert 15 < min(drawn.values()) <= max(drawn.values()) < 65


def test_more_images_than_there_are_cannot_be_drawn(real: ImageSet) -> None:
    with pytest.raises(DataError, match="has 10 images of class no-glaucoma, 11 are needed"):
        balance_classes(real, numpy_generator(0), images_per_class=11)
    with pytest.raises(DataError, match="has 0 images of class glaucoma, 1 are needed"):
        balance_classes(real.subset(np.flatnonzero(real.labels == 0)), numpy_generator(0))
