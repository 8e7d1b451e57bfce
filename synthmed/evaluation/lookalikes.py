"""Which training image an image resembles most in its pixels, be it mirrored, brightened, cropped, moved or turned.

Small copies of the training images, mirrored and cropped too, give each image a short list; each of the list is then
moved, scaled and turned until it fits best. Both compare correlations, which brightness and contrast do not change.

Shapes: M images, N training images, V ways to show one, K on the short list, P pairs, S side of small images in pixels.
images: uint8 [N, 3, H, W]; small images: float32 [N, C, S, S]; similarities: [P] complex (scale, angle) and shift.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

from synthmed.data.sets.image_set import ImageSet
from synthmed.metrics.brightness import LUMA

BLOCK = 256
LIST_LENGTH = 8
COARSE = 16
FINE = 32
"""Sides of the small images: for the short list, and to fit. Smaller ones forgive more, larger ones tell more apart."""
CROPS = (1.0, 0.93, 0.86)
"""Shares of a training image's side that its views on the short list show, cut from the middle."""
STEPS = ((COARSE, 6), (FINE, 5))
"""Side of the images, and how many steps of fitting are made at it."""
MAX_STEP, MAX_CHANGE, MAX_SHIFT = 0.05, 0.25, 0.2
"""Largest change in one step, and in all of scale and angle (radians) and of the shift (in halves of the side). What
needs more is another image."""


