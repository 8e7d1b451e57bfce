"""Images by index, brought to one size and number of channels, and kept in memory as far as they fit.

images: uint8 [C, H, W].
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from synthmed.data.images import ImageArray, ResizeMethod, resize_image, to_grey
from synthmed.data.prepare.scan import default_workers, hash_pixels, map_ordered
from synthmed.errors import DataError

Indices = Sequence[int] | NDArray[np.int64] | Tensor
Size = tuple[int, int]
"""Height and width in pixels."""


class Source(Protocol):
    """What a reader takes images from: a listing, or another set."""

    def __len__(self) -> int: ...

    def pixels(self, index: int) -> ImageArray:
        """Return one image [H, W, 3], of whatever size it has."""

    def title(self, index: int) -> str:
        """Return what errors call an image."""


class Reader:
    """Reads images by index, in any number of threads.

    Args:
        source: Where they come from.
        size: Height and width in pixels, to which others are resized.
        method: How they are resized; see `data.images.resize_image`.
        channels: 3, or 1 for the luma alone.
        cache_bytes: Images are kept in memory up to this, once they have been read: those that come first in the
            source. Sets are read from end to end, so that room made for later ones would be taken from those that are
            needed next.
        keep: `whole` keeps all images if they fit and reads them at once; otherwise it keeps none, so that processes
            which read by themselves do not each fill a memory of their own.
    """

    def __init__(
        self,
        source: Source,
        size: Size,
        *,
        method: ResizeMethod = "crop",
        channels: int = 3,
        cache_bytes: int = 0,
        keep: Literal["first", "whole"] = "first",
    ) -> None:
        self._source, self._method, self.size, self.channels = source, method, size, channels
        room = min(len(source), cache_bytes // (channels * size[0] * size[1]))
        if keep == "whole" and room < len(source):
            room = 0
        self._kept = torch.empty(room, channels, *size, dtype=torch.uint8)
        self._is_kept = np.zeros(len(source), dtype=bool)
        self.hashes: list[str | None] = [None] * len(source)
        """Of those images that were asked for; see `hash`."""
        self.was_resized = np.zeros(len(source), dtype=bool)
        """Which images had another size, of those read so far."""
        if keep == "whole" and room:
            for _ in map_ordered(self.read, range(room), default_workers()):
                pass

    def keeps(self, indices: NDArray[np.int64]) -> bool:
        """Say whether all these images are in memory."""
        return bool(self._is_kept[indices].all())

    def read(self, index: int) -> Tensor:
        """Return one image [C, H, W].

        Raises:
            DataError: It cannot be read, is broken, or is another one than when its hash was taken.
        """
        if self._is_kept[index]:
            return self._kept[index]
        image = self._source.pixels(index)
        self.was_resized[index] = image.shape[:2] != self.size
        image = resize_image(image, self.size, self._method)
        if self.channels == 1:
            image = to_grey(image)[:, :, :1]
        if (known := self.hashes[index]) is not None and hash_pixels(image) != known:
            raise DataError(f"{self._source.title(index)} has changed while it was in use", "start again")
        tensor = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
        if index < len(self._kept):
            self._kept[index] = tensor
            self._is_kept[index] = True
        return tensor

    def load(self, indices: NDArray[np.int64]) -> Tensor:
        """Return images [n, C, H, W]."""
        if self.keeps(indices):
            return self._kept[torch.from_numpy(indices)]
        images = torch.empty(len(indices), self.channels, *self.size, dtype=torch.uint8)
        workers = min(default_workers(), max(1, len(indices)))
        for place, image in zip(images, map_ordered(self.read, indices.tolist(), workers), strict=True):
            place.copy_(image)
        return images

    def hash(self, index: int) -> str:
        """Return the hex SHA-256 of an image's size and pixels, and from then on refuse other pixels for it."""
        found = self.hashes[index]
        if found is None:
            found = self.hashes[index] = hash_pixels(self.read(index).permute(1, 2, 0).numpy())
        return found
