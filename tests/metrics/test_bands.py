"""Power by frequency band, on noise, waves and blurred images whose power is known."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from synthmed.metrics.bands import (
    BAND_TITLES,
    EDGES,
    _membership,
    band_powers,
    band_ratios,
    reconstruction_powers,
    summarise_reconstruction,
)

SIZE = 48


def noise(count: int, seed: int = 0, shape: tuple[int, int] = (SIZE, SIZE)) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 1, (count, 3, *shape))


def wave(x: float, y: float) -> np.ndarray:
    rows, columns = np.indices((SIZE, SIZE))
    return np.cos(2 * np.pi * (x * columns + y * rows) + 0.3)


def test_noise_has_its_variance_times_the_share_of_frequencies():
    radius = np.hypot(np.fft.fftfreq(32)[:, None], np.fft.fftfreq(SIZE))
    edges = (*EDGES, 1.0)
    shares = [((radius > low) & (radius <= high)).mean() for low, high in pairwise(edges)]
    assert sum(shares) == pytest.approx(1 - 1 / (32 * SIZE))
    found = band_powers(128 + 2 * noise(600, shape=(32, SIZE))).mean(axis=0)
    # Three channels of variance 4. The mean under the window takes some of the lowest frequencies with it.
    assert found[1:] == pytest.approx(3 * 4 * np.array(shares[1:]), rel=0.02)
    assert found[0] == pytest.approx(3 * 4 * shares[0], rel=0.3)


@pytest.mark.parametrize(
    ("x", "y", "band"),
    [(2, 0, 0), (4, 2, 1), (0, 8, 2), (-10, 1, 3), (12, 9, 4), (20, -20, 5), (21, 0, 5)],
)
def test_wave_has_half_its_squared_amplitude_in_its_band(x, y, band):
    image = 100 + 5 * wave(x / SIZE, y / SIZE)
    found = band_powers(image[None, None])[0]
    assert found[band] == pytest.approx(25 / 2, rel=0.08)
    # The window spreads a wave over the next frequencies alone.
    assert found.sum() == pytest.approx(25 / 2, rel=0.02)


def test_frequencies_on_an_edge_belong_below_it():
    first_row = _membership(SIZE, SIZE)[:SIZE].argmax(axis=1)
    assert first_row[[1, 3, 4, 6, 9, 10, 12, 18, 19, 24]].tolist() == [0, 0, 1, 1, 2, 3, 3, 4, 5, 5]
    assert _membership(SIZE, SIZE).sum() == SIZE**2 - 1 and not _membership(SIZE, SIZE)[0].any()
    # (9, 12) / 40 is 15 / 40 = 0.375, which arithmetic makes a little more.
    assert np.hypot(*(np.fft.fftfreq(40)[[9, 12]])) > 0.375
    assert _membership(40, 40)[9 * 40 + 12].argmax() == 4


def test_power_grows_with_the_square_and_not_with_brightness():
    images = noise(5)
    assert band_powers(3 * images) == pytest.approx(9 * band_powers(images), rel=1e-4)
    assert band_powers(images + 100) == pytest.approx(band_powers(images), rel=1e-3)
    assert band_powers(np.full((2, 3, 16, 16), 90, dtype=np.uint8)) == pytest.approx(0, abs=1e-8)


def compare(images: np.ndarray, targets: np.ndarray):
    units = (torch.from_numpy(0.5 + part / 255).float() for part in (images, targets))
    return summarise_reconstruction(reconstruction_powers(*units).numpy())


def test_blur_keeps_low_bands_and_loses_high_ones():
    targets = 20 * noise(40)
    # [1 2 1] / 4 along both axes keeps cos^4 of half the angle of each frequency.
    blurred = (np.roll(targets, 1, 3) + 2 * targets + np.roll(targets, -1, 3)) / 4
    blurred = (np.roll(blurred, 1, 2) + 2 * blurred + np.roll(blurred, -1, 2)) / 4
    found = compare(blurred, targets)
    assert found.kept[0] == pytest.approx(0.97, abs=0.03) and found.error[0] < 0.01
    assert list(found.kept) == sorted(found.kept, reverse=True) and list(found.error) == sorted(found.error)
    assert found.kept[-1] < 0.1 and found.error[-1] > 0.6


def test_copies_lose_nothing_and_unrelated_detail_errs_twice():
    images = noise(200)
    same = compare(images, images)
    assert (same.kept, same.error) == (pytest.approx([1.0] * 6), pytest.approx([0.0] * 6))
    other = compare(noise(200, seed=1), images)
    assert other.kept == pytest.approx([1.0] * 6, rel=0.1)
    assert other.error == pytest.approx([2.0] * 6, rel=0.1)
    flat = compare(0 * images, images)
    assert (flat.kept, flat.error) == (pytest.approx([0.0] * 6, abs=1e-6), pytest.approx([1.0] * 6))
    half = compare(images / 2, images)
    assert (half.kept, half.error) == (pytest.approx([0.25] * 6, rel=1e-3), pytest.approx([0.25] * 6, rel=1e-3))


def test_means_are_of_linear_power():
    """One image with all the power and one without: half the mean of logarithms would be lost, but nothing is."""
    images = noise(2) * np.array([1.0, 1e-3])[:, None, None, None]
    assert compare(images[::-1].copy(), images).kept == pytest.approx([1.0] * 6, rel=1e-3)


def test_bands_that_originals_lack_have_no_share():
    flat = compare(noise(2), np.zeros((2, 3, SIZE, SIZE)))
    assert flat.kept == flat.error == (None,) * 6
    # Eight pixels have no frequency up to 0.0625.
    small = compare(noise(2, shape=(8, 8)), noise(2, shape=(8, 8)))
    assert small.kept[0] is None and None not in small.kept[1:]
    assert summarise_reconstruction(np.zeros((0, 3, 6))).kept == (None,) * 6


def labelled(labels: list[int], powers: list[float]) -> np.ndarray:
    return np.column_stack([labels, *[np.array(powers) * (k + 1) for k in range(6)]])


def test_classes_weigh_the_same_in_ratios_and_masks_choose_images():
    real = labelled([0, 0, 0, 1], [2, 4, 6, 12])
    made = labelled([0, 1, 1, 1], [2, 3, 6, 9])
    masks = {"real_masks": np.ones((2, 4), bool), "generated_masks": np.array([[1, 1, 1, 1], [0, 1, 1, 1]], bool)}
    found = band_ratios(real=real, generated=made, **masks)
    assert tuple(found) == BAND_TITLES
    for values in found.values():
        # (2 + 6) / (4 + 12); and without an image of class 0, of class 1 alone.
        assert values == pytest.approx([0.5, 0.5])
    real[:, 3] = 0
    assert BAND_TITLES[2] not in band_ratios(real=real, generated=made, **masks)
