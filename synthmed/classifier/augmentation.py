"""Light augmentation of classifier batches: flips, small moves, brightness and contrast, drawn for each image.

images: [N, 3, H, W] float in [-1, 1].
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Flips = Literal["none", "horizontal", "both"]

MAX_ROTATION_RADIANS = math.radians(10)
MAX_SCALE_CHANGE = 0.1
MAX_SHIFT = 0.1  # of half a side: affine grids run from -1 to 1
MAX_CONTRAST_CHANGE = 0.2
MAX_BRIGHTNESS_CHANGE = 0.2  # of a range of 2


def augment(images: Tensor, generator: torch.Generator, *, flips: Flips, light: bool) -> Tensor:
    """Return randomly changed copies of images, on their device.

    Args:
        images: [N, 3, H, W] float in [-1, 1].
        generator: On the CPU; all draws come from it, whatever the device.
        flips: Axes along which an image is mirrored with probability one half.
        light: Rotate, scale, shift, and change brightness and contrast a little.
    """
    count = len(images)

    def draw(extent: float) -> Tensor:
        return (torch.rand(count, generator=generator) * 2 - 1) * extent

    def draw_sides(wanted: bool) -> Tensor:
        return torch.where(draw(1) < 0, -1.0, 1.0) if wanted else torch.ones(count)

    mirror_x, mirror_y = draw_sides(flips != "none"), draw_sides(flips == "both")
    if not light:
        return _resample(images, mirror_x, mirror_y, *torch.zeros(4, count)) if flips != "none" else images
    moved = _resample(
        images, mirror_x, mirror_y, draw(MAX_ROTATION_RADIANS), draw(MAX_SCALE_CHANGE), draw(MAX_SHIFT), draw(MAX_SHIFT)
    )
    contrast = (1 + draw(MAX_CONTRAST_CHANGE)).view(-1, 1, 1, 1).to(images.device)
    brightness = draw(MAX_BRIGHTNESS_CHANGE).view(-1, 1, 1, 1).to(images.device)
    mean = moved.mean(dim=(1, 2, 3), keepdim=True)
    return ((moved - mean) * contrast + mean + brightness).clamp(-1, 1)


def _resample(
    images: Tensor, mirror_x: Tensor, mirror_y: Tensor, angle: Tensor, scale: Tensor, shift_x: Tensor, shift_y: Tensor
) -> Tensor:
    """Return images read at mirrored, rotated, scaled and shifted positions; outside, the border is repeated."""
    cosine, sine = angle.cos() * (1 + scale), angle.sin() * (1 + scale)
    rows = [cosine * mirror_x, -sine * mirror_y, shift_x, sine * mirror_x, cosine * mirror_y, shift_y]
    theta = torch.stack(rows, dim=1).view(-1, 2, 3).to(images.device)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)
