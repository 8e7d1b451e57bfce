"""What a run will take: time, disk and memory, from the measured cost of a batch."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from synthmed.data.shards.plan import shard_lengths
from synthmed.production.plan import GenerateConfig
from synthmed.production.render import Renderer

# Of a natural image with some noise, measured at 256 px; and of a sample's label, metadata and tar headers.
BYTES_PER_PIXEL = {"png": 1.9, "webp": 1.8, "jpg": 0.45}
BYTES_PER_SAMPLE = 3600


@dataclass(frozen=True)
class Estimate:
    """What a run will take."""

    images: int
    shards: int
    images_a_shard: int
    settings: str
    """How they are sampled, in words."""
    duration_sec: float
    disk_mib: float
    memory_gib: float
    """Of the process, or of the GPU if there is one."""
    streamed: bool = False
    """Whether all images go into one tar on stdout, which takes no disk here."""

    def as_plan(self) -> dict[str, Any]:
        """Return the figures by name; of a stream those that it has."""
        figures = dataclasses.asdict(self)
        if not figures.pop("streamed"):
            return figures
        disk = ("shards", "images_a_shard", "disk_mib")
        return {**{name: value for name, value in figures.items() if name not in disk}, "tar_mib": self.disk_mib}

    def __str__(self) -> str:
        minutes = self.duration_sec / 60
        duration = f"{minutes:.0f} min" if minutes > 2 else f"{self.duration_sec:.0f} s"
        shards = "one tar on stdout" if self.streamed else f"{self.shards} shards of {self.images_a_shard}"
        return (
            f"{self.images} images in {shards}: about {duration}, {self.disk_mib:.4g} MiB"
            f"{'' if self.streamed else ' on disk'}, {self.memory_gib:.2g} GiB of memory; {self.settings}"
        )


def estimate(config: GenerateConfig, renderer: Renderer, chosen: Sequence[int], *, streamed: bool = False) -> Estimate:
    """Return what the chosen shards will take, from the measured cost of a batch and usual sizes of images."""
    lengths = shard_lengths(config.total, config.shards)
    images = sum(lengths[index] for index in chosen)
    cost = renderer.cost()
    size = math.prod(config.header.height_width) * BYTES_PER_PIXEL[config.image_format] + BYTES_PER_SAMPLE
    return Estimate(
        images=images,
        shards=len(chosen),
        images_a_shard=max(lengths),
        settings=config.settings.describe(),
        duration_sec=images / cost.images_per_sec,
        disk_mib=images * size / 2**20,
        memory_gib=cost.memory_gib,
        streamed=streamed,
    )
