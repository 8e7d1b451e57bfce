"""Which models there are: those that were trained or imported here, and the one that synthmed brings.

A registered model is a small JSON file that names a model file, so that large files are neither copied nor moved.
"""

from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from synthmed.errors import CheckpointError, DataError, InputError
from synthmed.files.atomic import write_json
from synthmed.files.content import hash_file, read_json
from synthmed.formats.diffusers_files import find_weights
from synthmed.formats.headers import GENERATOR, Header
from synthmed.generators.families import FAMILIES, read_header
from synthmed.runtime.progress import log

MODEL = "model.safetensors"
LATEST = 1 << 40
"""Seconds since 1970 that no record is registered after."""
EMBEDDED_FOLDER = Path(__file__).parents[1] / "checkpoints"


@dataclass(frozen=True)
class Entry:
    """A known model file."""

    path: Path
    header: Header[Any, Any]
    sha256: str
    registered: float  # seconds since 1970; 0 for the models that synthmed brings

    @property
    def embedded(self) -> bool:
        """Whether the model is part of synthmed."""
        return self.registered == 0


def register(home: Path, path: Path) -> Entry:
    """Make a model file findable by its data set, after it has been loaded as a whole.

    Raises:
        CheckpointError: Not a model file of synthmed, of no data set, not finished, or its weights are broken.
    """
    header = read_header(path)
    if not header.dataset:
        raise CheckpointError(
            f"{path} is of no data set, by which it could be found",
            "name it: train-diffusion --autoencoder",
        )
    if not _is_finished(header):
        raise CheckpointError(
            f"the training of {path} is not finished", "finish it by the same command, or use it by --checkpoint"
        )
    FAMILIES[header.family].load(path, header, "cpu")
    sha256 = hash_file(path)
    entry = Entry(path.resolve(), header, sha256, time.time())
    # Data set and kind come from the file: they must not lead out of the folder.
    dataset, kind = (re.sub(r"[^A-Za-z0-9_-]+", "-", word)[:64] for word in (header.dataset, header.kind))
    name = f"{dataset}-{kind}-{sha256[:12]}.json"
    write_json(
        home / "models" / name,
        {"path": str(entry.path), "sha256": sha256, "registered": entry.registered},
    )
    return entry


def list_entries(home: Path) -> list[Entry]:
    """Return all models whose files are still there, the latest first, those of synthmed itself last.

    A record that is broken, or whose file cannot be used, is named on stderr and passed over.
    """
    entries = [Entry(path, read_header(path), hash_file(path), 0.0) for path in EMBEDDED_FOLDER.glob("*.safetensors")]
    registered: dict[Path, Entry] = {}
    for record in sorted((home / "models").glob("*.json")):
        try:
            path, sha256, when = _read_record(record)
            # A file that was trained anew under its old name has two records; the older one's hash is no longer true.
            if path in registered and registered[path].registered > when:
                continue
            header = read_header(path)
        except InputError as error:
            log(f"note: passed over {record}: {error}; remove it, or register the model with `checkpoints add`")
            continue
        # A training that was begun anew in the same folder has put its first weights there.
        if _is_finished(header):
            registered[path] = Entry(path, header, sha256, when)
    entries += registered.values()
    return sorted(entries, key=lambda entry: (-entry.registered, entry.path.name))


def _is_finished(header: Header[Any, Any]) -> bool:
    return header.training.get("finished") is not False


def _read_record(record: Path) -> tuple[Path, str, float]:
    """Return path, SHA-256 and time of registration.

    Raises:
        DataError: It is not a record.
    """
    match read_json(record):
        case {"path": str(path), "sha256": str(sha256), "registered": float() | int() as when} if (
            path and 0 < when < LATEST
        ):
            return Path(path), sha256, when
    raise DataError("it is not a record of a model")


def find_model(home: Path, dataset: str, kind: str = GENERATOR) -> Entry:
    """Return the latest model of a data set.

    Raises:
        CheckpointError: There is none; the message says how to get one.
    """
    entries = list_entries(home)
    for entry in entries:
        if entry.header.dataset == dataset and entry.header.kind == kind:
            return entry
    have = sorted({entry.header.dataset for entry in entries if entry.header.kind == kind})
    raise CheckpointError(
        f"no {kind} for data set {dataset}; there are models for: {', '.join(have) or 'none'}", how_to_get(dataset)
    )


def how_to_get(dataset: str) -> str:
    """Return the ways to a model, as one phrase."""
    ways = (
        f"train one: `synthmed prepare {dataset} ...`, `synthmed train ...`",
        f"import a published one: `synthmed checkpoints import FILE.ckpt --dataset {dataset}`",
        "register one: `synthmed checkpoints add FILE`",
        "name one: --checkpoint FILE",
        "or try the embedded one: --dataset phantom-fundus",
    )
    return "; ".join(ways)


def embedded_model(dataset: str) -> Path:
    """Return the model file of a data set that is part of synthmed.

    Raises:
        CheckpointError: There is none.
    """
    path = EMBEDDED_FOLDER / f"{dataset}.safetensors"
    if not path.is_file():
        raise CheckpointError(f"synthmed brings no model for {dataset}", how_to_get(dataset))
    return path


def resolve_path(path: Path) -> Path:
    """Return the model file that a path names: the file itself, or the model of a run folder or of diffusers' folder.

    Raises:
        CheckpointError: There is none, or a part alone.
    """
    # Other than the methods of paths, these say no to any path that cannot be.
    if os.path.isdir(path):
        stages = [stage.name for family in FAMILIES.values() for stage in reversed(family.stages)]
        for folder in ("", *stages):
            if (path / folder / MODEL).is_file():
                return path / folder / MODEL
    found = find_weights(path) or path
    if not os.path.isfile(found):
        raise CheckpointError(f"no model file at {path}", "give a .safetensors file or a run folder")
    return found
