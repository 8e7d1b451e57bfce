"""The files beside the shards, written when all of them are whole: data card, `_info.json`, `sizes.json`, manifest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from synthmed.data.shards.card import FolderInfo, data_card
from synthmed.data.shards.plan import SPLITS
from synthmed.data.shards.write import ShardStats, read_stats, write_lines
from synthmed.errors import DataError
from synthmed.files.atomic import atomic_file, write_bytes, write_json
from synthmed.files.content import read_json
from synthmed.files.outputs import STATE_FOLDER
from synthmed.files.storage import file_size, list_folder, naming_read_errors

MANIFEST_FILE = f"{STATE_FOLDER}/manifest.jsonl"
SIZES_FILE = "sizes.json"
INFO_FILE = "_info.json"
CARD_FILE = "README.md"


def finished_shards(folder: Path) -> Iterator[tuple[str, ShardStats]]:
    """Yield the split and the stats of all shards, in the order of SPLITS and shard numbers.

    Raises:
        DataError: A shard has no stats file, or is not the one that its stats file describes.
    """
    with naming_read_errors(folder):
        found = list_folder(folder)
    for split in SPLITS:
        for shard in (path for path in found if fnmatchcase(path.name, f"{split}-*.tar")):
            stats = read_stats(shard)
            if stats is None:
                raise DataError(f"{shard} is not finished", "run the command that made it again")
            yield split, stats


def write_side_files(folder: Path, info: FolderInfo) -> None:
    """Write what readers want beside the shards; call it once all shards are finished.

    Raises:
        DataError: A shard is not finished.
    """
    splits: dict[str, list[ShardStats]] = {}
    with atomic_file(folder / MANIFEST_FILE) as file:
        for split, stats in finished_shards(folder):
            write_lines(file, stats.samples)
            # The rows of one shard at a time: there may be millions.
            splits.setdefault(split, []).append(replace(stats, samples=[]))
    write_json(folder / SIZES_FILE, shard_sizes(splits))
    write_json(folder / INFO_FILE, timm_info(splits))
    write_bytes(folder / CARD_FILE, data_card(info, splits).encode())


def shard_sizes(splits: Mapping[str, list[ShardStats]]) -> dict[str, int]:
    """Return what `sizes.json` says of the shards of each split."""
    return {stats.shard: stats.num_samples for shards in splits.values() for stats in shards}


def timm_info(splits: Mapping[str, list[ShardStats]]) -> dict[str, Any]:
    """Return what `_info.json` says of the shards of each split."""
    return {"splits": {split: _timm_split(split, shards) for split, shards in splits.items()}}


def stated_lengths(folder: Path) -> dict[str, int]:
    """Return the samples of each shard that `sizes.json` or else `_info.json` lists; empty where there is neither.

    Raises:
        DataError: The file does not say so.
    """
    for name, lengths in ((SIZES_FILE, dict), (INFO_FILE, _timm_lengths)):
        path = folder / name
        with naming_read_errors(path):
            if file_size(path) is None:
                continue
        try:
            found = lengths(read_json(path))
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise DataError(f"{path} does not list the samples of each shard", "remove it, or make it again") from error
        if not all(isinstance(number, int) for number in found.values()):
            raise DataError(f"{path} lists a shard without the number of its samples", "remove it, or make it again")
        return found
    return {}


def _timm_lengths(info: Any) -> dict[str, int]:
    splits = info["splits"].values()
    return {name: n for split in splits for name, n in zip(split["filenames"], split["shard_lengths"], strict=True)}


def _timm_split(split: str, shards: list[ShardStats]) -> dict[str, Any]:
    return {
        "name": split,
        "num_samples": sum(stats.num_samples for stats in shards),
        "filenames": [stats.shard for stats in shards],
        "shard_lengths": [stats.num_samples for stats in shards],
    }
