"""Time and memory of the checks of artefacts: `python tests/benchmarks/checks.py NUM_IMAGES SIZE`.

Images are coarse noise, made as they are asked for: what is timed is the checks, not decoding.
"""

from __future__ import annotations

import dataclasses
import sys
from typing import Any

import numpy as np
import torch

from synthmed.data.labels import Classes
from synthmed.data.sets.image_set import ImageSet
from synthmed.data.sets.reader import Reader
from synthmed.evaluation.artefacts import check_discs, check_grid
from synthmed.evaluation.duplicates import check_duplicates
from synthmed.runtime.device import Timer, peak_memory_gib
from synthmed.runtime.seeds import numpy_generator


class Noise:
    """Blurred noise, another one at each index."""

    def __init__(self, count: int, seed: int, size: int) -> None:
        self.count, self.seed, self.size = count, seed, size

    def __len__(self) -> int:
        return self.count

    def title(self, index: int) -> str:
        return str(index)

    def pixels(self, index: int) -> Any:
        coarse = numpy_generator(self.seed, index).integers(0, 256, (16, 16, 3), dtype=np.uint8)
        return coarse.repeat(self.size // 16, axis=0).repeat(self.size // 16, axis=1)


def make_set(count: int, size: int, seed: int) -> ImageSet:
    return ImageSet(
        name=f"noise {seed}",
        kind=None,
        dataset=None,
        split=None,
        classes=Classes(("a", "b")),
        labels=np.arange(count) % 2,
        keys=tuple(map(str, range(count))),
        groups=("",) * count,
        native_size=(size, size),
        _reader=Reader(Noise(count, seed, size), (size, size)),
        _positions=np.arange(count),
    )


def main() -> None:
    count, size = map(int, sys.argv[1:])
    real, generated = (make_set(count, size, seed) for seed in (0, 1))
    for name, check in {
        "grid": lambda: check_grid(real=real, generated=generated, generator=np.random.default_rng(0)),
        "duplicates": lambda: check_duplicates(real=real, generated=generated),
        "discs": lambda: check_discs(real=real, generated=generated, generator=np.random.default_rng(0)),
    }.items():
        timer = Timer(torch.device("cpu"))
        found: Any = check()
        fields = len(dataclasses.asdict(found))
        peak = peak_memory_gib(torch.device("cpu"))
        print(f"{name}: {timer.elapsed_sec():.1f} s, peak {peak:.2f} GiB so far, {fields} fields")


if __name__ == "__main__":
    main()
