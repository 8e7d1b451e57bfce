"""Making one image of a folder again, from what the folder says about it, and comparing the two."""

from __future__ import annotations

import typing
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from synthmed.config.tables import from_marks, shown
from synthmed.data.images import SHARD_KINDS, decode_image
from synthmed.data.shards.read import find_shards
from synthmed.data.shards.samples import index_shard, read_image_bytes
from synthmed.errors import CheckpointError, DataError, RecipeError
from synthmed.files.content import hash_file
from synthmed.formats.headers import DEFAULT_FAMILY, Header
from synthmed.generators.families import FAMILIES, read_header
from synthmed.production.plan import SPLIT, GenerateConfig, Planned
from synthmed.production.render import Renderer
from synthmed.runtime.device import Precision


@dataclass(frozen=True)
class Regenerated:
    """An image that was made again, beside the one in the folder."""

    key: str
    image: NDArray[np.uint8]
    """[H, W, 3], made now."""
    lossless: bool
    """Whether the folder's format keeps pixels; a JPEG's differ."""
    largest_difference: int
    """In grey levels."""
    share_different: float
    """Share of the values that differ at all."""

    @property
    def same(self) -> bool:
        """Whether it is the same image: up to rounding, which batch and processor decide."""
        return self.largest_difference <= 1 or not self.lossless


def regenerate(folder: Path, key: str, checkpoints: Iterable[tuple[Path, str]], device: str = "auto") -> Regenerated:
    """Make the image of a sample again.

    Args:
        folder: Made by `synthmed generate`.
        key: Of the sample.
        checkpoints: Model files that there are, each with its SHA-256.
        device: As on the command line.

    Raises:
        DataError: No such sample, or it does not say how it was made.
        CheckpointError: The model that made it is not among `checkpoints`.
    """
    entry, metadata = next(
        (found for shard in find_shards(folder, SPLIT) for found in index_shard(shard) if found[0].key == key),
        (None, dict[str, Any]()),
    )
    if entry is None:
        raise DataError(f"{folder} holds no sample {key}", "its keys stand in .synthmed/manifest.jsonl")
    stored = decode_image(read_image_bytes(entry), key, kinds=SHARD_KINDS)
    config = _config(metadata, key, checkpoints)
    image = Renderer(config, device, batch_size=1).sample([Planned(0, metadata["label"], metadata["index"])])[0]
    if image.shape != stored.shape:
        raise DataError(f"{key} is {stored.shape[:2]} pixels, its model makes {image.shape[:2]}")
    difference = np.abs(image.astype(np.int16) - stored)
    lossless = entry.extension in ("png", "webp")
    return Regenerated(key, image, lossless, int(difference.max()), float((difference > 0).mean()))


def _config(metadata: dict[str, Any], key: str, checkpoints: Iterable[tuple[Path, str]]) -> GenerateConfig:
    """Return the run that made an image, cut down to that image."""
    try:
        sha256, label, seed = (metadata[name] for name in ("checkpoint_sha256", "label", "seed"))
        index, precision = metadata["index"], metadata["precision"]
    except KeyError as error:
        raise _silent(key, error) from error
    if not all(type(value) is int and 0 <= value < 1 << 63 for value in (label, seed, index)):
        raise _silent(key, "label, seed and index must be whole numbers")
    if precision not in typing.get_args(Precision):
        raise _silent(key, f"precision is {shown(precision)}")
    # A file that has changed since it was registered is no longer the model that it was.
    found = [path for path, known in checkpoints if known == sha256 and hash_file(path) == sha256]
    if not found:
        raise CheckpointError(f"no model with the SHA-256 {shown(sha256)[:80]}", "give its file with --checkpoint")
    header = read_header(found[0])
    settings = _settings(metadata, header, key)
    if label >= len(header.classes):
        raise DataError(f"{key} has the label {label}, its model {len(header.classes)} classes")
    try:
        settings.check(header)
    except RecipeError as error:
        raise DataError(f"{key} was made in a way that its model does not have: {error}") from error
    counts = tuple(int(each == label) for each in range(len(header.classes)))
    return GenerateConfig(found[0], sha256, header, counts, seed, settings, precision=precision)


def _settings(metadata: dict[str, Any], header: Header[Any, Any], key: str) -> Any:
    """Return the sampling settings in a sample's metadata, as the model's family has them."""
    family = metadata.get("family", DEFAULT_FAMILY)
    if family != header.family:
        raise DataError(f"{key} was made by the family {shown(family)}, its model is of the family {header.family}")
    try:
        return from_marks(FAMILIES[header.family].settings, metadata, key)
    except RecipeError as error:
        raise _silent(key, error) from error


def _silent(key: str, reason: object) -> DataError:
    return DataError(f"{key}.json does not say how the image was made: {reason}")
