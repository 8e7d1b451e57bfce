"""Shards as plain files again: FOLDER/SPLIT/CLASS/KEY.png, and the labels as other programs read them.

The bytes of the images are not touched.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from synthmed.data.pack.sources import METADATA_FILE, STYLEGAN_FILE
from synthmed.data.shards.inputs import open_run
from synthmed.data.shards.plan import RUN_FILE, SPLITS, safe_key
from synthmed.data.shards.read import ShardFolder, find_shards, find_splits, open_folder
from synthmed.data.shards.samples import Entry, index_shard, read_image_bytes
from synthmed.data.shards.write import read_stats, write_lines
from synthmed.errors import DataError
from synthmed.files.atomic import atomic_file
from synthmed.files.outputs import remove_stale_parts
from synthmed.files.storage import naming_write_errors
from synthmed.runtime import version
from synthmed.runtime.progress import Advance, progress
from synthmed.runtime.signals import StopSignal

MAX_CLASS_BYTES = 60

LabelFile = Literal["folders", "stylegan"]


@dataclass(frozen=True)
class UnpackReport:
    """What was unpacked."""

    output: str
    splits: Mapping[str, Mapping[str, int]]
    """Split -> class -> images."""
    label_file: str
    """In the folder of every split."""


def unpack_folder(
    folder: Path, output: Path, *, splits: Sequence[str] = (), labels: LabelFile = "folders", overwrite: bool = False
) -> UnpackReport:
    """Write the images of a folder of shards as files; those that are there already are left.

    Args:
        folder: Of shards in the contract's form.
        output: Made if it is missing, gone on with if it holds part of the same work.
        splits: Empty takes all.
        labels: "folders" writes a `metadata.jsonl` beside the class folders of each split, with a row for every image
            and its `file_name`, as Hugging Face's imagefolder has it; "stylegan" a `dataset.json` as StyleGAN has it.
        overwrite: Start anew in a folder of ours, whatever it holds.

    Raises:
        DataError: No such folder or split, or a shard is not in the contract's form.
        ResumeError: The output folder holds something else, or the shards have changed since it was begun.
        Interrupted: A signal came; files are whole.
    """
    opened = [open_folder(folder, split) for split in splits or find_splits(folder) or SPLITS[:1]]
    config = {
        "command": "unpack",
        "synthmed": version.__version__,
        "labels": labels,
        "splits": {each.split: each.content_hash for each in opened},
    }
    open_run(output, config, {each.split: each for each in opened}, name=RUN_FILE, overwrite=overwrite)
    total = sum(len(each.entries) for each in opened)
    with StopSignal() as stop, progress("unpacking", total, "images") as advance:
        for each in opened:
            _write_split(each, output / each.split, labels, stop, advance)
    counts = {each.split: Counter(entry.label for entry in each.entries) for each in opened}
    return UnpackReport(
        output=str(output),
        splits={each.split: {n: counts[each.split][k] for k, n in enumerate(each.classes)} for each in opened},
        label_file=STYLEGAN_FILE if labels == "stylegan" else METADATA_FILE,
    )


def _write_split(folder: ShardFolder, target: Path, labels: LabelFile, stop: StopSignal, advance: Advance) -> None:
    """Write the images and, once all of them are on disk, the file with their labels."""
    label_file = target / (STYLEGAN_FILE if labels == "stylegan" else METADATA_FILE)
    rows = _write_images(folder, target, stop, advance)
    with atomic_file(label_file) as file:
        if labels == "folders":
            write_lines(file, rows)
        else:
            listed = [[row["file_name"], row["label"]] for row in rows]
            file.write(json.dumps({"labels": listed, "classes": list(folder.classes)}).encode())
        # One flush for all images instead of one for each: the label file means that they are there.
        os.sync()


def _write_images(folder: ShardFolder, target: Path, stop: StopSignal, advance: Advance) -> Iterator[dict[str, Any]]:
    """Write image by image and yield what is known about each."""
    class_folders = _class_folders(folder.classes)
    for class_folder in class_folders:
        with naming_write_errors(target / class_folder):
            (target / class_folder).mkdir(parents=True, exist_ok=True)
            remove_stale_parts([target / class_folder])
    for shard in find_shards(folder.folder, folder.split):
        for entry, metadata in index_shard(shard, read_stats(shard)):
            stop.check("run the same command again to go on")
            name = f"{class_folders[entry.label]}/{safe_key(entry.key)}.{entry.extension}"
            _write_image(target / name, entry)
            known = {"label": entry.label, "label_name": folder.classes[entry.label], "key": entry.key}
            yield {**metadata, **known, "file_name": name}
            advance(1)


def _class_folders(classes: Sequence[str]) -> list[str]:
    """Return a folder name for each class that every file system takes, also where upper and lower case are one."""
    names = [safe_key(name, max_bytes=MAX_CLASS_BYTES) for name in classes]
    folded = Counter(name.casefold() for name in names)
    return [name if folded[name.casefold()] == 1 else f"{label}-{name}" for label, name in enumerate(names)]


def _write_image(path: Path, entry: Entry) -> None:
    data = read_image_bytes(entry)
    with naming_write_errors(path):
        if path.is_file() and path.stat().st_size == len(data) and path.read_bytes() == data:
            return
        if path.is_dir():
            raise DataError(f"there is a folder in the place of {path}")
    with atomic_file(path, flush=False) as file:
        file.write(data)
