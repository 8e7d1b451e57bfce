"""Drawn eyes: what they depend on, how well their classes can be told apart, and how well they are measured."""

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from synthmed.phantoms import drawing as phantoms
from synthmed.phantoms.cup_to_disc import MEASUREMENT_ERROR, measure_cup_to_disc
from synthmed.phantoms.drawing import (
    BEST_AUROC,
    CLASSES,
    CUP_TO_DISC_RANGE,
    Phantom,
    draw_fundus,
    draw_phantom,
    sample_cup_to_disc,
)


def count_pairs(negative: NDArray[np.float64], positive: NDArray[np.float64]) -> float:
    wins, ties = positive[:, None] > negative, positive[:, None] == negative
    return float(np.mean(wins + 0.5 * ties))


@pytest.fixture(scope="module", params=[64, 128])
def eyes(request: pytest.FixtureRequest) -> list[Phantom]:
    return [draw_phantom(11, index % 2, index, request.param) for index in range(120)]


def measure(images: list[NDArray[np.uint8]]) -> NDArray[np.float64]:
    return np.array([measure_cup_to_disc(image) for image in images])


def test_phantom_depends_on_its_arguments_alone() -> None:
    first = draw_phantom(3, 1, 5, 64)
    draw_phantom(3, 0, 5, 64)
    again = draw_phantom(3, 1, 5, 64)
    assert np.array_equal(first.image, again.image)
    assert (first.label, first.cup_to_disc) == (again.label, again.cup_to_disc)
    assert first.image.shape == (64, 64, 3) and first.image.dtype == np.uint8
    for other in ((4, 1, 5), (3, 0, 5), (3, 1, 6)):
        assert not np.array_equal(first.image, draw_phantom(*other, 64).image)


def test_size_changes_the_resolution_of_the_same_eye() -> None:
    small, large = draw_phantom(3, 1, 5, 64), draw_phantom(3, 1, 5, 128)
    assert small.cup_to_disc == large.cup_to_disc
    reduced = np.asarray(Image.fromarray(large.image).reduce(2), dtype=float)
    assert np.abs(reduced - small.image).mean() < 5


@pytest.mark.parametrize("label", [0, 1])
def test_label_acts_through_the_ratio_only(label: int) -> None:
    eye = draw_phantom(3, label, 8, 64)
    ratio_seed, eye_seed = np.random.SeedSequence((3, label, 8)).spawn(2)
    assert eye.cup_to_disc == sample_cup_to_disc(label, np.random.default_rng(ratio_seed))
    # draw_fundus is not told the label, and its stream does not follow how many numbers the ratio took.
    assert np.array_equal(eye.image, draw_fundus(eye.cup_to_disc, 64, np.random.default_rng(eye_seed)))


def test_same_nuisances_and_ratio_give_the_same_image_whichever_label(monkeypatch: pytest.MonkeyPatch) -> None:
    seeds = np.random.SeedSequence
    monkeypatch.setattr(np.random, "SeedSequence", lambda words: seeds((words[0], words[2])))
    monkeypatch.setattr(phantoms, "sample_cup_to_disc", lambda label, rng: 0.5)
    healthy, glaucoma = (draw_phantom(3, label, 8, 64) for label in (0, 1))
    assert (healthy.label, glaucoma.label) == (0, 1)
    assert np.array_equal(healthy.image, glaucoma.image)


def test_pixels_outside_the_disc_do_not_depend_on_the_ratio() -> None:
    small, large = (draw_fundus(ratio, 64, np.random.default_rng(2)).astype(int) for ratio in (0.3, 0.8))
    changed = np.argwhere(np.abs(small - large).max(-1) > 3) - 31.5
    assert len(changed) > 100
    assert np.hypot(*changed.T).max() < 0.65 * 32  # the disc and its offset, in pixels


def test_retina_of_the_classes_cannot_be_told_apart(eyes: list[Phantom]) -> None:
    labels = np.array([eye.label for eye in eyes])
    rim = len(eyes[0].image) // 8
    for channel in range(3):
        level = np.array([eye.image[:rim, :, channel].mean() for eye in eyes])
        # Four standard errors of an AUROC of one half from 60 against 60.
        assert abs(count_pairs(level[labels == 0], level[labels == 1]) - 0.5) < 4 * 0.053


