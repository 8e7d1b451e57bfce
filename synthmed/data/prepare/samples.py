"""The second pass over a release: usable images, in a fixed order, resized, encoded and written shard by shard."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from synthmed.data.datasets import DataSetInfo
from synthmed.data.images import (
    ImageArray,
    ImageFormat,
    ResizeMethod,
    encode_image,
    resize_image,
    stretch_range,
    to_grey,
)
from synthmed.data.prepare.raw import Draw, RawItem
from synthmed.data.prepare.scan import load_file, map_ordered
from synthmed.data.shards.plan import SPLITS, interleave, plan_shards, shard_name
from synthmed.data.shards.write import MetadataValue, Sample, read_stats, write_shard
from synthmed.runtime.progress import Advance, progress
from synthmed.runtime.seeds import derive_seed
from synthmed.runtime.signals import StopSignal


class Maker(Protocol):
    """Turns items into samples, each from its item alone; called from several threads."""

    def make(self, split: str, position: int, item: RawItem) -> Sample:
        """Return the sample that stands at `position` of its split."""
        ...


@dataclass(frozen=True)
class SampleMaker:
    """Turns items into samples, each from its item alone."""

    info: DataSetInfo
    size: int
    resize: ResizeMethod
    image_format: ImageFormat
    seed: int
    """Of drawn images."""
    draw: Draw | None
    """Makes images that are not read from files."""
    bits: int | None = None
    """Depth of 16-bit grey whose header states none."""

    def make(self, split: str, position: int, item: RawItem) -> Sample:
        """Return the sample that stands at `position` of its split.

        Raises:
            DataError: The image cannot be read.
        """
        image, known = self._make_image(item)
        name = self.info.classes[item.label]
        drawn = self.info.kind == "phantom"
        metadata: dict[str, MetadataValue] = {
            "label": item.label,
            "label_name": name,
            "dataset": self.info.name,
            "split": split,
            "group": item.group,
            "source": item.source,
            "synthetic": drawn,
            **known,
        }
        text = {"dataset": self.info.name, "label_name": name} if drawn else None
        data = encode_image(image, self.image_format, text=text, synthetic=drawn, digital_source="algorithmicMedia")
        # The number makes keys ascend in the order of the shards; what identifies the image in its release follows.
        return Sample(f"{split}-{position:07d}-{item.key}", data, self.image_format, item.label, metadata)

    def _make_image(self, item: RawItem) -> tuple[ImageArray, dict[str, MetadataValue]]:
        if self.draw is not None:
            image, known = self.draw(item, self.seed, self.size)
            return image, {**known, "generator": "phantom"}
        image = load_file(item, self.bits).pixels
        if self.info.intensity == "grey-stretch":
            return stretch_range(resize_image(to_grey(image), self.size, self.resize)), {}
        return resize_image(image, self.size, self.resize), {}


@dataclass(frozen=True)
class PlannedShard:
    """One shard to be written."""

    path: Path
    split: str
    start: int
    """Position of its first item in the split."""
    items: Sequence[RawItem]


def plan_splits(
    items: Sequence[RawItem],
    splits: Sequence[str],
    num_classes: int,
    output: Path,
    seed: int,
    *,
    workers: int = 4,
    ranks: int = 1,
) -> list[PlannedShard]:
    """Return all shards of all splits: classes interleaved, each class shuffled by the seed.

    Their number suits so many loader workers and training processes.
    """
    shards = []
    for split in SPLITS:
        by_class: list[list[RawItem]] = [[] for _ in range(num_classes)]
        for item, its_split in zip(items, splits, strict=True):
            if its_split == split:
                by_class[item.label].append(item)
        for members in by_class:
            members.sort(key=lambda item: (derive_seed(seed, "order", item.source), item.source))
        ordered = [by_class[label][index] for label, index in interleave([len(members) for members in by_class])]
        start = 0
        for number, length in enumerate(plan_shards(len(ordered), workers=workers, ranks=ranks)):
            members = ordered[start : start + length]
            shards.append(PlannedShard(output / shard_name(split, number), split, start, members))
            start += length
    return shards


def write_shards(shards: Sequence[PlannedShard], maker: Maker, workers: int, stop: StopSignal) -> None:
    """Write those shards that are not finished yet.

    Raises:
        DataError: An image can no longer be read.
        Interrupted: A signal came; finished shards are kept.
    """
    missing = [shard for shard in shards if read_stats(shard.path) is None]
    total = sum(len(shard.items) for shard in shards)
    done = total - sum(len(shard.items) for shard in missing)
    with progress("writing shards", total, "images", done) as advance:
        for shard in missing:
            if read_stats(shard.path) is not None:  # another process of the same command was faster
                advance(len(shard.items))
                continue
            write_shard(shard.path, _samples(shard, maker, workers, stop, advance))


def _samples(shard: PlannedShard, maker: Maker, workers: int, stop: StopSignal, advance: Advance) -> Iterator[Sample]:
    numbered = enumerate(shard.items, shard.start)
    for sample in map_ordered(lambda place: maker.make(shard.split, *place), numbered, workers):
        stop.check("finished shards are whole; run the same command again to go on")
        yield sample
        advance(1)
