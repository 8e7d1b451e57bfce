"""Brightness and contrast of images, and how much brightness varies from one image to the next.

A sampler that adds its noise a little wrong, or guidance that is too strong, moves whole images up and down: each looks
right by itself, and spectra, which leave out the mean of an image, do not show it.

Shapes: N images, R resamples.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import ArrayLike

from synthmed.errors import DataError
from synthmed.metrics.class_means import class_means, common_weights, num_classes
from synthmed.metrics.feature_arrays import Features, Floats, Masks

FIGURES = ("mean", "spread", "contrast")
"""Mean over images of their mean grey, its standard deviation over images, mean of the standard deviation within."""
SIDES = ("real", "generated", "ratio")
LUMA = (0.299, 0.587, 0.114)
LEAST_VALUE = 1e-3  # grey levels; real images of less have nothing to be divided by
MIDDLE = 128.0


def grey_statistics(images: ArrayLike) -> Floats:
    """Return mean and standard deviation of the luma of images [N, 1 or 3, H, W], 0 to 255: [N, 2], in grey levels."""
    values = torch.from_numpy(np.ascontiguousarray(images)).double()
    if values.shape[1] == 3:
        values = torch.einsum("nchw,c->nhw", values, torch.tensor(LUMA, dtype=torch.float64))
    pixels = values.flatten(1)
    result: Floats = torch.stack([pixels.mean(dim=1), pixels.std(dim=1, correction=0)], dim=1).numpy()
    return result


def brightness_scores(
    *, real: Features, generated: Features, real_masks: Masks, generated_masks: Masks
) -> Mapping[str, Floats]:
    """Return each of FIGURES of real and of generated images and generated over real: `MaskedScores`.

    Names are `SIDE FIGURE`. Classes have equal weight, as if both sets had as many images of each: the spread over all
    is that within classes and that between their means.

    Args:
        real: [N_r, 3], the class and `grey_statistics`.
        generated: [N_g, 3], likewise.
        real_masks: [R, N_r].
        generated_masks: [R, N_g].

    Raises:
        DataError: A resample has no class with two images on both sides, or real ones are black, flat or all alike.
    """
    count = num_classes(real, generated)
    sides = [
        class_means(_with_squares(labelled), masks, count)
        for labelled, masks in ((real, real_masks), (generated, generated_masks))
    ]
    weights = common_weights(sides[0][0], sides[1][0], least=2)
    figures = [_figures(counts, means, weights) for counts, means in sides]
    if (figures[0] < LEAST_VALUE).any():
        raise DataError("real images are black, flat or equally bright, so that nothing can be compared with them")
    values = (*figures, figures[1] / figures[0])
    return {
        f"{side} {figure}": array[:, column]
        for side, array in zip(SIDES, values, strict=True)
        for column, figure in enumerate(FIGURES)
    }


def _with_squares(labelled: Features) -> Floats:
    """Return class, brightness from the middle grey, its square, and contrast: [N, 4]."""
    # From the middle, so that squares are no larger than they must be.
    grey = labelled[:, 1] - MIDDLE
    return np.stack([labelled[:, 0], grey, grey**2, labelled[:, 2]], axis=1).astype(np.float64)


def _figures(counts: Floats, means: Floats, weights: Floats) -> Floats:
    """Return FIGURES, [R, 3], from the class means [R, K, 3] of `_with_squares`."""
    grey, square, contrast = np.moveaxis(means, 2, 0)
    # That of the population, as the sample standard deviation has it: sets of unlike sizes are compared.
    within = np.maximum(square - grey**2, 0) * counts / np.maximum(counts - 1, 1)
    mean = (weights * grey).sum(axis=1)
    between = (weights * (grey - mean[:, None]) ** 2).sum(axis=1)
    spread = np.sqrt((weights * within).sum(axis=1) + between)
    return np.stack([mean + MIDDLE, spread, (weights * contrast).sum(axis=1)], axis=1)
