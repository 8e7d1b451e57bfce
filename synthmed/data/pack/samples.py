"""Images of another program, one by one: what they must be like, and how each becomes a sample."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from synthmed.data.images import decode_image, detect_format, encode_image
from synthmed.data.pack.sources import ImageSource
from synthmed.data.prepare.raw import Problem, RawItem
from synthmed.data.prepare.scan import Row, hash_pixels, scan_rows
from synthmed.data.shards.card import FolderInfo
from synthmed.data.shards.write import MetadataValue, Sample
from synthmed.errors import DataError
from synthmed.runtime.progress import log, printable
from synthmed.runtime.signals import StopSignal


@dataclass(frozen=True)
class Look:
    """What all images of a source must be like."""

    width: int
    height: int
    image_format: str
    """Empty where it is none that shards may hold."""


def _look(data: bytes, name: str) -> Look:
    height, width = decode_image(data, name).shape[:2]
    return Look(width, height, detect_format(data) or "")


def find_first(source: ImageSource, names: Iterable[str]) -> Look:
    """Return what the first image that can be decoded is like.

    Raises:
        DataError: None of the first hundred can be.
    """
    broken = None
    for name in sorted(names)[:100]:
        try:
            return _look(source.read(name), name)
        except DataError as error:
            broken = broken or error
    raise broken or DataError(f"{source.path} holds none of the images that are listed{source.explain()}")


@dataclass(frozen=True)
class Packer:
    """Checks images and turns them into samples."""

    source: ImageSource
    first: Look
    info: FolderInfo
    keep: bool
    """Leave the images' bytes as they are."""

    def check(self, item: RawItem) -> Row:
        """Return the hash of an image's pixels, or the reason why it cannot be used."""
        try:
            data = self.source.read(item.source)
            image = decode_image(data, item.source)
        except DataError as error:
            return {"reason": "unreadable", "detail": str(error)}
        height, width = image.shape[:2]
        if (width, height) != (self.first.width, self.first.height):
            detail = f"{width} x {height} pixels, not {self.first.width} x {self.first.height} as the first image"
            return {"reason": "wrong size", "detail": detail}
        found = detect_format(data)
        if self.keep and found != self.first.image_format:
            return {"reason": "other format", "detail": f"{found or 'unknown'}, not {self.first.image_format}"}
        return {"pixels": hash_pixels(image)}

    def make(self, split: str, position: int, item: RawItem) -> Sample:
        """Return the sample that stands at `position` of its split.

        Raises:
            DataError: The image cannot be read any more.
        """
        name, synthetic = self.info.classes[item.label], self.info.kind == "synthetic"
        data = self.source.read(item.source)
        metadata: dict[str, MetadataValue] = {
            "label": item.label,
            "label_name": name,
            "dataset": self.info.dataset,
            "split": split,
            "packed_from": printable(self.source.path.name),
            "source": item.source,
            "source_sha256": hashlib.sha256(data).hexdigest(),
            "synthetic": synthetic,
            **({"group": item.group} if item.group else {}),
        }
        if not self.keep:
            text = {"dataset": self.info.dataset, "label_name": name} if synthetic else None
            data = encode_image(decode_image(data, item.source), "png", text=text, synthetic=synthetic)
        key = f"{split}-{position:07d}-{item.key}"
        return Sample(key, data, self.info.image_format, item.label, metadata)


def check_items(
    items: Sequence[RawItem], packer: Packer, output: Path, threads: int, stop: StopSignal
) -> tuple[list[RawItem], list[Problem], int]:
    """Return the usable items, a problem for each of the others, and the number of repeated images."""
    usable: list[RawItem] = []
    problems: list[Problem] = []
    alike: dict[str, list[RawItem]] = {}
    for item, row in scan_rows(items, output, packer.check, threads, stop):
        if "pixels" in row:
            usable.append(item)
            alike.setdefault(row["pixels"], []).append(item)
        else:
            problems.append(Problem(item.source, row["reason"], row["detail"]))
    duplicates = len(usable) - len(alike)
    if duplicates:
        # A generator that repeats itself is to be measured as it is.
        log(f"{duplicates} images have the same pixels as another one; they are kept")
    if torn := [group for group in alike.values() if len({item.label for item in group}) > 1]:
        first, other = torn[0][0], next(item for item in torn[0] if item.label != torn[0][0].label)
        count = sum(map(len, torn))
        log(f"{count} images have the same pixels as one of another class, e.g. {first.source} and {other.source}")
    return usable, problems, duplicates
