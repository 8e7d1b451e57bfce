"""The features of a set of images, computed once: the key is the images' pixels and all that determines a feature.

The unit of work is a block of images, stored when it is whole, so that a run that was killed goes on with the next one.
Any number of processes, started by torchrun or by hand, share the blocks of one cache: each takes a block that no other
works on, and all end with the same features. Files are checked when they are read: what is not a whole file of exactly
these features is computed again.

features: float32 [N, D].
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from synthmed.data.sets.image_set import ImageSet
from synthmed.errors import DataError
from synthmed.features.extractor import Extractor
from synthmed.files.locks import claim_file
from synthmed.files.storage import remove
from synthmed.formats.model_files import write_tensors
from synthmed.runtime.device import FittingBatches
from synthmed.runtime.processes import Processes
from synthmed.runtime.progress import Advance, log, progress
from synthmed.runtime.signals import StopSignal

BLOCK_IMAGES = 512
"""At most this many images have to be done again when a process is killed."""
BATCH_SIZES = {"cuda": 64, "cpu": 16}
POLL_SEC = 0.2

Features = NDArray[np.float32]
ALONE = Processes()


def features(
    images: ImageSet,
    extractor: Extractor,
    *,
    cache: Path | None,
    device: torch.device,
    batch_size: int | None = None,
    processes: Processes = ALONE,
) -> Features:
    """Return the features of all images [N, D], from the cache or computed and then stored there.

    Args:
        images: The set.
        extractor: Computes the features.
        cache: Folder on a disk; `None` stores nothing, and every process computes everything.
        device: Where the extractor computes.
        batch_size: Images at once; halved where memory is too small.
        processes: This process's place among those that share the work and `cache`.

    Raises:
        DataError: A feature is not finite, or an image cannot be read any more.
        DeviceError: No memory for a single image, or the disk is full.
        Interrupted: A signal came; whole blocks are kept.
    """
    batches = FittingBatches(device, batch_size or BATCH_SIZES[device.type], "features")
    work = _Work(images, extractor, device, batches)
    if cache is None:
        return np.concatenate(list(_fill(work, None, processes).values()))
    stored = _Store(cache, images, extractor)
    whole = stored.read_whole()
    if whole is None:
        found = _fill(work, stored, processes)
        whole = np.concatenate([found[block] for block in sorted(found)])
        stored.write_whole(whole)
    stored.remove_blocks()
    return whole


@dataclass(frozen=True)
class _Work:
    """What is to be computed, block by block."""

    images: ImageSet
    extractor: Extractor
    device: torch.device
    batches: FittingBatches

    def blocks(self, processes: Processes) -> list[int]:
        """Return the indices of all blocks, beginning with this process's share of them."""
        count = -(-len(self.images) // BLOCK_IMAGES)
        own = processes.rank * count // processes.world
        return [(own + index) % count for index in range(count)]

    def compute(self, block: int, stop: StopSignal) -> Features:
        """Return the features of a block's images."""

        def extract(indices: Sequence[int]) -> Features:
            stop.check("the features computed so far are kept; run the same command again to go on")
            with torch.no_grad():
                rows = self.extractor(self.images.load(indices).to(self.device)).cpu().numpy()
            if rows.shape != (len(indices), self.extractor.num_features) or rows.dtype != np.float32:
                raise ValueError(f"{self.extractor.name} gives {rows.dtype} {rows.shape} of {len(indices)} images")
            if not (finite := np.isfinite(rows).all(axis=1)).all():
                key = self.images.keys[indices[int(finite.argmin())]]
                raise DataError(f"{self.images.name}: {self.extractor.name} has no finite features for {key}")
            return rows

        return np.concatenate(self.batches.map(extract, _block_range(block, len(self.images))))


class _Store:
    """The files of one set and extractor: one of all features, and until it is there a folder of blocks beside it."""

    def __init__(self, cache: Path, images: ImageSet, extractor: Extractor) -> None:
        self.images, self.extractor = images, extractor
        stem = f"{images.content_hash}-{extractor.fingerprint}"
        self.path, self.folder = cache / f"{stem}.safetensors", cache / f"{stem}.blocks"

    def read_whole(self) -> Features | None:
        """Return all features, or `None` where no file holds exactly them."""
        return self._read(self.path, 0, len(self.images))

    def write_whole(self, rows: Features) -> None:
        """Store all features, unless another process has done so or is about to."""
        with claim_file(self.folder / "whole.lock") as mine:
            if mine and self.read_whole() is None:
                self._write(self.path, 0, rows)

    def read_block(self, block: int) -> Features | None:
        """Return the features of a block, or `None` where no file holds exactly them."""
        images = _block_range(block, len(self.images))
        return self._read(self._block_path(block), images.start, len(images))

    def write_block(self, block: int, rows: Features) -> None:
        """Store the features of a block."""
        self._write(self._block_path(block), block * BLOCK_IMAGES, rows)

    def claim_block(self, block: int) -> contextlib.AbstractContextManager[bool]:
        """Say whether this process may compute a block; no other may until the context ends."""
        return claim_file(self._block_path(block).with_suffix(".lock"))

    def remove_blocks(self) -> None:
        """Remove the blocks once the whole is stored; others may be doing so."""
        if self.path.exists() and self.folder.exists():
            with contextlib.suppress(OSError):
                remove(self.folder)

    def _block_path(self, block: int) -> Path:
        return self.folder / f"{block:06d}.safetensors"

    def _write(self, path: Path, first: int, rows: Features) -> None:
        write_tensors(path, {"features": torch.from_numpy(rows)}, self._describe(first, rows))

    def _describe(self, first: int, rows: Features) -> dict[str, str]:
        return {
            "images": self.images.content_hash,
            "extractor": self.extractor.fingerprint,
            "first": str(first),
            "sha256": hashlib.sha256(np.ascontiguousarray(rows).data).hexdigest(),
        }

    def _read(self, path: Path, first: int, count: int) -> Features | None:
        if not path.is_file():
            return None
        try:
            with safe_open(path, framework="numpy") as file:
                part = file.get_slice("features")
                if part.get_dtype() != "F32" or part.get_shape() != [count, self.extractor.num_features]:
                    return None
                rows: Features = file.get_tensor("features")
                as_described = file.metadata() == self._describe(first, rows)
        except (SafetensorError, OSError):
            return None
        return rows if as_described and bool(np.isfinite(rows).all()) else None


def _block_range(block: int, num_images: int) -> range:
    return range(block * BLOCK_IMAGES, min((block + 1) * BLOCK_IMAGES, num_images))


def _fill(work: _Work, stored: _Store | None, processes: Processes) -> dict[int, Features]:
    """Return the features of all blocks: those that are stored, those of other processes, and the rest computed here.

    Raises:
        Interrupted: A signal came.
    """
    blocks = work.blocks(processes)
    found = {block: rows for block in blocks if stored and (rows := stored.read_block(block)) is not None}
    done = sum(map(len, found.values()))
    if done and processes.main:
        log(f"{done} of {len(work.images)} images had their features computed before")
    bar = progress(f"{work.extractor.name} of {work.images.name}", len(work.images), "images", done)
    silent = contextlib.nullcontext(lambda _: None)  # the main process shows the progress
    with StopSignal() as stop, bar if processes.main else silent as advance:
        while missing := [block for block in blocks if block not in found]:
            new = _take_each(work, stored, missing, stop, advance)
            found |= new
            if not new:
                stop.check("other processes go on")
                time.sleep(POLL_SEC)
    return found


def _take_each(
    work: _Work, stored: _Store | None, missing: Sequence[int], stop: StopSignal, advance: Advance
) -> dict[int, Features]:
    """Return the missing blocks that others have finished, and compute those that no other process works on."""
    new: dict[int, Features] = {}
    for block in missing:
        if stored is None:
            rows: Features | None = work.compute(block, stop)
        else:
            with stored.claim_block(block) as mine:
                rows = _take(work, stored, block, stop) if mine else stored.read_block(block)
        if rows is not None:
            new[block] = rows
            advance(len(rows))
    return new


def _take(work: _Work, stored: _Store, block: int, stop: StopSignal) -> Features:
    """Return a claimed block: another process may have finished it, or all of them, since it was found missing."""
    rows = stored.read_block(block)
    if rows is None and (whole := stored.read_whole()) is not None:
        return whole[_block_range(block, len(whole))]
    if rows is None:
        rows = work.compute(block, stop)
        stored.write_block(block, rows)
    return rows
