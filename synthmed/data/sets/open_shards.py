"""Shards as a stream of decoded samples, for jobs outside synthmed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from synthmed.data.images import SHARD_KINDS, decode_image
from synthmed.data.shards.read import find_lengths, find_shards
from synthmed.data.shards.samples import stream_shard


def open_shards(folder: Path, split: str) -> Any:
    """Return a webdataset pipeline that yields (uint8 [3, H, W], label, metadata), for jobs outside synthmed.

    Raises:
        DataError: The folder has no such split; while it is read, that a shard is broken or the store fails.
    """
    import webdataset

    found = find_shards(folder, split)
    shards = webdataset.FluidWrapper(list(find_lengths(folder, split, found).items()))
    return shards.compose(webdataset.split_by_node, webdataset.split_by_worker, _decoded_samples)


def _decoded_samples(shards: Iterator[tuple[Path, list[int]]]) -> Iterator[tuple[Tensor, int, dict[str, Any]]]:
    for shard, stated in shards:
        for entry, metadata, data in stream_shard(shard, stated):
            image = decode_image(data, f"{shard}: {entry.key}.{entry.extension}", kinds=SHARD_KINDS)
            yield torch.from_numpy(image.copy()).permute(2, 0, 1), entry.label, metadata
