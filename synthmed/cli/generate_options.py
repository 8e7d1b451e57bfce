"""What the options of `synthmed generate` mean: counts, and this process's share of the shards."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from synthmed.cli.common import parse_number
from synthmed.config.limits import MAX_IMAGES
from synthmed.errors import DataError, UsageError
from synthmed.production.plan import Share
from synthmed.runtime.launch import read_array_task, read_launch

if TYPE_CHECKING:
    from synthmed.formats.headers import Header


def resolve_counts(
    model: Header[Any, Any], labels: list[str], number: int | None, balanced: bool, match: Path | None = None
) -> tuple[int, ...]:
    """Return the images of each class, in label order.

    Raises:
        UsageError: Unknown label, or options that do not go together.
        DataError: The folder to match has other classes than the model.
    """
    if match is not None:
        if labels or number is not None or balanced:
            raise UsageError("--match says how many images", "leave --label, -n and --balanced away")
        return _missing_counts(model, match)
    if balanced:
        if labels or number is None:
            raise UsageError("--balanced needs -n and no --label", "e.g. --balanced -n 10000")
        share, rest = divmod(number, len(model.classes))
        return tuple(share + (label < rest) for label in range(len(model.classes)))
    if not labels and len(model.classes) == 1:
        labels = list(model.classes)
    if not labels:
        names = ", ".join(model.classes)
        raise UsageError("which images? no --label is given", f"--label NAME -n N, or --balanced -n N; labels: {names}")
    counts = [0] * len(model.classes)
    for word in labels:
        name, separator, text = word.partition("=")
        label = model.classes.resolve(name)
        if counts[label]:
            raise UsageError(f"label {model.classes[label]} is given twice")
        if separator:
            count = parse_number(text, 1, MAX_IMAGES)
            if count is None:
                raise UsageError(
                    f"--label {word[:80]}: not a number of images", f"e.g. --label glaucoma=300; at most {MAX_IMAGES}"
                )
            counts[label] = count
        elif number is None or len(labels) > 1:
            raise UsageError(f"how many images of {name}?", f"--label {name} -n 1000, or --label {name}=1000")
        else:
            counts[label] = number
    if number is not None and sum(counts) != number:
        raise UsageError(f"-n {number} but the labels add up to {sum(counts)}", "leave -n away")
    return tuple(counts)


def _missing_counts(model: Header[Any, Any], real: Path) -> tuple[int, ...]:
    """Return what each class of a real training split lacks to be as large as the largest."""
    from synthmed.data.shards.read import open_folder

    folder = open_folder(real, "train")
    found = model.classes.labels_of(folder.classes)
    if None in found or len(set(found)) != len(model.classes):
        raise DataError(
            f"{real} has the classes {', '.join(folder.classes)}, the model {', '.join(model.classes)}",
            "give the shards of the data set that the model was trained on",
        )
    counts = Counter(found[entry.label] for entry in folder.entries)
    have = [counts[label] for label in range(len(model.classes))]
    if len(set(have)) == 1:
        raise DataError(f"{real} is balanced already: {have[0]} images of each class", "use --balanced -n N")
    return tuple(max(have) - count for count in have)


def resolve_share(shards: str | None, environment: Mapping[str, str]) -> Share:
    """Return which shards this process makes, from --shards and from what torchrun and SLURM arrays say.

    Raises:
        UsageError: --shards is not a list of numbers and ranges, or their variables make no sense.
    """
    launch = read_launch(environment)
    if shards is not None:
        return Share(_parse_ranges(shards), launch.rank, launch.world)
    task, tasks = read_array_task(environment)
    return Share(None, task * launch.world + launch.rank, tasks * launch.world)


def _parse_ranges(text: str) -> frozenset[int]:
    """Return the numbers in a list such as 0-4,7."""
    numbers: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"\s*([0-9]{1,6})(?:-([0-9]{1,6}))?\s*", part)
        if match is None or int(match[2] or match[1]) < int(match[1]):
            raise UsageError(f"--shards {text}: cannot read {part!r}", "e.g. --shards 0-4 or --shards 0-3,8")
        numbers.update(range(int(match[1]), int(match[2] or match[1]) + 1))
    return frozenset(numbers)
