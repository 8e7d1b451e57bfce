"""Count the optic discs in pictures of the back of the eye: none, one, or two and more.

A disc is a bright round spot: its mean log green is higher than that of every part of the ring around it, so that
bright rims, crescents and stripes, which are as bright on some side, are none. Size and least contrast come from real
pictures, each of which has one disc, so nothing has to be marked by hand. Pictures that hide their disc and spots that
look like one are counted as they look: the share among real pictures is what that of generated ones is compared with.

Shapes: images are uint8 [N, 3, H, W] with H = W = WORK_SIZE, in which lengths are in pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from synthmed.errors import DataError

Floats = NDArray[np.float64]

WORK_SIZE = 64
# From discs of a tenth of the image's width, in photographs of the whole back of the eye, to ones of nearly half.
RADII = (3.0, 3.5, 4.0, 4.5, 5.0, 6.0, 8.0, 10.0, 12.0, 14.0)
SECTORS = 8
RING = (1.25, 2.0)  # inner and outer radius of the ring, in radii of the disc
# A disc may lie half-way over the border of the picture: so many sectors must be seen, each to so much.
LEAST_SECTORS = 5
LEAST_COVER = 0.3
# Two discs of one picture look alike: a spot less than this share as strong as the best is something else.
SECOND_SHARE = 0.5
# In grey levels: where no channel is brighter than the first there is no picture, and the second keeps noise in the
# dark from counting.
DARK, LOG_OFFSET = 20, 10
NOTHING = -1.0
BLOCK = 128
SCALE_IMAGES = 100
COARSE_RADIUS = 8


@dataclass(frozen=True)
class DiscFinder:
    """What an optic disc is in pictures of one kind."""

    radius: float
    """Of discs, in pixels at WORK_SIZE."""
    least_contrast: float
    """Of a disc's mean against the brightest sector around it, as a difference of logarithms of green."""

    def count(self, images: Tensor) -> NDArray[np.int64]:
        """Return 0, 1 or 2 (two or more) for each image: [N]."""
        contrasts, _ = find_spots(images, self.radius)
        has_one = contrasts[:, 0] > self.least_contrast
        has_two = contrasts[:, 1] > np.maximum(self.least_contrast, SECOND_SHARE * contrasts[:, 0])
        counts: NDArray[np.int64] = has_one.astype(np.int64) + has_two
        return counts


def calibrate_finder(images: Tensor) -> DiscFinder:
    """Return the finder for pictures such as some real ones, one disc in nearly each.

    The radius is that at which the best spot of a typical picture has most contrast; the least contrast, that by which
    most of the pictures have one spot and no other.

    Raises:
        DataError: There are no images.
    """
    if not len(images):
        raise DataError("there are no real images to learn from what an optic disc looks like")
    some = images[:: max(1, len(images) // SCALE_IMAGES)]
    typical, radius = max((float(np.median(find_spots(some, radius)[0][:, 0])), radius) for radius in RADII)
    first, second = find_spots(images, radius)[0].T
    # Counts change at these values only. SECOND_SHARE is left out: with it, no contrast at all does best.
    levels = np.sort(np.concatenate([first, second]))
    ones = np.searchsorted(np.sort(second), levels, "right") - np.searchsorted(np.sort(first), levels, "right")
    best = np.flatnonzero(ones[:-1] == ones.max())
    low, high = levels[best], levels[best + 1]
    # Of all that are as good, the one next to half of what a disc usually has, and not just beside a count's change.
    choices = np.clip(SECOND_SHARE * typical, low + 0.1 * (high - low), high - 0.1 * (high - low))
    return DiscFinder(radius, float(choices[np.abs(choices - SECOND_SHARE * typical).argmin()]))


def find_spots(images: Tensor, radius: float) -> tuple[Floats, Floats]:
    """Return the two best spots of each image, more than a disc's width apart.

    Args:
        images: See above.
        radius: Of the spots.

    Returns:
        contrasts: [N, 2], the best first; NOTHING where there is no other.
        places: [N, 2, 2], x and y of the middles.
    """
    assert images.shape[1:] == (3, WORK_SIZE, WORK_SIZE)
    # Large discs are as well seen in half the pixels, for a sixteenth of the work.
    step = 2 if radius >= COARSE_RADIUS else 1
    kernels = _kernels(radius / step)
    contrasts, places = [], []
    for start in range(0, len(images), BLOCK):
        block = images[start : start + BLOCK]
        values, pixels = _best_two(_contrasts(F.avg_pool2d(block.float(), step), kernels), radius / step)
        contrasts.append(values)
        places.append((pixels + 0.5) * step - 0.5)
    return np.concatenate(contrasts), np.concatenate(places)


def _kernels(radius: float) -> Tensor:
    """Return the shapes of the disc and of the sectors of its ring, [1 + SECTORS, 1, K, K] in [0, 1]."""
    reach = ceil(radius * RING[1])
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    distance, angle = np.hypot(x, y), np.arctan2(y, x)
    disc = np.clip(radius + 0.5 - distance, 0, 1)
    inner, outer = (radius * side for side in RING)
    ring = np.clip(distance - inner + 0.5, 0, 1) * np.clip(outer + 0.5 - distance, 0, 1)
    number = np.rint(angle / (2 * np.pi) * SECTORS) % SECTORS
    shapes = [disc, *(ring * (number == sector) for sector in range(SECTORS))]
    return torch.tensor(np.stack(shapes)[:, None], dtype=torch.float32)


def _contrasts(images: Tensor, kernels: Tensor) -> Tensor:
    """Return at each pixel the contrast of a disc there to the brightest sector of its ring, [n, H, W]."""
    # Less a pixel all along the border of the picture, which is neither dark nor bright there.
    seen = -F.max_pool2d(-(images.amax(dim=1, keepdim=True) > DARK).float(), 3, stride=1, padding=1)
    green = (images[:, 1:2] + LOG_OFFSET).log()
    reach = kernels.shape[-1] // 2
    cover = F.conv2d(seen, kernels, padding=reach)
    means = F.conv2d(green * seen, kernels, padding=reach) / cover.clamp(min=1e-3)
    known = cover >= LEAST_COVER * kernels.sum(dim=(2, 3)).view(1, -1, 1, 1)
    brightest = means[:, 1:].masked_fill(~known[:, 1:], -torch.inf).amax(dim=1)
    possible = known[:, 0] & (known[:, 1:].sum(dim=1) >= LEAST_SECTORS) & (seen[:, 0] > 0)
    return (means[:, 0] - brightest).masked_fill(~possible, NOTHING)


def _best_two(contrasts: Tensor, radius: float) -> tuple[Floats, Floats]:
    """Return contrasts [n, 2] and places [n, 2, 2] of the best pixel and of the best one not near it."""
    size = contrasts.shape[-1]
    axis = torch.arange(size)
    values, places = [], []
    for _ in range(2):
        value, position = contrasts.flatten(1).max(dim=1)
        y, x = position // size, position % size
        values.append(value.double().numpy())
        places.append(torch.stack([x, y], dim=1).double().numpy())
        squared = (axis.view(1, -1, 1) - y.view(-1, 1, 1)) ** 2 + (axis.view(1, 1, -1) - x.view(-1, 1, 1)) ** 2
        contrasts = contrasts.masked_fill(squared < (2 * radius) ** 2, NOTHING)
    return np.stack(values, axis=1), np.stack(places, axis=1)
