"""The images of one split of shards at any position."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from synthmed.data.images import decode_image, resize_image, to_grey
from synthmed.data.shards.read import ShardFolder
from synthmed.data.shards.samples import Entry, read_image_bytes

DEFAULT_CACHE_BYTES = 2 << 30


class ShardImages(Dataset[tuple[Tensor, int]]):
    """The images of one split, at any position, as (uint8 [C, H, W], label).

    Args:
        folder: The split to read.
        size: Side of the images in pixels; others are resized. `None`: the size of the first image.
        channels: 3, or 1 for the luma alone.
        cache_bytes: Decoded images are kept in memory if the whole split fits in this.
    """

    def __init__(
        self,
        folder: ShardFolder,
        *,
        size: int | None = None,
        channels: int = 3,
        cache_bytes: int = DEFAULT_CACHE_BYTES,
    ) -> None:
        self.entries: Sequence[Entry] = folder.entries
        self.classes = folder.classes
        self.labels = torch.tensor([entry.label for entry in self.entries], dtype=torch.int64)
        self.groups = [entry.group for entry in self.entries]
        self.keys = [entry.key for entry in self.entries]
        self.channels = channels
        self.size = size or len(self._decode(0))
        self._cache: Tensor | None = None
        if len(self.entries) * channels * self.size**2 <= cache_bytes:
            self._cache = torch.stack([self._read(number) for number in range(len(self.entries))])

    @property
    def cached(self) -> bool:
        """Whether all images are in memory, so that reading needs no worker processes."""
        return self._cache is not None

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, number: int) -> tuple[Tensor, int]:
        image = self._read(number) if self._cache is None else self._cache[number]
        return image, self.entries[number].label

    def load(self, numbers: Sequence[int] | Tensor) -> Tensor:
        """Return images by position: uint8 [len(numbers), C, H, W]."""
        if self._cache is not None:
            return self._cache[torch.as_tensor(numbers)]
        return torch.stack([self._read(int(number)) for number in numbers])

    def _decode(self, number: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
        entry = self.entries[number]
        return decode_image(read_image_bytes(entry), f"{entry.shard}: {entry.key}.{entry.extension}")

    def _read(self, number: int) -> Tensor:
        image = self._decode(number)
        if image.shape[:2] != (self.size, self.size):
            image = resize_image(image, self.size, "crop")
        if self.channels == 1:
            image = to_grey(image)[:, :, :1]
        return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