class Lookalikes:
    """Finds the training images that resemble images most, on a device."""

    def __init__(self, training: ImageSet, device: torch.device) -> None:
        self._device = device
        views: list[list[Tensor]] = [[] for _ in range(2 * len(CROPS))]
        fine = []
        for images in _blocks(training, device):
            fine.append(_shrink(_luma(images), FINE))
            for index, crop in enumerate(CROPS):
                cropped = _shrink(_cut(images, crop), COARSE)
                views[2 * index].append(_flatten(cropped))
                views[2 * index + 1].append(_flatten(cropped.flip(3)))
        self._fine = torch.cat(fine)
        self._views = [torch.cat(parts) for parts in views]

    def find(self, images: ImageSet) -> tuple[Tensor, Tensor, Tensor]:
        """Return the training images that fit each image best, on the CPU.

        Returns:
            distances: [M, K] float64, ascending; sqrt(2 - 2 r) with r the correlation of the small images once fitted,
                so 0 for a copy and about 1.4 for images that have nothing in common.
            indices: [M, K] int64, into the training images.
            mirrored: [M, K] bool, whether the training image fits from left to right.
        """
        found = [self._find(block) for block in _blocks(images, self._device)]
        distances, indices, mirrored = (torch.cat(parts).cpu() for parts in zip(*found, strict=True))
        return distances, indices, mirrored

    def _find(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        indices, mirrored = self._short_list(_flatten(_shrink(images, COARSE)))
        chosen = self._fine[indices.flatten()]
        chosen = torch.where(mirrored.flatten()[:, None, None, None], chosen.flip(3), chosen)
        targets = _shrink(_luma(images), FINE).repeat_interleave(indices.shape[1], dim=0)
        correlations = fit(targets, chosen).reshape(indices.shape)
        order = correlations.argsort(dim=1, descending=True, stable=True)
        distances = (2 - 2 * correlations).clamp_min(0).sqrt()
        return distances.gather(1, order), indices.gather(1, order), mirrored.gather(1, order)

    def _short_list(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the K training images whose best view is nearest, and whether that is a mirrored one: [M, K] each."""
        best = images @ self._views[0].T
        mirrored = torch.zeros_like(best, dtype=torch.bool)
        for index, view in enumerate(self._views[1:], start=1):
            correlations = images @ view.T
            mirrored = torch.where(correlations > best, index % 2 == 1, mirrored)
            best = torch.maximum(best, correlations)
        indices = best.topk(min(LIST_LENGTH, best.shape[1]), dim=1).indices
        return indices, mirrored.gather(1, indices)


def fit(targets: Tensor, images: Tensor) -> Tensor:
    """Return the correlation [P] float64 of targets with images that are moved, scaled and turned to fit them.

    Gauss-Newton on the squared difference of images with mean 0 and norm 1 (after Evangelidis & Psarakis 2008,
    "Parametric image alignment using enhanced correlation coefficient maximization"), from coarse to fine. Where that
    makes the fit worse, the correlation of the unchanged images is returned. Targets and images are
    [P, 1, S, S] float32.
    """
    # The point z = x + iy of the target, x and y in [-1, 1], shows the point scale * z + shift of the image. The
    # complex scale both scales, by its absolute value, and turns, by its angle.
    scale = torch.ones(len(targets), dtype=torch.complex64, device=targets.device)
    shift = torch.zeros_like(scale)
    for side, steps in STEPS:
        small_targets, small_images = _shrink(targets, side), _shrink(images, side)
        for _ in range(steps):
            by_scale, by_shift = _newton_step(small_targets, _warp(small_images, scale, shift))
            # The step changes z to (1 + by_scale) z + by_shift before the present scale and shift are applied to it.
            shift = _limit(scale * by_shift + shift, MAX_SHIFT)
            scale = 1 + _limit(scale * (1 + by_scale) - 1, MAX_CHANGE)
    fitted = _correlation(targets, _warp(images, scale, shift))
    return torch.maximum(fitted, _correlation(targets, images))


def _newton_step(targets: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return by how much to change scale and shift, [P] complex each, so that images fit better.

    With v(s) the image after a change s = (a, b, c, d), which shows z + (a + ib) z + (c + id) at z, and v normalised to
    mean 0 and norm 1, the step minimises |target - v(0) - J s|^2 for J = dv/ds: it solves J'J s = J' (target - v(0)).
    """
    side = targets.shape[-1]
    current = _flatten(images)
    padded = functional.pad(current.reshape(images.shape), (1, 1, 1, 1), mode="replicate")[:, 0]
    # Central differences: two pixels are 4 / side of the range [-1, 1].
    by_x = (padded[:, 1:-1, 2:] - padded[:, 1:-1, :-2]) * (side / 4)
    by_y = (padded[:, 2:, 1:-1] - padded[:, :-2, 1:-1]) * (side / 4)
    y, x = _coordinates(side, images.device)
    # J before normalisation: a moves z along (x, y), b along iz = (-y, x), c along (1, 0) and d along (0, 1).
    jacobian = torch.stack([by_x * x + by_y * y, by_y * x - by_x * y, by_x, by_y], dim=-1).flatten(1, 2)
    # Normalisation takes out of each column its mean, and what only makes the image longer: its part along the image.
    jacobian = jacobian - jacobian.mean(dim=1, keepdim=True)
    jacobian = jacobian - current[:, :, None] * (current[:, None] @ jacobian)
    normal = jacobian.mT @ jacobian
    # A little damping (Levenberg): J'J of a flat image is zero and could not be solved for.
    damping = 1e-3 * normal.diagonal(dim1=1, dim2=2).mean(dim=1) + 1e-9
    normal = normal + damping[:, None, None] * torch.eye(4, device=images.device)
    wanted = jacobian.mT @ (_flatten(targets) - current)[:, :, None]
    step = torch.linalg.solve(normal, wanted)[:, :, 0].clamp(-MAX_STEP, MAX_STEP)
    return torch.complex(step[:, 0], step[:, 1]), torch.complex(step[:, 2], step[:, 3])


def _warp(images: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    y, x = _coordinates(images.shape[-1], images.device)
    points = scale[:, None, None] * torch.complex(x, y) + shift[:, None, None]
    return functional.grid_sample(images, torch.view_as_real(points), padding_mode="border", align_corners=False)


def _coordinates(side: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the pixels' y and x in [-1, 1], [S, S] each."""
    line = (torch.arange(side, device=device) + 0.5) * (2 / side) - 1
    y, x = torch.meshgrid(line, line, indexing="ij")
    return y, x


def _limit(values: Tensor, limit: float) -> Tensor:
    return torch.complex(values.real.clamp(-limit, limit), values.imag.clamp(-limit, limit))


def _correlation(first: Tensor, second: Tensor) -> Tensor:
    """Return the correlation of pairs of images [P] without their borders, which a moved image does not show."""
    border = first.shape[-1] // 16
    inner = slice(border, first.shape[-1] - border)
    # In float64: with float32 rounding, the square root would put equal images 0.0005 apart.
    first, second = first[..., inner, inner].double(), second[..., inner, inner].double()
    return (_flatten(first) * _flatten(second)).sum(dim=1)


def _blocks(images: ImageSet, device: torch.device) -> Iterator[Tensor]:
    """Return all images, float32 [n, 3, H, W]."""
    return (block.to(device).float() for block in images.blocks(BLOCK))


def _luma(images: Tensor) -> Tensor:
    """Return one channel, so that a copy that lost its colours is still found."""
    weights = torch.tensor(LUMA, device=images.device)
    return (images * weights[:, None, None]).sum(dim=1, keepdim=True)


def _cut(images: Tensor, share: float) -> Tensor:
    """Return the middle of images, rounded to whole pixels."""
    height, width = images.shape[2:]
    top, left = round(height * (1 - share) / 2), round(width * (1 - share) / 2)
    return images[:, :, top : height - top, left : width - left]


def _shrink(images: Tensor, side: int) -> Tensor:
    if images.shape[-2:] == (side, side):
        return images
    return functional.interpolate(images, (side, side), mode="bilinear", antialias=True, align_corners=False)


def _flatten(images: Tensor) -> Tensor:
    """Return images as rows with the norm 1, each channel with the mean 0; a flat image as zeros."""
    centred = (images - images.mean(dim=(2, 3), keepdim=True)).flatten(1)
    # Only rounding is left of a flat image, a norm far below 1: without the bound it would be blown up to noise.
    rows: Tensor = centred / centred.norm(dim=1, keepdim=True).clamp_min(1)
    return rows
