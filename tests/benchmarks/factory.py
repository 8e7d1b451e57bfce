"""Figures of mass production, measured on this machine: `python tests/benchmarks/factory.py [IMAGES]`.

Overhead: wall time of runs over the time in which they denoised and decoded, the start of the program aside. Memory:
peak of a run of eight times the images over that of the smaller one. Writer: images a second with encoded images.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from synthmed.data.shards.write import MetadataValue, Sample, write_shard

MODEL = Path(__file__).parents[2] / "synthmed" / "checkpoints" / "phantom-fundus.safetensors"
# The small model at few steps: the least sampling there is to hide encoding and writing behind.
COMMAND = [sys.executable, "-m", "synthmed", "generate", "--checkpoint", str(MODEL), "--balanced", "--json"]
COMMAND += ["--sampler", "dpmpp-2m", "--steps", "10", "--guidance", "1"]
SHARD = 625


def production(images: int, folder: Path) -> tuple[dict[str, Any], float]:
    """Return the result of a run and the peak of its memory in MiB."""
    words = [*COMMAND, "-n", str(images), "-o", str(folder / str(images))]
    # A process of its own asks for the peak of its child: that of all children before would count otherwise.
    ask = "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True); "
    ask += "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    done = subprocess.run([sys.executable, "-c", ask, *words], stdout=subprocess.PIPE, check=True, text=True)
    text, _, peak = done.stdout.rstrip().rpartition("\n")
    return json.loads(text), int(peak) / 1024


def writer(size: int, folder: Path) -> float:
    """Return the images of `size` bytes that are written in a second, to disk and hashed."""
    image = os.urandom(size)
    metadata: dict[str, MetadataValue] = {f"field_{number}": "a value" for number in range(14)}
    begin = time.perf_counter()
    for number in range(4):
        samples = (Sample(f"key-{key:08d}", image, "png", key % 2, metadata) for key in range(SHARD))
        write_shard(folder / str(size) / f"train-{number:06d}.tar", samples)
    return 4 * SHARD / (time.perf_counter() - begin)


def main() -> None:
    """Print all figures."""
    images = int(sys.argv[1]) if len(sys.argv) > 1 else 512
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for size in (8_000, 120_000):
            print(f"writer, {size} bytes an image: {writer(size, folder):.0f} images/s")
        peaks = []
        for number in (images, 8 * images):
            result, peak = production(number, folder)
            ratio = result["wall_sec"] / result["sampling_sec"]
            print(
                f"{number} images: wall {result['wall_sec']} s, sampling {result['sampling_sec']} s, ratio {ratio:.3f}"
            )
            print(f"{number} images: peak {peak:.0f} MiB")
            peaks.append(peak)
        print(f"memory ratio {peaks[1] / peaks[0]:.3f}")


if __name__ == "__main__":
    main()
