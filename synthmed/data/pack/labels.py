"""Which class an image of any source has: from a label file beside the images, or from the folders they lie in."""

from __future__ import annotations

import json
import posixpath
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from synthmed.data.labels import MAX_CLASSES, Classes
from synthmed.data.names import check_splits, plain_path, split_names
from synthmed.data.pack.sources import METADATA_FILE, STYLEGAN_FILE, ImageSource
from synthmed.data.prepare.raw import Problem
from synthmed.data.shards.samples import plain_text
from synthmed.errors import DataError, UsageError
from synthmed.runtime.progress import printable


@dataclass
class Labels:
    """The classes of a source, and the label of each image."""

    origin: str
    """What says so, for the user."""
    classes: Classes
    labels: dict[str, int]
    """Image -> label."""
    problems: list[Problem] = field(default_factory=list)
    num_unlisted: int = 0
    """Images that the label file does not name."""
    groups: dict[str, str] = field(default_factory=dict)
    """Image -> patient or other unit; empty unless it is known of all images."""


def read_labels(source: ImageSource, chosen: Sequence[str] = ()) -> Labels:
    """Return the labels of all images of a source.

    The first of these counts: a `dataset.json` as StyleGAN has it (`{"labels": [["00000/img00000000.png", 3], ...]}`,
    class names in `classes` if it has that), a `metadata.jsonl` with `file_name`, `label` and perhaps `group`, or the
    folders: below all folders that every image has in common, the outermost names the class.

    Args:
        source: The images.
        chosen: Class names in label order; with folders, those folders are the classes, wherever they stand.

    Raises:
        UsageError: The chosen names do not fit.
        DataError: No images, or no labels that can be used.
    """
    images = sorted(source.images())
    if not images:
        raise DataError(
            f"{source.path} holds no images that can be read{source.explain()}",
            None if source.problems else "PNG, JPEG, WebP, TIFF and BMP are read",
        )
    common = PurePosixPath(posixpath.commonpath([str(PurePosixPath(name).parent) for name in images])).parts
    for depth in range(len(common) + 1):
        place = "".join(f"{folder}/" for folder in common[:depth])
        if place + STYLEGAN_FILE in source.files:
            return _finish(source, images, _from_stylegan(source, place), chosen)
        if place + METADATA_FILE in source.files and (listed := _from_metadata(source, place)):
            return _finish(source, images, listed, chosen)
    return _from_folders(source, images, place, chosen)


@dataclass
class _Listed:
    """What a label file says."""

    name: str
    labels: dict[str, int | str]
    class_names: dict[int, str] = field(default_factory=dict)
    groups: dict[str, str] = field(default_factory=dict)


def _from_stylegan(source: ImageSource, place: str) -> _Listed:
    name = place + STYLEGAN_FILE
    document = _parse(source.read(name), name)
    pairs = document.get("labels") if isinstance(document, dict) else None
    if isinstance(pairs, dict):
        pairs = list(pairs.items())
    if not isinstance(pairs, list) or not pairs:
        raise DataError(f"{name} has no labels", 'e.g. {"labels": [["00000/img00000000.png", 3], ...]}')
    listed = _Listed(name, {})
    for number, pair in enumerate(pairs):
        if not (isinstance(pair, list | tuple) and len(pair) == 2 and isinstance(pair[0], str)):
            raise DataError(f"{name}: entry {number} is not an image and its label: {pair!r:.100}")
        listed.labels[place + plain_path(pair[0])] = _check_label(pair[1], f"{name}: {pair[0]!r:.200}")
    classes = document.get("classes")
    if isinstance(classes, list):
        listed.class_names = {label: word for label, word in enumerate(classes) if isinstance(word, str)}
    return listed


def _from_metadata(source: ImageSource, place: str) -> _Listed | None:
    """Return what a `metadata.jsonl` says; None if it has no labels."""
    name = place + METADATA_FILE
    listed = _Listed(name, {})
    for number, line in enumerate(source.read(name).splitlines(), 1):
        where = f"{name}, line {number}"
        row = _parse(line, where) if line.strip() else {}
        if not isinstance(row, dict):
            raise DataError(f"{where} is not an object")
        if not row:
            continue
        if "label" not in row and not listed.labels:
            return None
        if not isinstance(row.get("file_name"), str):
            raise DataError(f"{where} has no file_name")
        label, image = _check_label(row.get("label"), where), place + plain_path(row["file_name"])
        listed.labels[image] = label
        if group := plain_text(row.get("group")):
            listed.groups[image] = group
        if isinstance(label, int) and isinstance(row.get("label_name"), str):
            listed.class_names.setdefault(label, row["label_name"])
    return listed if listed.labels else None


