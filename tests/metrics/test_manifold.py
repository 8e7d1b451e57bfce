"""Rules of precision, recall, density and coverage, against their definitions, torch-fidelity and planted faults."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch_fidelity.metric_prc import prc_features_to_metric

from synthmed.errors import DataError
from synthmed.metrics.feature_arrays import keep_all
from synthmed.metrics.manifold import manifold_scores_of_masks, squared_radii
from synthmed.runtime.seeds import numpy_generator

NAMES = ("precision", "recall", "density", "coverage")


def draw(seed: int, count: int, width: int = 4, *, shift: float = 0.0, scale: float = 1.0):
    return (numpy_generator(seed, "features").normal(size=(count, width)) * scale + shift).astype(np.float32)


def distances_between(a, b):
    return np.sqrt(((a[:, None].astype(np.float64) - b[None].astype(np.float64)) ** 2).sum(axis=2))


def by_definition(real, generated, *, precision_k: int = 3, density_k: int = 5) -> dict[str, float]:
    def radii(points, k: int):
        # Position 0 is the point itself.
        return np.sort(distances_between(points, points), axis=1)[:, k]

    across = distances_between(real, generated)
    balls, wide = radii(real, precision_k), radii(real, density_k)
    others = radii(generated, precision_k)
    in_ball, in_wide, in_other = across <= balls[:, None], across <= wide[:, None], across <= others[None]
    real_numbers, generated_numbers = range(len(real)), range(len(generated))
    return {
        "precision": np.mean([any(in_ball[i, j] for i in real_numbers) for j in generated_numbers]),
        "recall": np.mean([any(in_other[i, j] for j in generated_numbers) for i in real_numbers]),
        "density": np.mean([sum(in_wide[i, j] for i in real_numbers) / density_k for j in generated_numbers]),
        "coverage": np.mean([any(in_wide[i, j] for j in generated_numbers) for i in real_numbers]),
    }


def scores(real, generated, **words) -> dict[str, float]:
    masks: dict[str, Any] = {"real_masks": keep_all(real), "generated_masks": keep_all(generated)}
    found = manifold_scores_of_masks(real=real, generated=generated, **masks, **words)
    return {name: float(values[0]) for name, values in found.items()}


@pytest.mark.parametrize("words", [{}, {"precision_k": 1, "density_k": 2}, {"precision_k": 6, "density_k": 4}])
def test_scores_equal_their_definitions(words):
    real, generated = draw(1, 45), draw(2, 38, shift=0.9, scale=0.8)
    found = scores(real, generated, **words)
    assert found == pytest.approx(by_definition(real, generated, **words), rel=1e-12)
    assert all(0.1 < found[name] < 1 for name in NAMES), "the case tells nothing apart"


def test_precision_and_recall_equal_torch_fidelity():
    real, generated = draw(1, 130, 16), draw(2, 110, 16, shift=0.5)
    theirs = prc_features_to_metric(
        torch.from_numpy(generated).double(),
        torch.from_numpy(real).double(),
        prc_neighborhood=3,
        prc_batch_size=50,
        save_cpu_ram=True,
        verbose=False,
    )
    found = scores(real, generated)
    assert found["precision"] == pytest.approx(theirs["precision"], rel=1e-6)
    assert found["recall"] == pytest.approx(theirs["recall"], rel=1e-6)
    assert found["precision"] != found["recall"]


def test_generator_that_makes_one_mode_is_precise_and_recalls_little():
    real = np.concatenate([draw(1, 100), draw(2, 100, shift=10), draw(3, 100, shift=-10)])
    collapsed = scores(real, draw(4, 300))
    assert collapsed["precision"] > 0.8
    assert collapsed["recall"] < 0.4
    assert collapsed["coverage"] < 0.4
    assert 0.7 < collapsed["density"] < 1.3
    # And one that makes what there is not, beside everything there is.
    too_wide = scores(draw(4, 300), real)
    assert too_wide["precision"] < 0.4
    assert too_wide["recall"] > 0.8


def test_images_crowding_in_the_densest_part_are_dense():
    found = scores(draw(1, 200), draw(2, 200, scale=0.3))
    assert found["density"] > 1.15
    assert found["coverage"] < 0.7


def test_precision_and_recall_swap_with_the_sets():
    real, generated = draw(1, 60), draw(2, 50, shift=0.7)
    found, swapped = scores(real, generated), scores(generated, real)
    assert (found["precision"], found["recall"]) == (swapped["recall"], swapped["precision"])
    assert found["precision"] != found["recall"]


def test_copies_of_the_real_images_lie_on_the_edges_of_balls_and_count():
    # Every ball reaches to a real image, so its copy lies exactly on the edge: 1 centre + k neighbours.
    real = draw(1, 50, 64) + np.float32(100)
    found = scores(real, real.copy(), precision_k=3, density_k=5)
    assert found == {"precision": 1, "recall": 1, "density": 6 / 5, "coverage": 1}


@pytest.mark.parametrize("block", [7, 1024])
def test_masks_give_what_the_images_kept_give(block):
    real, generated = draw(1, 60), draw(2, 48, shift=0.5)
    generator = numpy_generator(3, "masks")
    masks = [generator.uniform(size=(4, count)) < [[1], [0.9], [0.5], [0.3]] for count in (60, 48)]
    found = manifold_scores_of_masks(
        real=real, generated=generated, real_masks=masks[0], generated_masks=masks[1], block=block
    )
    for row, (one, other) in enumerate(zip(*masks, strict=True)):
        expected = by_definition(real[one], generated[other])
        assert {name: float(found[name][row]) for name in NAMES} == pytest.approx(expected, rel=1e-12)


def test_radii_are_searched_again_where_a_mask_keeps_no_near_neighbour():
    # One end of a line is left out, so that its last image has to reach over it.
    line = np.arange(400, dtype=np.float64)[:, None]
    mask = np.ones(400, dtype=bool)
    mask[1:200] = False
    radii = squared_radii(line, mask[None], (1, 3), block=64)
    assert radii[:, 0, 0].tolist() == [200**2, 202**2]
    assert radii[:, 0, 300].tolist() == [1, 4]
    assert (radii[:, 0, 1:200] == -np.inf).all()


def test_too_few_images_are_refused():
    with pytest.raises(DataError, match="5 generated images are too few for this score"):
        scores(draw(1, 20), draw(2, 5))
    with pytest.raises(DataError, match="4 real images are too few"):
        manifold_scores_of_masks(
            real=draw(1, 20),
            generated=draw(2, 20),
            real_masks=np.arange(20)[None] < 4,
            generated_masks=np.ones((1, 20), dtype=bool),
        )
