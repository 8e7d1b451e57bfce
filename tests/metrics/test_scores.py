"""Rules of the table of scores."""

from __future__ import annotations

import numpy as np
import pytest

from synthmed.metrics.frechet import frechet_distance_of_features
from synthmed.metrics.kernel import kernel_distance
from synthmed.metrics.manifold import manifold_scores
from synthmed.metrics.scores import FAMILIES, MINIMUM, SCORES, affordable_permutations, all_scores
from synthmed.runtime.seeds import numpy_generator


def draw(seed: int, count: int, *, shift: float = 0.0):
    return (numpy_generator(seed, "features").normal(size=(count, 5)) + shift).astype(np.float32)


def test_table_gives_what_the_functions_give():
    real, generated = draw(1, 50), draw(2, 40, shift=0.8)
    expected = {"fid": frechet_distance_of_features(real, generated), "kid": kernel_distance(real, generated)}
    expected |= vars(manifold_scores(real=real, generated=generated))
    assert all_scores(real=real, generated=generated) == pytest.approx(expected, rel=1e-12)
    assert {name: score(real=real, generated=generated) for name, score in SCORES.items()} == expected
    assert expected.keys() == SCORES.keys()


def test_every_score_falls_or_rises_towards_the_better():
    real = draw(1, 80)
    good, bad = (all_scores(real=real, generated=draw(2, 80, shift=shift)) for shift in (0, 2))
    for name, score in SCORES.items():
        assert (good[name] < bad[name]) == (score.better == "lower"), name


@pytest.mark.parametrize("family", FAMILIES)
def test_family_takes_as_few_images_as_it_says(family):
    few, many = draw(1, MINIMUM[family]), draw(2, 20)
    masks = {"real_masks": np.ones((1, len(few)), dtype=bool), "generated_masks": np.ones((1, 20), dtype=bool)}
    assert all(np.isfinite(value).all() for value in FAMILIES[family](real=few, generated=many, **masks).values())


@pytest.mark.parametrize("family", FAMILIES)
def test_permutations_become_fewer_as_they_become_dear(family):
    sizes = ((300, 128), (3000, 1280), (10_000, 2048))
    numbers = [
        affordable_permutations(family, num_real=count, num_generated=count, num_features=width)
        for count, width in sizes
    ]
    assert numbers == sorted(numbers, reverse=True)
    assert numbers[0] == 999
    assert numbers[-1] >= 99
