"""Rules of grid patterns in mean spectra: planted waves are found where they are, honest sets have none."""

from __future__ import annotations

import numpy as np
import pytest

from synthmed.metrics.spectrum import compare_spectra, isolated_excess, log_spectra, radial_mean

SIZE = 48
CHECKERBOARD = np.indices((SIZE, SIZE)).sum(axis=0) % 2 * 2.0 - 1


def cloudy_images(count: int, generator: np.random.Generator) -> np.ndarray:
    """Images with the falling spectrum of natural ones, [N, 3, SIZE, SIZE], in whole grey levels."""
    radius = np.hypot(*np.meshgrid(np.fft.fftfreq(SIZE), np.fft.fftfreq(SIZE)))
    noise = np.fft.fft2(generator.normal(size=(count, 3, SIZE, SIZE)))
    clouds = np.fft.ifft2(noise / (radius + 0.02) ** 1.5).real
    return np.clip(np.rint(128 + 30 * clouds / clouds.std() + generator.normal(0, 1.5, clouds.shape)), 0, 255)


def compare(real: np.ndarray, generated: np.ndarray, seed: int = 0):
    blocks = np.array_split(log_spectra(real), 12)
    return compare_spectra(
        real_blocks=[block.mean(axis=0) for block in blocks],
        real_weights=[len(block) for block in blocks],
        generated=log_spectra(generated).mean(axis=0),
        generated_weight=len(generated),
        generator=np.random.default_rng(seed),
    )


@pytest.fixture(scope="module")
def clouds() -> np.ndarray:
    return cloudy_images(160, np.random.default_rng(0))


def lines(period: int) -> np.ndarray:
    rows, columns = np.indices((SIZE, SIZE))
    return ((rows % period == 0) | (columns % period == 0)) * 1.0


def wave(x: float, y: float) -> np.ndarray:
    rows, columns = np.indices((SIZE, SIZE))
    return np.cos(2 * np.pi * (x * columns + y * rows))


def test_white_noise_of_one_grey_level_has_no_decibels():
    spectra = log_spectra(np.random.default_rng(1).normal(128, 1, (400, 1, 32, 32)))
    power = (10 ** (spectra / 10) - 1 / 12).mean()
    assert power == pytest.approx(1, abs=0.01)


def test_wave_has_the_decibels_of_its_amplitude():
    image = 128 + 5 * wave(10 / SIZE, 4 / SIZE)
    spectrum = log_spectra(image[None, None])[0]
    assert np.unravel_index(spectrum.argmax(), spectrum.shape) in [(4, 10), (SIZE - 4, SIZE - 10)]
    assert spectrum.max() == pytest.approx(20 * np.log10(5) + 10 * np.log10(SIZE**2 / 9), abs=0.02)


@pytest.mark.parametrize("shape", [(12, 16), (9, 7)])
def test_spectrum_is_that_of_the_definition(shape):
    image = np.random.default_rng(2).integers(0, 256, shape)
    window = np.outer(*(0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / size) for size in shape))
    centred = (image - (image * window).sum() / window.sum()) * window
    rows, columns = np.indices(shape)
    found = log_spectra(image[None, None])[0]
    for u in range(shape[0]):
        for v in range(shape[1]):
            wave = np.exp(-2j * np.pi * (u * rows / shape[0] + v * columns / shape[1]))
            power = abs((centred * wave).sum()) ** 2 / (window**2).sum()
            assert found[u, v] == pytest.approx(10 * np.log10(power + 1 / 12), abs=1e-3)


def test_brightness_of_an_image_is_no_part_of_its_spectrum(clouds):
    moved = np.clip(clouds[:3], 0, 235)
    assert log_spectra(moved + 20) == pytest.approx(log_spectra(moved), abs=1e-3)


@pytest.mark.parametrize("amplitude", [1, 2, 4])
def test_checkerboard_is_found_with_its_amplitude(clouds, amplitude):
    found = compare(clouds[:80], clouds[80:] + amplitude * CHECKERBOARD)
    assert found.has_grid
    peak = found.peaks[0]
    assert (abs(peak.frequency_x), abs(peak.frequency_y)) == (0.5, 0.5)
    assert peak.period == pytest.approx(2**0.5)
    assert peak.amplitude == pytest.approx(amplitude, rel=0.2)
    assert peak.z > found.least_z and peak.excess_db > 1.5


