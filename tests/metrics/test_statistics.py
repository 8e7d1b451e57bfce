"""Rules of the bootstrap and of AUROC, against pair counting, torchmetrics and simulated truth."""

from __future__ import annotations

from math import erf

import numpy as np
import pytest

from synthmed.metrics.statistics import (
    auroc,
    balanced_accuracy,
    bootstrap_auroc,
    count_units,
    interval,
    mean_roc_curve,
    resample_weights,
    roc_curve,
    share_difference,
    share_interval,
    summarise,
    weighted_auroc,
)


def auroc_by_pairs(scores, positive) -> float:
    """Count, over all pairs of a positive and a negative, how often the positive scores higher; a tie is one half."""
    won = [1.0 if a > b else 0.5 if a == b else 0.0 for a in scores[positive] for b in scores[~positive]]
    return float(np.mean(won))


def random_scores(seed: int, count: int, *, levels: int | None = None):
    generator = np.random.default_rng(seed)
    positive = np.arange(count) % 3 == 0
    scores = generator.normal(size=count) + positive
    if levels is not None:
        scores = np.round(scores * levels / 4) / levels
    return (scores - scores.min()) / (scores.max() - scores.min()), positive


@pytest.mark.parametrize("levels", [None, 3, 1])
def test_auroc_of_torchmetrics_and_ours_equal_pair_counting(levels):
    scores, positive = random_scores(1, 61, levels=levels)
    counted = auroc_by_pairs(scores, positive)
    # torchmetrics sums in float32.
    assert auroc(np.stack([1 - scores, scores], axis=1), positive.astype(int), positive=1) == pytest.approx(
        counted, abs=1e-6
    )
    assert weighted_auroc(scores, positive, np.ones((1, 61)))[0] == pytest.approx(counted, abs=1e-12)


def test_all_scores_equal_give_one_half():
    assert weighted_auroc(np.zeros(10), np.arange(10) < 4, np.ones((1, 10)))[0] == 0.5


def test_positive_class_decides_the_direction():
    scores, positive = random_scores(2, 40)
    probabilities = np.stack([1 - scores, scores], axis=1)
    labels = positive.astype(int)
    assert auroc(probabilities, labels, positive=0) == pytest.approx(auroc(probabilities, labels, positive=1), abs=1e-6)
    assert auroc(probabilities[:, ::-1], labels, positive=1) == pytest.approx(
        1 - auroc(probabilities, labels, 1), abs=1e-6
    )


def test_macro_auroc_of_three_classes_is_the_mean_of_one_against_rest():
    generator = np.random.default_rng(3)
    labels = np.arange(60) % 3
    probabilities = generator.dirichlet(np.ones(3), size=60)
    counted = np.mean([auroc_by_pairs(probabilities[:, k], labels == k) for k in range(3)])
    assert auroc(probabilities, labels, positive=2) == pytest.approx(counted, abs=1e-6)
    assert bootstrap_auroc(probabilities[None], labels, 2, np.ones((1, 60)))[0, 0] == pytest.approx(counted, abs=1e-12)


def test_weights_count_as_repeated_images():
    scores, positive = random_scores(4, 30, levels=5)
    weights = np.random.default_rng(5).integers(0, 4, size=(7, 30))
    for row, value in zip(weights, weighted_auroc(scores, positive, weights), strict=True):
        assert value == pytest.approx(auroc_by_pairs(np.repeat(scores, row), np.repeat(positive, row)), abs=1e-12)


def test_blocks_of_resamples_do_not_change_the_result(monkeypatch):
    scores, positive = random_scores(6, 30)
    weights = np.random.default_rng(7).integers(0, 3, size=(50, 30))
    whole = weighted_auroc(scores, positive, weights)
    monkeypatch.setattr("synthmed.metrics.statistics.BLOCK_VALUES", 100)
    assert np.array_equal(weighted_auroc(scores, positive, weights), whole, equal_nan=True)


def test_resample_without_a_class_has_no_value_and_does_not_count():
    values = weighted_auroc(np.array([0.1, 0.9]), np.array([False, True]), np.array([[1, 1], [2, 0]]))
    assert values[0] == 1 and np.isnan(values[1])
    assert interval(values) == (1, 1)


def test_groups_are_drawn_whole_and_nameless_images_alone():
    groups = ["a", "", "b", "a", "", "b"]
    weights = resample_weights(groups, 500, np.random.default_rng(8))
    assert weights.shape == (500, 6)
    assert (weights[:, 0] == weights[:, 3]).all() and (weights[:, 2] == weights[:, 5]).all()
    assert (weights[:, 1] != weights[:, 4]).any()
    # Four units are drawn each time: two patients and two single images.
    assert (weights[:, [0, 1, 2, 4]].sum(axis=1) == 4).all()


