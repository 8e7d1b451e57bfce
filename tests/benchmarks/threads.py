"""How images depend on the number of threads and on the batch, on the CPU: `python tests/benchmarks/threads.py`.

Prints, for the shipped model, the share of 8-bit values that differ from those of one thread and batches of 8, and by
how many grey levels at most. Not a test: other processors may round otherwise.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

import synthmed
from synthmed.data.pixels import to_uint8

NUM_IMAGES, BATCH = 32, 8


def make_images(model: Path, threads: int, batch: int) -> torch.Tensor:
    torch.set_num_threads(threads)
    pipeline = synthmed.load_pipeline(model)
    starts = range(0, NUM_IMAGES, batch)
    settings: dict[str, Any] = {"sampler": "dpmpp-2m", "steps": 20, "eta": 0.0}
    parts = [pipeline.sample([0] * batch, seeds=range(first, first + batch), **settings) for first in starts]
    return to_uint8(torch.cat(parts)).int()


def main() -> None:
    model = Path(synthmed.__file__).parent / "checkpoints" / "phantom-fundus.safetensors"
    expected = make_images(model, 1, BATCH)
    for threads, batch in [(2, BATCH), (4, BATCH), (8, BATCH), (3, BATCH), (1, 1), (1, 4), (1, 32)]:
        difference = (make_images(model, threads, batch) - expected).abs()
        share, largest = (difference > 0).float().mean().item(), difference.max().item()
        print(f"threads {threads}, batch {batch}: share of values that differ {share:.1e}, at most {largest} levels")


if __name__ == "__main__":
    main()
