"""Grid patterns: frequencies at which generated images have more power than real ones, and their neighbours have not.

Upsampling leaves patterns of a fixed period (Odena, Dumoulin and Olah 2016), which show as isolated peaks of the mean
power spectrum (Frank et al. 2020). A blurred or noisy set differs from real images over whole regions of frequencies:
that is no peak.

Shapes: N images, B blocks of images, [H, W] frequencies as `numpy.fft.fft2` orders them, in cycles per pixel. Spectra
are log powers in dB.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import hypot, sqrt

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from synthmed.metrics.feature_arrays import Floats

CHANNELS = 3
NUM_HALVES = 20
LEAST_Z = 6.0
# How far beyond the largest value between halves of the real images a peak must stand.
MARGIN = 1.3
LEAST_EXCESS_DB = 1.5
LEAST_AMPLITUDE = 0.1  # grey levels; rounding to whole ones alone makes an error of 0.3
# Frequencies this near to a peak, in steps of the transform, belong to it: the window spreads it over 3 x 3.
OWN_REACH = 1
NEIGHBOUR_REACH = 4
RING_REACH = 3
MAX_PEAKS = 20
# Slower waves than this many in an image are its content.
LEAST_WAVES = 3


@dataclass(frozen=True)
class SpectrumPeak:
    """A wave that generated images have and real ones have not."""

    frequency_x: float
    """Cycles a pixel along rows, in [-0.5, 0.5]."""
    frequency_y: float
    """Cycles a pixel along columns, in [0, 0.5]."""
    period: float
    """Pixels from crest to crest, across the wave."""
    amplitude: float
    """Of the wave, in grey levels, in a typical generated image; half of what lies between crest and trough."""
    excess_db: float
    """Power against real images, less that of the frequencies around it."""
    z: float
    """`excess_db` over its scatter between halves of the real images."""


@dataclass(frozen=True)
class SpectrumComparison:
    """Generated spectra against real ones."""

    peaks: tuple[SpectrumPeak, ...]
    """The largest amplitudes first, at most MAX_PEAKS."""
    num_peaks: int
    """All that there are."""
    least_z: float
    """What a peak had to exceed."""
    frequencies: tuple[float, ...]
    """Of the radial averages, in cycles per pixel."""
    real_db: tuple[float, ...]
    """Mean log power by distance from zero frequency."""
    generated_db: tuple[float, ...]

    @property
    def has_grid(self) -> bool:
        """Whether there is a peak of an amplitude that matters: fainter ones than LEAST_AMPLITUDE are listed only."""
        return any(peak.amplitude >= LEAST_AMPLITUDE for peak in self.peaks)


def power_spectra(images: ArrayLike) -> Floats:
    """Return the power spectra of images [N, C, H, W], summed over the channels: [N, H, W].

    A Hann window keeps the jump from one border to the other out of it. White noise of standard deviation 1 in one
    channel has about 1 at each frequency, and a wave of amplitude a in one channel has a^2 H W / 9 at its own.
    """
    values = torch.from_numpy(np.ascontiguousarray(images, dtype=np.float32))
    height, width = values.shape[2:]
    # Not symmetric: as wide as the period of the transform.
    window = torch.hann_window(height)[:, None] * torch.hann_window(width)
    # Less the mean under the window, which would leak into the lowest frequencies.
    centred = (values - (values * window).sum(dim=(2, 3), keepdim=True) / window.sum()) * window
    half = torch.fft.rfft2(centred).abs().square().sum(dim=1).numpy() / float(window.square().sum())
    power: Floats = np.empty((len(half), height, width))
    power[:, :, : half.shape[2]] = half
    # A real image has the same power at f and -f.
    power[:, :, half.shape[2] :] = half[:, -np.arange(height) % height, (width - 1) // 2 : 0 : -1]
    return power


def log_spectra(images: ArrayLike) -> Floats:
    """Return the log of `power_spectra` of images [N, C, H, W], 0 to 255, in dB: [N, H, W]."""
    # The rounding to whole grey levels alone makes a twelfth; flat images must not give -inf.
    result: Floats = 10 * np.log10(power_spectra(images) + 1 / 12)
    return result


def compare_spectra(
    *,
    real_blocks: ArrayLike,
    real_weights: ArrayLike,
    generated: ArrayLike,
    generated_weight: float,
    generator: np.random.Generator,
) -> SpectrumComparison:
    """Return the peaks by which the mean spectrum of generated images exceeds that of real ones.

    The scatter is that between halves of the real images, carried over to these sizes. A peak stands further out than
    anything between the halves, at any frequency, so that one set of real images against another has none.

    Args:
        real_blocks: [B, H, W] mean log spectra of disjoint blocks of real images, B >= 4; a patient is in one block.
        real_weights: [B] images in each block.
        generated: [H, W] mean log spectrum of the generated images.
        generated_weight: How many they are.
        generator: Draws the halves.
    """
    blocks, weights = np.asarray(real_blocks, dtype=np.float64), np.asarray(real_weights, dtype=np.float64)
    assert len(blocks) >= 4, "too few blocks to make halves of"
    made = np.asarray(generated, dtype=np.float64)
    real = np.average(blocks, axis=0, weights=weights)
    between_halves, half_size = _compare_halves(blocks, weights, generator)
    scatter = _smooth_scatter(between_halves)
    looked_at = frequencies(*made.shape) * min(made.shape) >= LEAST_WAVES
    # The largest z between halves, which differ by chance alone, over as many frequencies as are searched for peaks.
    largest = float((between_halves / scatter)[:, looked_at].max())
    least_z = max(LEAST_Z, MARGIN * largest)
    size = 1 / weights.sum() + 1 / generated_weight
    excess = isolated_excess(made - real)
    z = excess / (scatter * np.sqrt(size / half_size))
    peaks = _find_peaks(made, excess, z, looked_at & (z > least_z) & (excess > LEAST_EXCESS_DB))
    radii, real_db = radial_mean(real)
    curves = (tuple(values.tolist()) for values in (radii, real_db, radial_mean(made)[1]))
    return SpectrumComparison(tuple(peaks[:MAX_PEAKS]), len(peaks), least_z, *curves)


def _compare_halves(blocks: Floats, weights: Floats, generator: np.random.Generator) -> tuple[Floats, float]:
    """Return the excess of one half of the real images over the other, [NUM_HALVES, H, W], and 1/m + 1/n on average."""
    excesses, sizes = [], []
    for _ in range(NUM_HALVES):
        order = generator.permutation(len(blocks))
        one, other = order[: len(order) // 2], order[len(order) // 2 :]
        difference = np.average(blocks[one], axis=0, weights=weights[one])
        difference -= np.average(blocks[other], axis=0, weights=weights[other])
        excesses.append(isolated_excess(difference))
        sizes.append(1 / weights[one].sum() + 1 / weights[other].sum())
    return np.stack(excesses), float(np.mean(sizes))


def isolated_excess(difference: Floats) -> Floats:
    """Return by how much each frequency of a periodic difference [H, W] exceeds those around it: [H, W], in dB.

    The reference is the largest of three medians: of a square around it, of its row and of its column, all without
    the frequency itself and the next ones. So neither a slope nor a line along an axis stands out.
    """
    steps = range(-NEIGHBOUR_REACH, NEIGHBOUR_REACH + 1)
    far = [step for step in steps if abs(step) > OWN_REACH]
    square = [(down, across) for down in steps for across in steps if max(abs(down), abs(across)) == RING_REACH]
    shapes = [square, [(0, step) for step in far], [(step, 0) for step in far]]
    references = [np.median([np.roll(difference, offset, (0, 1)) for offset in shape], axis=0) for shape in shapes]
    result: Floats = difference - np.max(references, axis=0)
    return result


def radial_mean(spectrum: Floats) -> tuple[Floats, Floats]:
    """Return frequencies from 0 to 0.5 cycles a pixel and the mean of a spectrum [H, W] over the ring around each."""
    radius = frequencies(*spectrum.shape)
    count = min(spectrum.shape) // 2
    ring = np.rint(radius * 2 * count).astype(int)
    inside = ring <= count
    sums = np.bincount(ring[inside], spectrum[inside], count + 1)
    return np.arange(count + 1) / (2 * count), sums / np.bincount(ring[inside], minlength=count + 1)


def frequencies(height: int, width: int) -> Floats:
    """Return the frequency across the wave, [H, W]."""
    result: Floats = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width))
    return result


def _smooth_scatter(between_halves: Floats) -> Floats:
    """Return the standard deviation at each frequency, never less than is usual around it: [H, W].

    That of a few halves at one frequency is itself uncertain, and too small ones would make peaks of nothing.
    """
    from scipy.ndimage import uniform_filter

    variance = (between_halves**2).mean(axis=0)
    result: Floats = np.sqrt(np.maximum(variance, uniform_filter(variance, size=5, mode="wrap"))) + 1e-9
    return result


def _find_peaks(made: Floats, excess: Floats, z: Floats, found: NDArray[np.bool_]) -> list[SpectrumPeak]:
    """Return one peak for each local maximum among the frequencies found, once for each pair (f, -f)."""
    from scipy.ndimage import maximum_filter

    highest = maximum_filter(excess, size=2 * OWN_REACH + 1, mode="wrap")
    height, width = excess.shape
    peaks = []
    for row, column in np.argwhere(found & (excess >= highest)).tolist():
        mirrored = (-row % height, -column % width)
        if (row, column) > mirrored:
            continue
        y, x = row / height, column / width - (column > width // 2)
        over = float(excess[row, column])
        power = 10 ** (float(made[row, column]) / 10) * (1 - 10 ** (-over / 10))
        # A wave is both f and -f; where these are one frequency, it has all its power there, four times as much.
        share = 4 if (row, column) == mirrored else 1
        amplitude = sqrt(power * 9 / (CHANNELS * height * width * share))
        peaks.append(SpectrumPeak(x, y, 1 / hypot(x, y), amplitude, over, float(z[row, column])))
    return sorted(peaks, key=lambda peak: -peak.amplitude)
