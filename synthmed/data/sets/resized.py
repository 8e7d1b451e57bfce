"""The images of a set at the size at which they are looked at, kept in memory where they fit.

images: uint8 [n, 3, H, W].
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from synthmed.data.images import resize_image
from synthmed.data.pixels import to_rgb_arrays
from synthmed.data.sets.image_set import ImageSet
from synthmed.data.sets.shard_images import DEFAULT_CACHE_BYTES

BLOCK = 256


class SmallImages:
    """Labelled images of one square size; a `classifier.batches.ImageSource`.

    Args:
        images: Where they come from; brought to `size` without keeping proportions.
        size: Width and height in pixels.
        cache_bytes: They are kept in memory, once loaded, if all fit in this.
    """

    def __init__(self, images: ImageSet, size: int, *, cache_bytes: int = DEFAULT_CACHE_BYTES) -> None:
        self.labels = torch.from_numpy(np.asarray(images.labels, dtype=np.int64).copy())
        self.size = size
        self._images = images
        self._cache: Tensor | None = None
        if len(images) * 3 * size * size <= cache_bytes:
            self._cache = torch.cat([*self.blocks(), torch.empty(0, 3, size, size, dtype=torch.uint8)])

    def __len__(self) -> int:
        return len(self.labels)

    def load(self, numbers: Sequence[int]) -> Tensor:
        """Return images by position."""
        if self._cache is not None:
            return self._cache[torch.as_tensor(numbers)]
        return resize_images(self._images.load(numbers), self.size)

    def blocks(self, block: int = BLOCK) -> Iterator[Tensor]:
        """Yield all images in order, `block` at a time."""
        for start in range(0, len(self), block):
            yield self.load(range(start, min(start + block, len(self))))


def resize_images(images: Tensor, size: int) -> Tensor:
    """Return images as [n, 3, size, size], antialiased, without keeping proportions."""
    if images.shape[2:] == (size, size):
        return images
    resized = [resize_image(image, size, "stretch") for image in to_rgb_arrays(images)]
    return torch.from_numpy(np.stack(resized)).permute(0, 3, 1, 2).contiguous()
