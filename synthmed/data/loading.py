"""From shards to batches: decoded images, the order in which training sees them, and float conversion.

Images are uint8 [N, 3, H, W] everywhere but between `to_float` and `to_uint8`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from synthmed.data.images import decode_image, resize_image, to_grey
from synthmed.data.sample_reading import Entry, read_image_bytes, stream_shard
from synthmed.data.shard_reading import ShardFolder, find_shards
from synthmed.seeds import numpy_generator

DEFAULT_CACHE_BYTES = 2 << 30


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


def open_shards(folder: Path, split: str) -> Any:
    """Return a webdataset pipeline that yields (uint8 [3, H, W], label, metadata), for jobs outside synthmed.

    Raises:
        DataError: The folder has no such split; while it is read, that a shard is broken or the store fails.
    """
    import webdataset

    shards = webdataset.FluidWrapper(find_shards(folder, split))
    return shards.compose(webdataset.split_by_node, webdataset.split_by_worker, _decoded_samples)


def _decoded_samples(shards: Iterator[Path]) -> Iterator[tuple[Tensor, int, dict[str, Any]]]:
    for shard in shards:
        for entry, metadata, data in stream_shard(shard):
            image = decode_image(data, f"{shard}: {entry.key}.{entry.extension}")
            yield torch.from_numpy(image.copy()).permute(2, 0, 1), entry.label, metadata


class StepBatches(Sampler[list[int]]):
    """The positions of each optimiser step's samples: a pure function of seed and step, so a resume needs no state.

    Each epoch is a permutation of all samples; with `balanced`, of each class by itself, and classes take turns.

    Args:
        labels: Class of each sample [N] int64.
        batch_size: Samples in a step, over all processes.
        steps: Number of steps, from `start` on.
        seed: Seed of the permutations.
        balanced: Draw each class equally often.
        rank: This process takes every `world`-th sample of a batch, from its number on.
        world: Number of processes.
    """

    def __init__(
        self,
        labels: Tensor,
        batch_size: int,
        steps: int,
        seed: int,
        *,
        start: int = 0,
        balanced: bool = False,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.batch_size, self.steps, self.start, self.seed = batch_size, steps, start, seed
        self.rank, self.world = rank, world
        values = labels.numpy()
        pools = [np.flatnonzero(values == label) for label in np.unique(values)] if balanced else []
        self._pools = pools or [np.arange(len(values))]
        self._orders: dict[int, tuple[int, np.ndarray[tuple[int, ...], np.dtype[np.int64]]]] = {}

    def __len__(self) -> int:
        return self.steps - self.start

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self.start, self.steps):
            first = step * self.batch_size
            yield [self._at(position) for position in range(first + self.rank, first + self.batch_size, self.world)]

    def _at(self, position: int) -> int:
        turn, number = position % len(self._pools), position // len(self._pools)
        pool = self._pools[turn]
        epoch, place = divmod(number, len(pool))
        if self._orders.get(turn, (-1, None))[0] != epoch:
            self._orders[turn] = epoch, numpy_generator(self.seed, "order", turn, epoch).permutation(len(pool))
        return int(pool[self._orders[turn][1][place]])
