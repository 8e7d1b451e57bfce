"""The plan of a folder of shards: how many, how long, in which order, and what they are called."""

from __future__ import annotations

import hashlib
import heapq
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from synthmed.files.outputs import STATE_FOLDER

SPLITS = ("train", "validation", "test")
RUN_FILE = f"{STATE_FOLDER}/run.json"
MAX_KEY_BYTES = 90
SAMPLES_A_SHARD = 625
MIN_SHARDS = 8
KEY_PATTERN = re.compile(r"[A-Za-z0-9_-]{1,90}")


def count_shards(num_samples: int, *, workers: int = 4, ranks: int = 1) -> int:
    """Return the number of shards that suits a number of samples.

    It is a multiple of `workers * ranks`, so that every loader worker gets some; it is at least 8, and about 625
    samples go into one when there are many (10 000 = 16 x 625). With fewer samples than that needs, every shard still
    gets one.
    """
    step = workers * ranks
    fewest = -(-MIN_SHARDS // step) * step
    shards = max(fewest, step * round(num_samples / (SAMPLES_A_SHARD * step)))
    return shards if shards <= num_samples else num_samples // step * step or num_samples


def shard_lengths(num_samples: int, shards: int) -> list[int]:
    """Return the number of samples in each shard; they differ by one at most."""
    return [(index + 1) * num_samples // shards - index * num_samples // shards for index in range(shards)]


def plan_shards(num_samples: int, *, workers: int = 4, ranks: int = 1) -> list[int]:
    """Return the number of samples in each of as many shards as suit them."""
    return shard_lengths(num_samples, count_shards(num_samples, workers=workers, ranks=ranks))


def interleave(counts: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield all (label, index) with the classes spread evenly, so that any stretch has nearly the overall mixture.

    Sample `index` of a class with `count` samples stands at (index + 1/2) / count of the way; ties go by label.
    """

    def places(label: int, count: int) -> Iterator[tuple[float, int, int]]:
        return (((2 * index + 1) / (2 * count), label, index) for index in range(count))

    merged = heapq.merge(*(places(label, count) for label, count in enumerate(counts)))
    return ((label, index) for _, label, index in merged)


def shard_name(split: str, number: int) -> str:
    """Return the file name of a shard, e.g. `train-000000.tar`."""
    return f"{split}-{number:06d}.tar"


def safe_key(text: str, *, max_bytes: int = MAX_KEY_BYTES) -> str:
    """Return a text as a key of [A-Za-z0-9_-]; where that changes it, a short hash keeps different texts apart."""
    if len(text) <= max_bytes and KEY_PATTERN.fullmatch(text):
        return text
    mark = hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:12]
    readable = re.sub(r"[^A-Za-z0-9_-]+", "-", text)[: max_bytes - len(mark) - 1].strip("-")
    return f"{readable}-{mark}" if readable else mark


def stats_path(shard: Path) -> Path:
    """Return where the stats file of a shard stands."""
    return shard.parent / STATE_FOLDER / f"{shard.stem}.json"
