"""Between uint8 images and the float images that networks see; the only place that converts.

uint8: [N, C, H, W] in [0, 255]; float: [N, C, H, W] in [-1, 1].
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def to_float(images: Tensor) -> Tensor:
    """Return images as float in [-1, 1] from uint8."""
    return images.float() / 127.5 - 1


def to_unit(images: Tensor) -> Tensor:
    """Return float images of [-1, 1], clipped to it, as float in [0, 1]."""
    return (images.clamp(-1, 1) + 1) / 2


def to_uint8(images: Tensor) -> Tensor:
    """Return images as uint8 from float, clipped to [-1, 1] and truncated as Medfusion does."""
    return (to_unit(images) * 255).to(torch.uint8)


def to_rgb_arrays(images: Tensor) -> NDArray[np.uint8]:
    """Return uint8 images [N, C, H, W] of 1 or 3 channels as arrays [N, H, W, 3], to encode or to look at."""
    return images.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).cpu().numpy()
