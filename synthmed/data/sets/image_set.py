"""Labelled images by index, wherever they lie: the form in which all that looks at images takes them.

images: uint8 [n, C, H, W]; labels: int64 [N].
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from synthmed.data.images import ImageArray, ResizeMethod
from synthmed.data.labels import Classes
from synthmed.data.pixels import to_rgb_arrays
from synthmed.data.sets.reader import Indices, Reader, Size
from synthmed.data.sets.sources import Listing, list_shards
from synthmed.data.shards.read import ShardFolder
from synthmed.files.content import hash_json
from synthmed.runtime.progress import log

CACHE_BYTES = 2 << 30
BLOCK = 256


@dataclass(frozen=True, eq=False)
class ImageSet(Dataset[tuple[Tensor, int]]):
    """Images of one size with their labels.

    `torch.utils.data.DataLoader` takes it as it is: an item is (uint8 [C, H, W], label).
    """

    name: str
    """As tables show it."""
    kind: str | None
    """real, phantom or synthetic; `None` where the source does not say."""
    dataset: str | None
    split: str | None
    classes: Classes
    labels: NDArray[np.int64]
    """[N]."""
    keys: tuple[str, ...]
    """[N], unique in the set: keys of shards, paths of files."""
    groups: tuple[str, ...]
    """[N], patient or other unit; empty where it is not known."""
    native_size: Size
    """Height and width of the first image of the source, before it was brought to `size`."""
    _reader: Reader = field(repr=False)
    _positions: NDArray[np.int64] = field(repr=False)
    """[N], index of each image in the reader."""

    @property
    def size(self) -> Size:
        """Height and width of all images."""
        return self._reader.size

    @property
    def channels(self) -> int:
        """3, or 1 for grey."""
        return self._reader.channels

    @property
    def cached(self) -> bool:
        """Whether all images are in memory, so that reading needs no worker processes."""
        return self._reader.keeps(self._positions)

    @property
    def pixel_hashes(self) -> tuple[str, ...]:
        """[N], hex SHA-256 of each image: equal ones are copies to the bit, also in another set.

        The first time each image is read for it. An image that has other pixels later is an error.
        """
        return tuple(self._reader.hash(position) for position in self._positions.tolist())

    @property
    def content_hash(self) -> str:
        """Hex SHA-256 of the pixels in order.

        Keys, labels and how the images were stored are no part of it: features do not depend on them.
        """
        return hash_json({"size": list(self.size), "images": list(self.pixel_hashes)})

    def log_resized(self) -> None:
        """Say on stderr how many of the images were brought to another size."""
        # Images that do not fit into memory are read later: then all that is known is the size of the first.
        count = self._reader.was_resized.sum() or ("all" if self.native_size != self.size else 0)
        if count:
            where = self.name if self.split is None else f"{self.name.removesuffix(f':{self.split}')}:{self.split}"
            height, width = self.size
            log(f"{where}: {count} of {len(self)} images of other sizes are resized to {height} x {width} pixels")

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self._reader.read(int(self._positions[index])), int(self.labels[index])

    def load(self, indices: Indices) -> Tensor:
        """Return images by index: [n, C, H, W].

        Raises:
            DataError: A file is gone or broken, or has changed since its hash was taken.
        """
        return self._reader.load(self._positions[np.asarray(indices, dtype=np.int64)])

    def blocks(self, size: int = BLOCK) -> Iterator[Tensor]:
        """Yield all images in order, `size` at a time."""
        for start in range(0, len(self), size):
            yield self.load(range(start, min(start + size, len(self))))

    def subset(self, indices: Indices) -> ImageSet:
        """Return the set of the images at some indices, in their order, each at most once."""
        chosen = np.arange(len(self), dtype=np.int64)[np.asarray(indices, dtype=np.int64)]
        if len(np.unique(chosen)) != len(chosen):
            raise ValueError("an image stands twice in a subset")
        return replace(
            self,
            labels=self.labels[chosen],
            keys=tuple(self.keys[index] for index in chosen),
            groups=tuple(self.groups[index] for index in chosen),
            _positions=self._positions[chosen],
        )

    def resized(
        self,
        size: int,
        method: ResizeMethod = "stretch",
        *,
        channels: int = 3,
        cache_bytes: int = CACHE_BYTES,
    ) -> ImageSet:
        """Return the same images as squares of another size.

        Args:
            size: Side in pixels.
            method: "stretch" keeps all of an image and not its proportions, "crop" the largest square in its middle.
            channels: 3, or 1 for the luma alone.
            cache_bytes: The new images are read now and kept in memory if all fit into this.
        """
        reader = Reader(self, (size, size), method=method, channels=channels, cache_bytes=cache_bytes, keep="whole")
        return replace(self, _reader=reader, _positions=np.arange(len(self)))

    def pixels(self, index: int) -> ImageArray:
        """Return one image [H, W, 3]."""
        image, _ = self[index]
        return np.ascontiguousarray(to_rgb_arrays(image[None])[0])

    def title(self, index: int) -> str:
        """Return what errors call an image."""
        return f"{self.name}: {self.keys[index]}"


def open_images(
    shards: ShardFolder, *, size: int | None = None, channels: int = 3, cache_bytes: int = CACHE_BYTES
) -> ImageSet:
    """Return the images of one split of shards as squares, in the order of the shards.

    Args:
        shards: The split.
        size: Side in pixels; of other images the largest square in the middle is resized. `None` takes the height of
            the first image.
        channels: 3, or 1 for the luma alone.
        cache_bytes: The images are read now and kept in memory if all fit into this; otherwise each is read whenever
            it is asked for, which a DataLoader's workers can share.

    Raises:
        DataError: An image cannot be read, or is broken.
    """
    listing = list_shards(shards)
    native_size = listing.pixels(0).shape[:2]
    side = size or native_size[0]
    reader = Reader(listing, (side, side), channels=channels, cache_bytes=cache_bytes, keep="whole")
    return make_set(listing, reader, native_size)


def make_set(listing: Listing, reader: Reader, native_size: Size) -> ImageSet:
    """Return the images of a listing, in its order, as a reader gives them."""
    return ImageSet(
        name=listing.name,
        kind=listing.kind,
        dataset=listing.dataset,
        split=listing.split,
        classes=listing.classes,
        labels=np.asarray(listing.labels, dtype=np.int64),
        keys=tuple(listing.keys),
        groups=tuple(listing.groups),
        native_size=native_size,
        _reader=reader,
        _positions=np.arange(len(listing)),
    )
