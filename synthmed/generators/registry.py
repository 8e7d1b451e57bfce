"""Which models there are: those that were trained or imported here, and the one that synthmed brings.

A registered model is a small JSON file that names a model file, so that large files are neither copied nor moved.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from synthmed.errors import CheckpointError, SynthmedError
from synthmed.files.atomic import write_json
from synthmed.files.content import hash_file, read_json
from synthmed.formats.diffusers_files import find_weights
from synthmed.formats.headers import GENERATOR, Header
from synthmed.generators.families import FAMILIES, read_header

MODEL = "model.safetensors"
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
    """Make a model file findable by its data set.

    Raises:
        CheckpointError: Not a model file of synthmed, or of no data set.
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
    sha256 = hash_file(path)
    entry = Entry(path.resolve(), header, sha256, time.time())
    # The data set's name comes from the file: it must not lead out of the folder.
    dataset = re.sub(r"[^A-Za-z0-9_-]+", "-", header.dataset)[:64]
    name = f"{dataset}-{header.kind}-{sha256[:12]}.json"
    write_json(
        home / "models" / name,
        {"path": str(entry.path), "sha256": sha256, "registered": entry.registered},
    )
    return entry


def list_entries(home: Path) -> list[Entry]:
    """Return all models whose files are still there, the latest first, those of synthmed itself last."""
    entries = [Entry(path, read_header(path), hash_file(path), 0.0) for path in EMBEDDED_FOLDER.glob("*.safetensors")]
    registered: dict[Path, Entry] = {}
    for record in sorted((home / "models").glob("*.json")):
        path, sha256, when = _read_record(record)
        # A file that was trained anew under its old name has two records; the older one's hash is no longer true.
        if path in registered and registered[path].registered > when:
            continue
        try:
            header = read_header(path)
        except SynthmedError:
            continue  # moved or deleted since; `checkpoints add` registers it again
        # A training that was begun anew in the same folder has put its first weights there.
        if _is_finished(header):
            registered[path] = Entry(path, header, sha256, when)
    entries += registered.values()
    return sorted(entries, key=lambda entry: (-entry.registered, entry.path.name))


def _is_finished(header: Header[Any, Any]) -> bool:
    return header.training.get("finished") is not False


def _read_record(record: Path) -> tuple[Path, str, float]:
    """Return path, SHA-256 and time of registration."""
    try:
        stored = read_json(record)
        return Path(stored["path"]), str(stored["sha256"]), float(stored["registered"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{record} is not a record of a model", "remove it") from error


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
        CheckpointError: There is none, or a pickle.
    """
    if path.is_dir():
        stages = [stage.name for family in FAMILIES.values() for stage in reversed(family.stages)]
        for folder in ("", *stages):
            if (path / folder / MODEL).is_file():
                return path / folder / MODEL
    found = find_weights(path) or path
    if not found.is_file():
        raise CheckpointError(f"no model file at {path}", "give a .safetensors file or a run folder")
    return found
