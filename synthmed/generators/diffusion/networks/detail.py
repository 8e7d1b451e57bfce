"""The detail stage: what an autoencoder loses of an image, made anew by a small denoiser on top of its reconstruction.

The residual between an image and its reconstruction is taken apart by one step of the orthonormal Haar transform, so
that the denoiser works at half the side; it sees the same bands of the reconstruction beside the noisy ones.

Shapes: images [N, C, H, W] float in [-1, 1], H and W even; bands [N, 4 C, H / 2, W / 2] float, of each channel the
mean of four pixels, then the differences across, down and diagonally.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from synthmed.generators.diffusion.config import UnetConfig
from synthmed.generators.diffusion.networks.unet import build_denoiser

BANDS = 4
LEAST_SCALE = 1e-4
"""Of a band: less than a hundredth of a grey level is nothing to learn from."""


def to_bands(images: Tensor) -> Tensor:
    """Return one step of the orthonormal Haar transform of images."""
    return _transform(functional.pixel_unshuffle(images, 2))


def from_bands(bands: Tensor) -> Tensor:
    """Return the images of which `to_bands` gives these bands."""
    return functional.pixel_shuffle(_transform(bands), 2)


def _transform(fours: Tensor) -> Tensor:
    """Return the transform of each four channels; it is its own inverse."""
    a, b, c, d = (fours[:, place::BANDS] for place in range(BANDS))
    return torch.stack([a + b + c + d, a - b + c - d, a + b - c - d, a - b - c + d], dim=2).flatten(1, 2) / 2


class DetailNetwork(nn.Module):
    """A denoiser of a residual's bands that sees the bands of the reconstruction.

    Attributes:
        residual_scale: Root mean square of each band of the residual, by which it is divided: [4 C].
        guide_scale: The same of the reconstruction.
    """

    residual_scale: Tensor
    guide_scale: Tensor

    def __init__(self, config: UnetConfig, image_channels: int, num_classes: int) -> None:
        super().__init__()
        bands = BANDS * image_channels
        self.denoiser = build_denoiser(config, bands, num_classes, guide_channels=bands)
        self.register_buffer("residual_scale", torch.ones(bands))
        self.register_buffer("guide_scale", torch.ones(bands))

    def guide(self, structure: Tensor) -> Tensor:
        """Return what the denoiser sees of reconstructed images."""
        return to_bands(structure) / self.guide_scale[:, None, None]

    def residual(self, images: Tensor, structure: Tensor) -> Tensor:
        """Return what is to be learnt: the scaled bands of what reconstructed images lack."""
        return to_bands(images - structure) / self.residual_scale[:, None, None]

    def add(self, structure: Tensor, residual: Tensor) -> Tensor:
        """Return reconstructed images with a residual, given by its scaled bands."""
        return structure + from_bands(residual * self.residual_scale[:, None, None])

    def forward(self, x_t: Tensor, t: Tensor, labels: Tensor | None, guide: Tensor) -> Tensor:
        """Predict from noisy scaled bands what the denoiser's objective names; t and labels are [N] int64."""
        return self.denoiser(x_t, t, labels, guide=guide)  # type: ignore[no-any-return]