def _parse(data: bytes, name: str) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{name} is not JSON: {error}") from error


def _check_label(value: Any, where: str) -> int | str:
    if isinstance(value, str):
        return value
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < MAX_CLASSES:
        raise DataError(f"{where} has no label: {value!r:.100}", f"a whole number from 0 to {MAX_CLASSES - 1}")
    return value


def _finish(source: ImageSource, images: Sequence[str], listed: _Listed, chosen: Sequence[str]) -> Labels:
    """Return the labels of a label file for the images that there are."""
    if len({type(label) for label in listed.labels.values()}) > 1:
        raise DataError(f"{listed.name} has both numbers and words for labels")
    classes = _class_names(listed, chosen)
    index = {name: label for label, name in enumerate(classes)}
    there, refused = set(images), {problem.source for problem in source.problems}
    found = Labels(f"labels from {listed.name}", _check_classes(classes), {})
    for name, label in listed.labels.items():
        if name in there:
            found.labels[name] = label if isinstance(label, int) else index[label]
        elif name not in refused:
            found.problems.append(Problem(printable(name), "missing", f"listed in {listed.name}, but not there"))
    if found.labels.keys() <= listed.groups.keys():
        found.groups = {name: listed.groups[name] for name in found.labels}
    found.num_unlisted = len(there) - len(found.labels)
    return found


def _class_names(listed: _Listed, chosen: Sequence[str]) -> tuple[str, ...]:
    words = {label for label in listed.labels.values() if isinstance(label, str)}
    if words:
        if chosen and (unnamed := sorted(words - set(chosen))):
            raise UsageError(f"--class does not name {unnamed[0]!r:.200}, a class of {listed.name}")
        return tuple(chosen or sorted(words))
    count = 1 + max(label for label in listed.labels.values() if isinstance(label, int))
    if chosen and len(chosen) < count:
        raise UsageError(f"--class gives {len(chosen)} names, but {listed.name} has labels up to {count - 1}")
    # Names behind the last label are classes of which there happen to be no images.
    last = max(count, 1 + max(listed.class_names, default=0))
    return tuple(chosen) or tuple(listed.class_names.get(label, f"class{label}") for label in range(last))


def _from_folders(source: ImageSource, images: Sequence[str], place: str, chosen: Sequence[str]) -> Labels:
    names = {unicodedata.normalize("NFC", name): name for name in chosen}
    word_of = {name: _folder_class(name, place, names) for name in images}
    found = {word for word in word_of.values() if word}
    if not found:
        raise DataError(
            f"{source.path} has no class folders"
            + (f" called {' or '.join(chosen)}" if chosen else "")
            + source.explain(),
            f"one folder a class, a {STYLEGAN_FILE}, or --class NAME where the only folder is the class",
        )
    if not chosen:
        source.class_folders(place)
    elif len(split_names(found)) == len(found):
        check_splits(sorted(found), source.path)
    if missing := [name for name in chosen if name not in found]:
        raise DataError(f"{source.path} has no images in a folder called {missing[0]!r}", f"there are: {_few(found)}")
    classes = _check_classes(tuple(chosen or sorted(found)))
    label_of: Mapping[str, int] = {name: label for label, name in enumerate(classes)}
    labels = Labels("labels from the folders", classes, {})
    for name, word in word_of.items():
        if word:
            labels.labels[name] = label_of[word]
        else:
            labels.problems.append(Problem(name, "no class", "it lies in no class folder"))
    return labels


def _folder_class(name: str, place: str, chosen: Mapping[str, str]) -> str:
    """Return the class of an image by its folders, empty where it has none."""
    if chosen:
        folders = (unicodedata.normalize("NFC", folder) for folder in name.split("/")[:-1])
        return next((chosen[folder] for folder in folders if folder in chosen), "")
    class_name, slash, _ = name[len(place) :].partition("/")
    return class_name if slash else ""


def _check_classes(classes: tuple[str, ...]) -> Classes:
    try:
        return Classes(classes)
    except DataError as error:
        raise DataError(f"{error}: give other names with --class") from error


def _few(names: Any) -> str:
    words = sorted(names)
    return ", ".join(words[:10]) + (", ..." if len(words) > 10 else "")
