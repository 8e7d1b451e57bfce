"""Rules of the table of scores."""

from __future__ import annotations

import numpy as np
import pytest

from synthmed.metrics.feature_arrays import keep_all
from synthmed.metrics.frechet import frechet_distances
from synthmed.metrics.kernel import kernel_distances
from synthmed.metrics.manifold import manifold_scores_of_masks
from synthmed.metrics.scores import FAMILIES, MINIMUM, SCORES, affordable_permutations
from synthmed.runtime.seeds import numpy_generator


def draw(seed: int, count: int, *, shift: float = 0.0):
    return (numpy_generator(seed, "features").normal(size=(count, 5)) + shift).astype(np.float32)


def all_scores(real, generated) -> dict[str, float]:
    masks = {"real_masks": keep_all(real), "generated_masks": keep_all(generated)}
    families = [masked(real=real, generated=generated, **masks) for masked in FAMILIES.values()]
    return {name: float(values[0]) for found in families for name, values in found.items()}


def test_table_gives_what_the_functions_give():
    real, generated = draw(1, 50), draw(2, 40, shift=0.8)
    masks = keep_all(real), keep_all(generated)
    expected = {"fid": frechet_distances(real, generated, *masks)[0]}
    expected["kid"] = kernel_distances(real, generated, *masks)[0]
    manifold = manifold_scores_of_masks(real=real, generated=generated, real_masks=masks[0], generated_masks=masks[1])
    expected |= {name: values[0] for name, values in manifold.items()}
    assert all_scores(real, generated) == pytest.approx(expected, rel=1e-12)
    assert expected.keys() == SCORES.keys()


def test_every_score_falls_or_rises_towards_the_better():
    real = draw(1, 80)
    good, bad = (all_scores(real, draw(2, 80, shift=shift)) for shift in (0, 2))
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
