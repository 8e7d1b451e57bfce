"""Rules of intervals, floors and permutation tests, on scores and distributions whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest

from synthmed.errors import DataError
from synthmed.metrics.resampling import (
    blocks_of_groups,
    jackknife_intervals,
    permutation_test,
    real_floor,
)
from synthmed.metrics.scores import BOUNDS, FAMILIES
from synthmed.runtime.seeds import numpy_generator


def mean_difference(*, real, generated, real_masks, generated_masks):
    """A linear score, so that everything about it is known: the difference of the first feature's means."""
    rows = zip(real_masks, generated_masks, strict=True)
    return {"difference": np.array([generated[others, 0].mean() - real[kept, 0].mean() for kept, others in rows])}


def draw(seed: int, count: int, width: int = 3, *, shift: float = 0.0):
    return numpy_generator(seed, "features").normal(size=(count, width)) + shift


def single(features) -> list[str]:
    return [""] * len(features)


def intervals(score, real, generated, *, groups=None, seed: int = 0, **words):
    return jackknife_intervals(
        score,
        real=real,
        generated=generated,
        real_groups=groups or single(real),
        generated_groups=single(generated),
        generator=numpy_generator(seed, "blocks"),
        **words,
    )


def test_blocks_hold_whole_groups_and_about_as_many_images():
    groups = ["a"] * 9 + ["b"] * 5 + ["c"] * 4 + ["d"] * 3 + [""] * 9
    blocks = blocks_of_groups(groups, 3, numpy_generator(0, "blocks"))
    assert all(len(set(blocks[np.array(groups) == group])) == 1 for group in "abcd")
    assert np.bincount(blocks).tolist() == [10, 10, 10]
    assert len(set(blocks_of_groups(["a", "a", "b"], 20, numpy_generator(0, "blocks")))) == 2


def test_leaving_out_single_images_gives_the_textbook_error_of_a_mean():
    real, generated = draw(1, 30), draw(2, 17, shift=2)
    found = intervals(mean_difference, real, generated, num_blocks=30)["difference"]
    variance = real[:, 0].var(ddof=1) / 30 + generated[:, 0].var(ddof=1) / 17
    assert found.std == pytest.approx(np.sqrt(variance), rel=1e-9)
    assert found.value == generated[:, 0].mean() - real[:, 0].mean()
    assert (found.num_real_blocks, found.num_generated_blocks) == (30, 17)
    assert found.low == pytest.approx(found.value - (found.high - found.value))
    assert 1.96 * found.std < found.high - found.value < 2.2 * found.std


@pytest.mark.parametrize(
    # 97.5 % quantiles of Student's t as tables give them; at 1.5 degrees solved with mpmath from its beta function.
    ("freedom", "images", "ratio", "quantile"),
    [
        (1, 2, 0, 12.7062),
        (1.5, 2, 2 - 3**0.5, 6.01666),
        (2, 2, 1, 4.30265),
        (10, 6, 1, 2.22814),
        (100, 51, 1, 1.98397),
    ],
)
def test_interval_reaches_to_the_quantile_of_students_t(freedom, images, ratio, quantile):
    # Variances of the two sides in this ratio have that many degrees of freedom by Welch.
    assert (1 + ratio) ** 2 / ((1 + ratio**2) / (images - 1)) == pytest.approx(freedom)
    real = np.arange(images, dtype=float)[:, None]
    found = intervals(mean_difference, real, real * ratio**0.5, num_blocks=images)["difference"]
    assert (found.high - found.value) / found.std == pytest.approx(quantile, rel=1e-5)


def test_images_of_one_patient_count_together():
    # All images of a patient are alike: there are as many independent values as patients, whatever the images.
    values, sizes = draw(1, 24), np.array([1, 2, 5] * 8)
    real, generated = np.repeat(values, sizes, axis=0), np.zeros((50, 3))
    groups = [f"p{patient}" for patient in np.repeat(np.arange(24), sizes)]
    found = intervals(mean_difference, real, generated, groups=groups, num_blocks=24)["difference"]
    deviations = sizes * (values[:, 0] - real[:, 0].mean())
    assert found.std == pytest.approx(np.sqrt((deviations**2).sum()) / len(real), rel=0.15)
    assert found.std > 1.3 * intervals(mean_difference, real, generated)["difference"].std


