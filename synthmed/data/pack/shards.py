"""Shards of any writer as a source: which label each image has, by the `.cls` or `.json` member of the same name.

Other than what reads shards in the contract's form, this takes members in any order, and what is wrong with one sample
leaves out that sample.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from synthmed.data.labels import MAX_CLASSES, MAX_NAME
from synthmed.data.prepare.raw import Problem
from synthmed.data.shards.samples import MAX_JSON_BYTES, MAX_LABEL_BYTES
from synthmed.errors import DataError
from synthmed.files.content import parse_json
from synthmed.files.storage import naming_read_errors, read_range

CLASS_FILES = ("classes.txt", "classnames.txt")
"""Names of classes in label order, one a line, beside the shards."""
MAX_CLASS_FILE_BYTES = 1_000_000

_SIDECARS = (".cls", ".json")
_KEPT = ("label_name", "group", "synthetic", "generator")

Place = tuple[Path, int, int]
"""File, offset and length in bytes."""

_SPLIT_WORD = re.compile(r"(?<![a-z])(train|val|test)(?:ing|id|idation)?(?![a-z])")


class _BadLabelError(DataError):
    """A label is stated, but is none."""


@dataclass
class Samples:
    """What shards say of their images; empty where what was found is no shard."""

    rows: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Image -> what its `.json` says, with the `label`."""
    problems: list[Problem] = field(default_factory=list)
    """Images without a label."""
    class_names: tuple[str, ...] = ()


def is_sidecar(name: str) -> bool:
    """Say whether a member describes the image of the same name."""
    return PurePosixPath(name).suffix.lower() in _SIDECARS


def find_tars(folder: Path) -> list[Path]:
    """Return the tars of a folder.

    Raises:
        DataError: By their names they are of several splits, which must not be mixed.
    """
    tars = sorted(path for path in folder.glob("*.tar") if path.is_file() and not path.name.startswith("."))
    splits = {match[1] for path in tars if (match := _SPLIT_WORD.search(path.stem.lower()))}
    if len(splits) > 1:
        raise DataError(
            f"{folder} holds shards of several splits: {', '.join(sorted(splits))}",
            "give a folder with those of one split, or a single shard",
        )
    return tars


def read_samples(path: Path, images: Iterable[str], sidecars: Mapping[str, Place]) -> Samples:
    """Return what the members beside images say of them.

    Args:
        path: The tar or the folder of tars; a `classes.txt` there names the classes.
        images: Names of the images.
        sidecars: The members beside them, by name.

    Raises:
        DataError: The file of class names cannot be used.
    """
    places = {_with_suffix(name, PurePosixPath(name).suffix.lower()): (name, place) for name, place in sidecars.items()}
    found = Samples()
    for name in images:
        members = [places.get(_with_suffix(name, suffix)) for suffix in _SIDECARS]
        # Of another member of a sample, such as KEY.mask.png, nothing is to be said.
        if not any(members) and any(_key(name) + suffix in places for suffix in _SIDECARS):
            continue
        try:
            found.rows[name] = _read_row(*members)
        except _BadLabelError as error:
            found.problems.append(Problem(name, "bad label", str(error)))
        except DataError as error:
            found.problems.append(Problem(name, "no label", str(error)))
    bad = any(problem.reason == "bad label" for problem in found.problems)
    if not (found.rows or bad or any(name.endswith(".cls") for name in places)):
        return Samples()
    found.class_names = _read_class_names(path if path.is_dir() else path.parent)
    return found


def _key(name: str) -> str:
    folder, slash, base = name.rpartition("/")
    return folder + slash + base.partition(".")[0]


def _with_suffix(name: str, suffix: str) -> str:
    return str(PurePosixPath(name).with_suffix(suffix))


def _read_row(cls: tuple[str, Place] | None, json: tuple[str, Place] | None) -> dict[str, Any]:
    known: Any = parse_json(_read(*json, MAX_JSON_BYTES), json[0]) if json else {}
    if not isinstance(known, dict):
        raise DataError(f"{json and json[0]} is not an object")
    stated = known.get("label", known.get("cls"))
    row = {name: known[name] for name in _KEPT if name in known}
    if cls:
        label = _parse_label(_read(*cls, MAX_LABEL_BYTES).decode("utf-8", "replace").strip(), cls[0])
        if isinstance(stated, int) and stated != label:
            raise _BadLabelError(f"{cls[0]} is {label}, but the .json says {stated}")
        # A word beside a number is the name of the class.
        return {"label_name": stated, **row, "label": label}
    if json is None or stated is None:
        raise DataError("neither a .cls nor a label in a .json has its name")
    return {**row, "label": _parse_label(stated, json[0])}


def _read(name: str, place: Place, limit: int) -> bytes:
    path, offset, size = place
    if size > limit:
        raise DataError(f"{name} has {size} bytes", f"at most {limit}")
    with naming_read_errors(path):
        return read_range(path, offset, size)


def _parse_label(value: Any, name: str) -> int | str:
    """Return a number, or the word that is the name of a class."""
    if isinstance(value, str):
        if re.fullmatch("[0-9]{1,9}", value):
            value = int(value)
        elif value and value.isprintable() and len(value) <= MAX_NAME and not re.match(r"[-+.]?[0-9]", value):
            return value
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < MAX_CLASSES:
        return value
    raise _BadLabelError(f"{name} has no label: {value!r:.100}", f"a number from 0 to {MAX_CLASSES - 1}, or a word")


def _read_class_names(folder: Path) -> tuple[str, ...]:
    for path in (folder / name for name in CLASS_FILES if (folder / name).is_file()):
        with naming_read_errors(path):
            data = read_range(path, 0, MAX_CLASS_FILE_BYTES + 1)
        if len(data) > MAX_CLASS_FILE_BYTES:
            raise DataError(f"{path} is too large for names of classes", f"at most {MAX_CLASS_FILE_BYTES} bytes")
        return tuple(line.strip() for line in data.decode("utf-8-sig", "replace").splitlines() if line.strip())
    return ()
