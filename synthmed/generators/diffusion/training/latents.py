"""The latents of a split, encoded once: kept block by block, so that processes share the work and a killed run goes on.

latents: [V N, Z or 2 Z, h, w] float32: means, or means and log-variances, of N images in V variants (as they are, then
mirrored).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import Dataset

from synthmed.data.pixels import to_float
from synthmed.data.sets.image_set import ImageSet
from synthmed.errors import DataError, TrainingError
from synthmed.files.atomic import atomic_path
from synthmed.generators.diffusion.networks.first_stage import FirstStage
from synthmed.runtime.processes import Processes
from synthmed.runtime.progress import progress

BATCH = 32
BLOCK = 8 * BATCH
"""Images whose latents are in one file, and are lost at most when a process is killed."""
MIRRORS: dict[str, list[tuple[int, ...]]] = {
    "none": [()],
    "horizontal": [(), (3,)],
    "both": [(), (3,), (2,), (2, 3)],
}
"""Axes along which each variant is mirrored."""
ALONE = Processes()


class LatentSet(Dataset[tuple[Tensor, int]]):
    """Latents of a split with their labels.

    Args:
        latents: All variants of all images, variant by variant.
        labels: Class of each image [N] int64.
    """

    def __init__(self, latents: Tensor, labels: NDArray[np.int64]) -> None:
        self.latents = latents
        self.labels = torch.from_numpy(labels).repeat(len(latents) // len(labels))

    def __len__(self) -> int:
        return len(self.latents)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.latents[index], int(self.labels[index])


def encode_split(
    autoencoder: FirstStage,
    images: ImageSet,
    *,
    flips: str,
    keep: str,
    cache: Path,
    device: torch.device,
    processes: Processes = ALONE,
) -> LatentSet:
    """Return the latents of a split, of which those missing in `cache` are encoded, each process taking its share.

    Args:
        autoencoder: What encodes.
        images: The split.
        flips: Mirror images to encode too: none, horizontal or both.
        keep: `mean` keeps the posterior's mean, `sample` both moments.
        cache: Folder of the blocks, seen by all processes. Its name must tell everything that latents depend on.
        device: Where to encode.
        processes: This process's place among those that share the work.

    Raises:
        DataError: A block of the cache cannot be read.
        TrainingError: Latents are not finite.
    """
    axes = MIRRORS[flips]
    paths = _block_paths(cache, len(axes), len(images))
    # By place among all blocks, not among the missing ones: of those each process sees others.
    own = list(paths)[processes.rank :: processes.world]
    missing = [key for key in own if not paths[key].exists()]
    total, left = (sum(len(block) for _, block in keys) for keys in (own, missing))
    autoencoder = autoencoder.to(device).eval()
    with progress("encoding", total, "images", total - left) as advance:
        for variant, block in missing:
            latents = _encode(autoencoder, images, block, axes[variant], keep, device)
            with atomic_path(paths[variant, block]) as part:
                save_file({"latents": latents.contiguous()}, part)
            advance(len(block))
    processes.wait()
    return LatentSet(_join(list(paths.values()), len(axes) * len(images)), images.labels)


def _block_paths(cache: Path, variants: int, count: int) -> dict[tuple[int, range], Path]:
    """Return the file of each block of images in each variant, in the order of the latents."""
    blocks = [range(first, min(first + BLOCK, count)) for first in range(0, count, BLOCK)]
    return {
        (variant, block): cache / f"{variant}-{block.start:08d}-{block.stop:08d}.safetensors"
        for variant in range(variants)
        for block in blocks
    }


@torch.no_grad()
def _encode(
    autoencoder: FirstStage,
    images: ImageSet,
    block: range,
    axes: tuple[int, ...],
    keep: str,
    device: torch.device,
) -> Tensor:
    """Return the latents of a block of images, mirrored along some axes."""
    found = []
    for first in range(block.start, block.stop, BATCH):
        batch = images.load(range(first, min(first + BATCH, block.stop))).to(device)
        moments = autoencoder.moments(to_float(batch.flip(axes)))
        if not moments.isfinite().all():
            raise TrainingError(
                f"the first stage gives latents that are not finite for images {first} to {first + len(batch) - 1}",
                "train or choose another one",
            )
        found.append((moments.chunk(2, dim=1)[0] if keep == "mean" else moments).cpu())
    return torch.cat(found)


def _join(paths: Sequence[Path], count: int) -> Tensor:
    """Return the rows of all files, one file in memory at a time."""
    joined, filled = torch.empty(0), 0
    for path in paths:
        try:
            rows = load_file(path)["latents"]
        except (SafetensorError, OSError, KeyError) as error:
            raise DataError(f"cannot read {path}: {error}", "remove its folder to encode anew") from error
        if not filled:
            joined = rows.new_empty(count, *rows.shape[1:])
        joined[filled : filled + len(rows)] = rows
        filled += len(rows)
    return joined


def measure_latent_scale(latents: LatentSet, latent_channels: int) -> float:
    """Return the factor that brings the latents' means to unit standard deviation (Rombach et al. 2022, app. G).

    Raises:
        TrainingError: They are all the same.
    """
    deviation = latents.latents[:, :latent_channels].double().std().item()
    if not deviation > 0:
        raise TrainingError("the first stage gives the same latents for all images", "train or choose another one")
    return 1 / deviation
