"""Time and memory of an evaluation's input, on this machine: `python tests/benchmarks/image_sets.py [IMAGES] [SIDE]`.

Opening a set (decoding and hashing all images), loading it again in batches, storing and reading back features of 2 048
numbers, and the principal components of as many.
"""

from __future__ import annotations

import hashlib
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from synthmed.data.images import encode_image
from synthmed.data.shards.write import Sample, write_shard
from synthmed.evaluation.content import open_by_content
from synthmed.evaluation.feature_cache import features
from synthmed.evaluation.overlap import principal_axes
from synthmed.runtime.device import peak_memory_gib

Result = TypeVar("Result")
CPU = torch.device("cpu")


class Wide:
    """Features that cost next to nothing."""

    name = "wide"
    num_features = 2048
    fingerprint = hashlib.sha256(b"wide").hexdigest()

    def __call__(self, images: Tensor) -> Tensor:
        """Return the image's first values, repeated."""
        return images.flatten(1)[:, : self.num_features].float() + torch.arange(self.num_features)


def timed(what: str, count: int, work: Callable[[], Result]) -> Result:
    """Do something, print how long it took, and return its result."""
    begin = time.perf_counter()
    result = work()
    duration = time.perf_counter() - begin
    print(f"{what}: {duration:.2f} s, {count / duration:.0f} images/s, peak {peak_memory_gib(CPU):.2f} GiB", flush=True)
    return result


def write_images(folder: Path, count: int, side: int) -> None:
    """Write shards of smooth images with noise, which compress as photographs do."""
    rng = np.random.default_rng(0)
    ramp = np.linspace(0, 200, side)[:, None, None] + np.zeros((side, side, 3))
    pictures = ((ramp + rng.integers(0, 16, ramp.shape)).astype(np.uint8) for _ in range(count))
    samples = (Sample(f"k{k:07d}", encode_image(image, "png"), "png", k % 2, {}) for k, image in enumerate(pictures))
    write_shard(folder / "train-000000.tar", samples)


def main() -> None:
    """Print all figures."""
    count, side = (int(word) for word in [*sys.argv[1:], *("1000", "256")[len(sys.argv) - 1 :]])
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_images(folder / "shards", count, side)
        cache, where = folder / "cache", str(folder / "shards")
        images = timed("open", count, lambda: open_by_content(where, cache=cache))
        timed("open again", count, lambda: open_by_content(where, cache=cache))
        batches = [range(first, min(first + 64, count)) for first in range(0, count, 64)]
        timed("load", count, lambda: [images.load(batch).sum() for batch in batches])
        first = timed("features", count, lambda: features(images, Wide(), cache=cache, device=CPU))
        again = timed("read back", count, lambda: features(images, Wide(), cache=cache, device=CPU))
        assert (first == again).all()
        timed("principal components", count, lambda: principal_axes(first))


if __name__ == "__main__":
    main()