def test_resamples_are_a_function_of_the_generator_alone():
    first, second = (resample_weights(["a", "b", ""], 20, np.random.default_rng(9)) for _ in range(2))
    assert np.array_equal(first, second)


def test_interval_covers_the_true_auroc_at_its_level():
    # Two normal distributions one standard deviation apart have AUROC Phi(1 / sqrt 2).
    truth = 0.5 * (1 + erf(0.5))
    positive = np.arange(100) % 2 == 0
    covered = 0
    for trial in range(200):
        generator = np.random.default_rng(100 + trial)
        scores = generator.normal(size=100) + positive
        weights = resample_weights([""] * 100, 400, generator)
        low, high = interval(weighted_auroc(scores, positive, weights))
        covered += low <= truth <= high
    # 95 % of 200 is 190 with a standard deviation of 3; the percentile bootstrap is a little too narrow.
    assert 180 <= covered <= 199


def test_interval_by_patient_is_wider_than_by_image_where_images_repeat():
    scores, positive = random_scores(10, 40)
    scores, positive = np.repeat(scores, 4), np.repeat(positive, 4)
    patients = [str(number // 4) for number in range(160)]

    def width(groups: list[str]) -> float:
        low, high = interval(
            weighted_auroc(scores, positive, resample_weights(groups, 1000, np.random.default_rng(11)))
        )
        return high - low

    # Four copies of each image hold no more than one: by patient, the interval is twice as wide.
    assert width(patients) == pytest.approx(2 * width([""] * 160), rel=0.2)


def test_paired_difference_of_a_training_with_itself_is_zero():
    scores, positive = random_scores(12, 50)
    probabilities = np.stack([1 - scores, scores], axis=1)
    weights = resample_weights([""] * 50, 100, np.random.default_rng(13))
    first, second = bootstrap_auroc([probabilities, probabilities], positive.astype(int), 1, weights)
    assert interval(first - second) == (0, 0)


def test_spread_is_the_sample_standard_deviation_and_none_for_one():
    assert summarise([0.6, 0.8]).mean == pytest.approx(0.7)
    assert summarise([0.6, 0.8]).std == pytest.approx(0.02**0.5)
    assert summarise([0.6]).std is None


@pytest.mark.parametrize("levels", [None, 3])
def test_area_under_the_roc_curve_is_auroc(levels):
    scores, positive = random_scores(14, 45, levels=levels)
    rates = roc_curve(scores, positive)
    assert (rates[0][0], rates[1][0], rates[0][-1], rates[1][-1]) == (0, 0, 1, 1)
    assert np.trapezoid(rates[1], rates[0]) == pytest.approx(auroc_by_pairs(scores, positive), abs=1e-12)


def test_mean_roc_curve_lies_between_those_of_its_trainings():
    labels = np.arange(40) % 2
    perfect = np.stack([1.0 - labels, labels], axis=1)
    false_positives, true_positives = mean_roc_curve([perfect, perfect[:, ::-1]], labels, positive=1)
    inner = (false_positives > 0.01) & (false_positives < 0.99)
    assert np.allclose(true_positives[inner], 0.5)


def test_balanced_accuracy_weighs_classes_equally():
    probabilities = np.array([[0.9, 0.1]] * 9 + [[0.8, 0.2]])
    assert balanced_accuracy(probabilities, [0] * 9 + [1]) == 0.5


@pytest.mark.parametrize(
    # Newcombe 1998 (one proportion), table I, method 3.
    ("count", "images", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_share_has_the_published_interval(count, images, low, high):
    share = share_interval(count, images)
    assert (share.low, share.high) == pytest.approx((low, high), abs=5e-5)
    assert share.value == count / images


def test_share_of_all_or_none_stays_within_its_range():
    for count in (0, 7):
        share = share_interval(count, 7)
        assert 0 <= share.low <= share.value <= share.high <= 1 and share.high - share.low > 0.3


def test_fewer_independent_units_give_a_wider_interval():
    by_patient = share_interval(60, 100, units=50)
    assert (by_patient.low, by_patient.high) == (share_interval(30, 50).low, share_interval(30, 50).high)
    assert count_units(["a", "a", "b", "", ""]) == 4


@pytest.mark.parametrize(
    # Newcombe 1998 (difference of independent proportions), table II, method 10.
    ("first", "second", "low", "high"),
    [((56, 70), (48, 80), 0.0524, 0.3339), ((9, 10), (3, 10), 0.1705, 0.8090), ((10, 10), (0, 20), 0.6791, 1.0)],
)
def test_difference_of_shares_has_the_published_interval(first, second, low, high):
    found = share_difference(share_interval(*first), share_interval(*second))
    assert found == pytest.approx((low, high), abs=1e-4)