@pytest.mark.parametrize("family", FAMILIES)
def test_intervals_hold_the_expected_score(family):
    # 95 %, measured at length in tests/benchmarks; with 40 repeats 34 are the fewest chance leaves (p < 0.002).
    draws = [(draw(2 * seed, 60), draw(2 * seed + 1, 50, shift=0.4)) for seed in range(240)]
    score = FAMILIES[family]
    truth: dict[str, list[float]] = {}
    for real, generated in draws[40:]:
        masks = {"real_masks": np.ones((1, 60), dtype=bool), "generated_masks": np.ones((1, 50), dtype=bool)}
        for name, values in score(real=real, generated=generated, **masks).items():
            truth.setdefault(name, []).append(values[0])
    held = dict.fromkeys(truth, 0)
    for seed, (real, generated) in enumerate(draws[:40]):
        for name, found in intervals(score, real, generated, seed=seed, num_blocks=10, bounds=BOUNDS).items():
            held[name] += found.low <= np.mean(truth[name]) <= found.high
    assert all(count >= 34 for count in held.values()), held


def test_intervals_end_where_the_score_does_and_are_seeded():
    real, generated = draw(1, 40), draw(2, 40)
    found = intervals(FAMILIES["manifold"], real, generated, bounds=BOUNDS)
    assert found == intervals(FAMILIES["manifold"], real, generated, bounds=BOUNDS)
    assert found["coverage"].high == 1
    assert intervals(FAMILIES["manifold"], real, generated)["coverage"].high > 1


def test_share_of_all_images_is_not_certain():
    # Copies are covered to the last image, in every resample.
    real = draw(1, 40)
    found = intervals(FAMILIES["manifold"], real, np.concatenate([real, real]), bounds=BOUNDS)["recall"]
    assert (found.value, found.high) == (1, 1)
    assert found.std < 1e-12
    # No failure among 40: 1 - 0.025^(1 / 40), the interval of Clopper and Pearson.
    assert found.low == pytest.approx(1 - 0.0881, abs=1e-4)


def test_one_patient_gives_no_interval_and_no_floor():
    real, generated = draw(1, 20), draw(2, 20)
    with pytest.raises(DataError, match="all real images belong to one patient"):
        intervals(mean_difference, real, generated, groups=["p"] * 20)
    with pytest.raises(DataError, match="all real images belong to one patient"):
        generator = numpy_generator(0, "floor")
        real_floor(mean_difference, real=real, groups=["p"] * 20, num_generated=5, generator=generator)


@pytest.mark.parametrize(("num_generated", "sizes"), [(1000, (45, 45)), (45, (45, 45)), (20, (70, 20)), (3, (87, 3))])
def test_floor_splits_real_images_apart_in_sizes_near_those_wanted(num_generated, sizes):
    seen = []

    def score(*, real, generated, real_masks, generated_masks):
        assert real is generated
        assert not (real_masks & generated_masks).any()
        assert (real_masks | generated_masks).all()
        seen.append(generated_masks)
        return {"one": generated_masks.sum(axis=1).astype(float)}

    groups = [f"p{number // 2}" for number in range(60)] + [""] * 30
    words = {"real": draw(1, 90), "groups": groups, "num_generated": num_generated}
    found = real_floor(score, **words, generator=numpy_generator(0, "floor"), num_splits=40)["one"]
    assert (found.num_real, found.num_generated) == pytest.approx(sizes, abs=1)
    assert found.mean == pytest.approx(sizes[1], abs=1)
    assert found.num_splits == 40
    assert len(np.unique(seen[0], axis=0)) > 30
    # Patients are never divided.
    assert (seen[0][:, 0:60:2] == seen[0][:, 1:60:2]).all()


