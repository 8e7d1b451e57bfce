"""Detail by frequency band: how much power images have there, and how much of it other images keep.

The mean squared error, and with it PSNR, is nearly all that of the coarse structure, where images have nearly all their
power: an image that has lost its fine detail may have a good PSNR. By band, a loss shows where it is.

Shapes: N images, B bands, R resamples. Powers are linear and in squared units of the images; means over images are of
them, not of their logarithms, so that an error of zero mean is no loss of power.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from synthmed.metrics.class_means import balanced_means
from synthmed.metrics.feature_arrays import Features, Floats, Masks
from synthmed.metrics.spectrum import frequencies, power_spectra

EDGES = (0.0, 0.0625, 0.125, 0.1875, 0.25, 0.375)
"""Cycles per pixel. A band reaches from above its edge to the next edge, the last one to the corner at 0.71."""
BAND_TITLES = (*(f"{low:g} to {high:g}" for low, high in pairwise(EDGES)), f"above {EDGES[-1]:g}")
GREY_LEVELS = 255
LEAST_POWER = 1e-6
"""In grey levels squared. Rounding to whole ones alone spreads a twelfth over all bands: what has less than this is
flat but for the arithmetic, and nothing can be divided by it."""


@dataclass(frozen=True)
class BandFigures:
    """What reconstructions make of each band: [B], the lowest frequencies first.

    `None` where the originals have nothing, or are too small to have such frequencies.
    """

    kept: tuple[float | None, ...]
    """Mean power of the reconstructions over that of the originals: below 1 detail is lost, above 1 it is made up."""
    error: tuple[float | None, ...]
    """Mean power of the differences over that of the originals: 0 for a copy, 1 where nothing of the band is left, and
    2 where there is as much of it, but unrelated."""


def band_powers(images: ArrayLike) -> Floats:
    """Return the power of images [N, C, H, W] in each band, summed over the channels: [N, B].

    It is the variance under a Hann window that the band contributes: a wave of amplitude a in one channel has a^2 / 2,
    and white noise its variance times the share of all frequencies that lie in the band. Frequency zero is in none.
    """
    values = np.asarray(images)
    height, width = values.shape[2:]
    result: Floats = power_spectra(values).reshape(len(values), -1) @ _membership(height, width) / (height * width)
    return result


@cache
def _membership(height: int, width: int) -> Floats:
    """Return 1 where a frequency lies in a band: [H W, B]."""
    # Less a little, because a frequency on an edge, as (9, 12) / 40 on 0.375, may come out just above it.
    band = np.searchsorted(EDGES, frequencies(height, width).ravel() - 1e-9) - 1
    result: Floats = (band[:, None] == np.arange(len(EDGES))).astype(np.float64)
    return result


def reconstruction_powers(images: Tensor, targets: Tensor) -> Tensor:
    """Return the powers of reconstructions, of originals and of their differences, in grey levels squared: [N, 3, B].

    Args:
        images: Reconstructions, [N, C, H, W] float in [0, 1].
        targets: Their originals, likewise.
    """
    parts = (images, targets, images - targets)
    powers = [band_powers((GREY_LEVELS * part).float().cpu().numpy()) for part in parts]
    return torch.from_numpy(np.stack(powers, axis=1))


def summarise_reconstruction(powers: Floats) -> BandFigures:
    """Return what images keep of each band, and how far they err there, from their `reconstruction_powers`."""
    if not len(powers):
        return BandFigures((None,) * len(EDGES), (None,) * len(EDGES))
    made, original, error = powers.mean(axis=0)

    def over_original(power: Floats) -> tuple[float | None, ...]:
        return tuple(
            float(part / whole) if whole > LEAST_POWER else None for part, whole in zip(power, original, strict=True)
        )

    return BandFigures(over_original(made), over_original(error))


def band_ratios(
    *, real: Features, generated: Features, real_masks: Masks, generated_masks: Masks
) -> Mapping[str, Floats]:
    """Return the mean power of generated images over that of real ones, by title of the band: `MaskedScores`.

    Classes have equal weight. Bands in which real images have nothing are left out.

    Args:
        real: [N_r, 1 + B], the class and `band_powers`, of images from 0 to 255.
        generated: [N_g, 1 + B], likewise.
        real_masks: [R, N_r].
        generated_masks: [R, N_g].

    Raises:
        DataError: A resample has no class on both sides.
    """
    powers, made = balanced_means(real, generated, real_masks, generated_masks)
    known = powers.min(axis=0) > LEAST_POWER
    return {title: made[:, k] / powers[:, k] for k, title in enumerate(BAND_TITLES) if known[k]}
