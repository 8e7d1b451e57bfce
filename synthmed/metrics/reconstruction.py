"""How close a reconstruction is to its original: pure functions of two batches of images.

Shapes: images and targets are [N, C, H, W] float in [0, 1]; every function returns one figure per image, [N].
"""

from __future__ import annotations

import torch
from torch import Tensor

# Wang et al. 2003, table of section 3: weights of the scales, the finest first.
MS_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
MS_SSIM_WINDOW = 11


def mse(images: Tensor, targets: Tensor) -> Tensor:
    """Return the mean squared error."""
    return (images - targets).pow(2).mean(dim=(1, 2, 3))


def psnr(images: Tensor, targets: Tensor) -> Tensor:
    """Return the peak signal-to-noise ratio in dB; 100 for equal images."""
    return -10 * torch.log10(mse(images, targets).clamp(min=1e-10))


def num_scales(size: int) -> int:
    """Return how many scales of MS-SSIM images of a size have room for: all 5 above 160 pixels.

    torchmetrics wants the window to fit (scales - 1)^2 times into the side.
    """
    return max(scales for scales in range(2, 6) if size // (scales - 1) ** 2 >= MS_SSIM_WINDOW)


def ms_ssim(images: Tensor, targets: Tensor) -> Tensor:
    """Return the multi-scale structural similarity (Wang et al. 2003).

    Images too small for five scales are compared on those that fit, with the weights of these scaled to sum to one.
    """
    from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

    weights = torch.tensor(MS_SSIM_WEIGHTS[: num_scales(min(images.shape[2:]))], dtype=torch.float64)
    betas = tuple((weights / weights.sum()).tolist())
    with torch.autocast(images.device.type, enabled=False):
        found = multiscale_structural_similarity_index_measure(
            images, targets, reduction="none", data_range=1.0, betas=betas, normalize="relu"
        )
    assert isinstance(found, Tensor)
    return found
