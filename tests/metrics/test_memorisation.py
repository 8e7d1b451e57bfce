"""Authenticity and C_T: against pair counting, and on generators that copy, are honest, or underfit."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from synthmed.errors import DataError
from synthmed.metrics.memorisation import (
    authenticity,
    conformal_ranks,
    copying_z,
    count_p_value,
    data_copying,
    find_centres,
)
from synthmed.runtime.seeds import numpy_generator


def blobs(name: str, count: int, spread: float = 1.0) -> np.ndarray:
    """Return points of three round clouds: [count, 4]."""
    rng = numpy_generator(0, "blobs", name)
    centres = np.array([[0, 0, 0, 0], [20, 0, 0, 0], [0, 20, 0, 0]])
    return centres[rng.integers(3, size=count)] + spread * rng.normal(size=(count, 4))


def test_authenticity_is_its_definition() -> None:
    training, generated = blobs("train", 60), blobs("generated", 40)
    generated[:10] = training[:10] + 0.01
    between = np.linalg.norm(training[:, None] - training[None], axis=2)
    np.fill_diagonal(between, np.inf)
    count = 0
    for sample in generated:
        distances = np.linalg.norm(training - sample, axis=1)
        count += distances.min() > between[distances.argmin()].min()
    assert authenticity(training=training, generated=generated) == count / 40
    assert 0 < count <= 30


def test_copies_are_not_authentic_even_of_images_that_stand_twice_in_training() -> None:
    training = blobs("train", 50)
    assert authenticity(training=training, generated=training) == 0
    assert authenticity(training=np.repeat(training, 2, axis=0), generated=training) == 0
    assert authenticity(training=training, generated=training + 100) == 1


def test_z_counts_pairs() -> None:
    rng = numpy_generator(0, "ties")
    held_out, generated = rng.integers(12, size=30), rng.integers(9, size=25)
    u = sum(1.0 if g > h else 0.5 if g == h else 0.0 for g in generated for h in held_out)
    expected = (u - 375) / np.sqrt(750 * 56 / 12)
    assert copying_z(held_out=held_out, generated=generated) == pytest.approx(expected, rel=1e-12)
    assert expected < 0


def test_z_is_antisymmetric() -> None:
    near, far = blobs("a", 30)[:, 0], blobs("b", 20)[:, 1]
    z = copying_z(held_out=near, generated=far)
    assert copying_z(held_out=far, generated=near) == pytest.approx(-z, rel=1e-12)
    assert abs(z) > 0.1


@pytest.mark.parametrize("num_cells", [1, 3])
def test_sign_tells_copying_from_underfitting(num_cells: int) -> None:
    training, held_out = blobs("train", 300), blobs("held-out", 240)
    rng = numpy_generator(0, "noise")
    generators = {
        "copies": training + 0.05 * rng.normal(size=training.shape),
        "honest": blobs("generated", 300),
        "blurred": blobs("generated", 300, spread=2.0),
    }
    found = {
        name: data_copying(
            training=training,
            held_out=held_out,
            generated=generated,
            num_cells=num_cells,
            generator=numpy_generator(0, "cells"),
        ).c_t
        for name, generated in generators.items()
    }
    assert found["copies"] is not None and found["copies"] < -8
    assert found["honest"] is not None and abs(found["honest"]) < 2.5
    assert found["blurred"] is not None and found["blurred"] > 5


def test_cells_weigh_by_held_out_images_and_small_ones_do_not_count() -> None:
    # Three far clouds: held-out 60, 30, 10; generated copies, honest ones, and too few to count.
    rng = numpy_generator(0, "weights")
    centres = np.array([[0.0, 0], [100, 0], [0, 100]])
    training = np.concatenate([centre + rng.normal(size=(80, 2)) for centre in centres])
    held_out = np.concatenate(
        [centre + rng.normal(size=(count, 2)) for centre, count in zip(centres, (60, 30, 10), strict=True)]
    )
    generated = np.concatenate([training[:40], centres[1] + rng.normal(size=(40, 2)), training[160:179]])
    result = data_copying(
        training=training, held_out=held_out, generated=generated, num_cells=3, generator=numpy_generator(1, "cells")
    )
    order = np.argsort(result.shares)[::-1]
    assert np.array(result.shares)[order].tolist() == [0.6, 0.3, 0.1]
    scores = [result.cells[cell] for cell in order]

    def oracle(held_out: np.ndarray, generated: np.ndarray, training: np.ndarray) -> float:
        distances = [np.linalg.norm(a[:, None] - training[None], axis=2).min(axis=1) for a in (held_out, generated)]
        u = sum(float(g > h) + float(g == h) / 2 for g in distances[1] for h in distances[0])
        m, n = len(generated), len(held_out)
        return (u - m * n / 2) / float(np.sqrt(m * n * (m + n + 1) / 12))

    first = oracle(held_out[:60], generated[:40], training[:80])
    second = oracle(held_out[60:90], generated[40:80], training[80:160])
    assert scores[:2] == pytest.approx([first, second], rel=1e-9)
    assert scores[2] is None
    assert result.c_t == pytest.approx((0.6 * first + 0.3 * second) / 0.9, rel=1e-9)


def test_no_cell_that_counts_gives_none() -> None:
    points = blobs("few", 15)
    result = data_copying(
        training=points, held_out=points + 1, generated=points, num_cells=1, generator=numpy_generator(0)
    )
    assert (result.c_t, result.cells) == (None, (None,))


def test_centres_are_means_of_their_cells() -> None:
    points = blobs("train", 200)
    centres = find_centres(points, 3, numpy_generator(0, "cells"))
    owner = np.linalg.norm(points[:, None] - centres[None], axis=2).argmin(axis=1)
    for cell in range(3):
        assert centres[cell] == pytest.approx(points[owner == cell].mean(axis=0), abs=1e-12)
    same = find_centres(np.ones((5, 2)), 3, numpy_generator(0))
    assert (same == 1).all()


def test_more_cells_than_images_are_refused() -> None:
    with pytest.raises(DataError, match="too few"):
        data_copying(
            training=blobs("a", 3),
            held_out=blobs("b", 3),
            generated=blobs("c", 3),
            num_cells=4,
            generator=numpy_generator(0),
        )


def test_ranks_count_the_held_out_that_are_as_low() -> None:
    assert conformal_ranks([0.0, 1.0, 1.5, 9.0], [3.0, 1.0, 1.0, 2.0]).tolist() == [1, 3, 3, 5]


@pytest.mark.parametrize("rank", [1, 2, 4])
def test_probability_of_a_count_is_that_over_all_orders(rank: int) -> None:
    num_generated, num_held_out = 5, 4
    counts = []
    for places in combinations(range(9), num_held_out):
        generated = [place for place in range(9) if place not in places]
        counts.append(int((conformal_ranks(generated, places) <= rank).sum()))
    for count in range(num_generated + 1):
        expected = np.mean([found >= count for found in counts])
        found = count_p_value(count, num_generated=num_generated, num_held_out=num_held_out, rank=rank)
        assert found == pytest.approx(float(expected), rel=1e-12)
    assert np.mean(counts) == pytest.approx(num_generated * rank / (num_held_out + 1))


def test_probability_of_a_large_count_is_a_number() -> None:
    assert 0 <= count_p_value(9000, num_generated=10_000, num_held_out=2000, rank=20) < 1e-300
    assert count_p_value(0, num_generated=10_000, num_held_out=2000, rank=20) == 1