def test_best_auroc_is_that_of_pair_counting_on_sampled_ratios() -> None:
    rng = np.random.default_rng(0)
    ratios = [np.array([sample_cup_to_disc(label, rng) for _ in range(4000)]) for label in range(len(CLASSES))]
    assert 0.89 < BEST_AUROC < 0.91
    assert count_pairs(*ratios) == pytest.approx(BEST_AUROC, abs=4 * 0.0035)
    assert min(map(np.min, ratios)) >= CUP_TO_DISC_RANGE[0] and max(map(np.max, ratios)) <= CUP_TO_DISC_RANGE[1]


def test_best_auroc_needs_the_right_distributions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(phantoms, "CUP_TO_DISC_MEANS", (0.5, 0.5))
    assert phantoms.best_auroc() == pytest.approx(0.5, abs=1e-6)


def test_ratio_is_measured_as_exactly_as_stated(eyes: list[Phantom]) -> None:
    truth = np.array([eye.cup_to_disc for eye in eyes])
    labels = np.array([eye.label for eye in eyes])
    measured = measure([eye.image for eye in eyes])
    error = measured - truth
    assert np.abs(error).mean() < 1.4 * MEASUREMENT_ERROR
    assert abs(error.mean()) < 0.01
    assert np.abs(error).max() < 0.2
    best = count_pairs(truth[labels == 0], truth[labels == 1])
    assert count_pairs(measured[labels == 0], measured[labels == 1]) == pytest.approx(best, abs=0.015)


def test_measurement_survives_blur_noise_and_a_colour_shift(eyes: list[Phantom]) -> None:
    rng = np.random.default_rng(1)
    imitations = []
    for eye in eyes:
        blurred = Image.fromarray(eye.image).filter(ImageFilter.GaussianBlur(len(eye.image) / 80))
        shifted = np.asarray(blurred) * rng.uniform(0.85, 1.05, 3) + rng.normal(0, 4, eye.image.shape)
        imitations.append(np.clip(shifted, 0, 255).astype(np.uint8))
    error = measure(imitations) - [eye.cup_to_disc for eye in eyes]
    assert np.isnan(error).mean() <= 0.02
    assert np.nanmean(np.abs(error)) < 0.04
    assert abs(np.nanmean(error)) < 0.02


def plain_retina(size: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    axis = np.linspace(-1, 1, size)
    radius = np.hypot(axis[:, None], axis)
    light = (1 - 0.25 * radius**2) * (radius < 1)
    picture = light[..., None] * [205, 92, 45] + rng.normal(0, 3, (size, size, 3))
    return np.clip(picture, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("size", [32, 64, 128])
def test_no_disc_measures_nan(size: int) -> None:
    rng = np.random.default_rng(4)
    shape = (size, size, 3)
    for level in (0, 128, 255):
        assert np.isnan(measure_cup_to_disc(np.full(shape, level, dtype=np.uint8)))
    for _ in range(10):
        assert np.isnan(measure_cup_to_disc(rng.integers(0, 256, shape, dtype=np.uint8)))
        assert np.isnan(measure_cup_to_disc(plain_retina(size, rng)))


def test_retina_with_vessels_but_no_disc_measures_nan(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(phantoms, "_coverage", lambda x, y, ellipse: np.zeros((y.size, x.size), np.float32))
    assert np.isnan(measure([draw_phantom(5, 0, index, 64).image for index in range(40)])).all()


def test_disc_without_a_cup_measures_nan(monkeypatch: pytest.MonkeyPatch) -> None:
    colours = phantoms._colours
    monkeypatch.setattr(phantoms, "_colours", lambda rng: colours(rng)[[0, 1, 1]])
    assert np.isnan(measure([draw_phantom(5, 0, index, 64).image for index in range(40)])).mean() > 0.9


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="label must be 0 to 1: 2"):
        draw_phantom(0, 2, 0, 64)
    with pytest.raises(ValueError, match="at least 32 pixels: 16"):
        draw_phantom(0, 1, 0, 16)
    with pytest.raises(ValueError, match=r"must be \[H, H, 3\]"):
        measure_cup_to_disc(np.zeros((64, 64), dtype=np.uint8))
    with pytest.raises(ValueError, match="must be uint8"):
        measure_cup_to_disc(np.zeros((64, 64, 3)))  # type: ignore[arg-type]