def tiles(side: int) -> np.ndarray:
    rows, columns = np.indices((SIZE, SIZE)) // side
    return (rows + columns) % 2 * 2.0 - 1


@pytest.mark.parametrize("grid", [4 * lines(8), 2 * tiles(4)], ids=["lines", "tiles"])
def test_every_overtone_of_a_grid_of_period_8_lies_at_a_multiple_of_an_eighth(clouds, grid):
    found = compare(clouds[:80], clouds[80:] + grid)
    assert found.has_grid
    for peak in found.peaks:
        assert min(abs(peak.frequency_x * 8 % 1), abs(1 - peak.frequency_x * 8 % 1)) < 1e-9
        assert min(abs(peak.frequency_y * 8 % 1), abs(1 - peak.frequency_y * 8 % 1)) < 1e-9


def test_wave_of_period_8_is_found_among_the_clouds(clouds):
    found = compare(clouds[:80], clouds[80:] + 4 * wave(1 / 8, 0))
    assert found.has_grid and {peak.period for peak in found.peaks} == {8.0}


def test_slanted_wave_is_one_peak_of_its_frequency(clouds):
    found = compare(clouds[:80], clouds[80:] + 3 * wave(15 / SIZE, -9 / SIZE))
    (peak,) = found.peaks
    assert (peak.frequency_x, peak.frequency_y) in [(15 / SIZE, -9 / SIZE), (-15 / SIZE, 9 / SIZE)]
    assert peak.frequency_y > 0 and peak.period == pytest.approx(SIZE / np.hypot(15, 9))
    assert peak.amplitude == pytest.approx(3, rel=0.2)


def test_honest_sets_have_no_peaks(clouds):
    for seed in range(4):
        order = np.random.default_rng(seed).permutation(len(clouds))
        found = compare(clouds[order[:80]], clouds[order[80:]], seed)
        assert not found.peaks and not found.has_grid and found.least_z >= 6


def test_blur_and_noise_and_lines_are_no_grid(clouds):
    others = clouds[80:]
    blurred = (others + np.roll(others, 1, 2) + np.roll(others, 1, 3) + np.roll(others, (1, 1), (2, 3))) / 4
    # More power along a whole axis: the edges of a frame.
    striped = others + 2 * np.random.default_rng(3).normal(size=(len(others), 3, 1, SIZE))
    noisy = others + np.random.default_rng(4).normal(0, 4, others.shape)
    for changed in (blurred, noisy, striped):
        assert not compare(clouds[:80], changed).peaks


def test_a_faint_peak_is_listed_but_no_grid():
    generator = np.random.default_rng(5)
    flat = np.full((400, 3, SIZE, SIZE), 100.0)
    real = flat[:200] + generator.normal(0, 0.5, flat[:200].shape)
    made = flat[200:] + generator.normal(0, 0.5, flat[200:].shape) + 0.05 * wave(0.25, 0.25)
    found = compare(real, made)
    assert found.num_peaks == len(found.peaks) == 1
    assert found.peaks[0].amplitude < 0.1 and not found.has_grid


def test_neither_slope_nor_line_stands_out():
    rows, columns = np.indices((SIZE, SIZE))
    bent = np.cos(2 * np.pi * rows / SIZE) + np.sin(2 * np.pi * columns / SIZE)
    assert isolated_excess(bent).max() < 0.2
    line = np.zeros((SIZE, SIZE))
    line[7] = 5
    assert isolated_excess(line).max() <= 0
    point = np.zeros((SIZE, SIZE))
    point[7, 9] = 5
    assert isolated_excess(point)[7, 9] == 5


def test_radial_mean_is_that_of_the_ring():
    radius = np.hypot(*np.meshgrid(np.fft.fftfreq(SIZE), np.fft.fftfreq(SIZE)))
    frequencies, means = radial_mean(radius)
    assert len(frequencies) == SIZE // 2 + 1 and frequencies[-1] == 0.5
    assert means == pytest.approx(frequencies, abs=0.3 / SIZE)
    assert means[0] == 0