def test_floor_is_what_a_perfect_generator_reaches():
    real = draw(1, 400)
    groups = single(real)
    words = {"real": real, "groups": groups, "num_generated": 200, "generator": numpy_generator(0, "floor")}
    floor = real_floor(FAMILIES["frechet"], **words)["fid"]
    perfect = [
        FAMILIES["frechet"](
            real=draw(2 * seed, 200),
            generated=draw(2 * seed + 1, 200),
            real_masks=np.ones((1, 200), dtype=bool),
            generated_masks=np.ones((1, 200), dtype=bool),
        )["fid"][0]
        for seed in range(1, 100)
    ]
    assert floor.mean == pytest.approx(np.mean(perfect), rel=0.3)
    assert floor.std is not None
    assert floor.std > 0


def test_permutations_exchange_images_within_their_class():
    seen = []

    def score(*, real, generated, real_masks, generated_masks):
        seen.append((generated, generated_masks))
        return {"one": np.arange(len(generated_masks), dtype=float)}

    first, second = draw(1, 10), draw(2, 14)
    labels = [0] * 4 + [1] * 6, [0] * 9 + [1] * 5
    permutation_test(
        score,
        real=draw(3, 7),
        first=first,
        second=second,
        first_labels=labels[0],
        second_labels=labels[1],
        generator=numpy_generator(0, "permutations"),
        num_permutations=50,
    )
    ((pool, masks),) = seen
    np.testing.assert_array_equal(pool, np.concatenate([first, second]))
    ones, others = masks[:51], masks[51:]
    assert (ones ^ others).all()
    assert ones[0].tolist() == [True] * 10 + [False] * 14
    every = np.array(labels[0] + labels[1])
    assert (ones[:, every == 0].sum(axis=1) == 4).all()
    assert (ones[:, every == 1].sum(axis=1) == 6).all()
    # Each image of class 0 goes to the first generator in 4 of 13 permutations.
    assert 0.1 < ones[1:, 0].mean() < 0.5


def p_values(score, count: int, *, shift: float = 0.0, width: int = 2) -> list[float]:
    found = []
    for seed in range(count):
        test = permutation_test(
            score,
            real=draw(3 * seed, 12, width, shift=1),
            first=draw(3 * seed + 1, 16, width),
            second=draw(3 * seed + 2, 12, width, shift=shift),
            generator=numpy_generator(seed, "permutations"),
            num_permutations=19,
        )
        found += [result.p_value for result in test.values()]
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_p_values_of_equal_generators_are_uniform_or_larger(family):
    repeats = 150
    found = np.array(p_values(FAMILIES[family], repeats))
    for level in (0.05, 0.2, 0.5):
        share, error = np.mean(found <= level + 1e-9), np.sqrt(level * (1 - level) / repeats)
        assert share <= level + 3.3 * error
        # Scores that count images tie with themselves: their p-values are on the large side.
        assert share >= level - 3.3 * error or family == "manifold"


def test_p_values_of_unlike_generators_are_small():
    found = p_values(FAMILIES["kernel"], 20, shift=3)
    assert np.mean(found) < 0.07
    assert min(found) == pytest.approx(1 / 20)


def test_p_value_counts_permutations_that_reach_the_difference():
    scores = np.array([3.0, 1.0, 5.0, 3.0, 0.0, 0.0, 1.0, 0.0, 0.0, 3.0])

    def score(*, real, generated, real_masks, generated_masks):
        return {"one": scores}

    found = permutation_test(
        score,
        real=draw(1, 3),
        first=draw(2, 4),
        second=draw(3, 4),
        generator=numpy_generator(0, "permutations"),
        num_permutations=4,
    )["one"]
    # Differences 3; 0, 5, 3, -3: three of four reach 3.
    assert (found.difference, found.p_value, found.num_permutations) == (3.0, 0.8, 4)
