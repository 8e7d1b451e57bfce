"""A folder of shards against the shard contract, ours or another program's: everything in it is read.

Nothing is changed, and whatever is wrong is counted and named with its file and key.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from synthmed.data.prepare.scan import default_workers, map_ordered
from synthmed.data.shards.plan import RUN_FILE
from synthmed.data.shards.read import SHARD_PATTERN, read_description, refuse_without_shards, sort_splits
from synthmed.data.shards.side_files import CARD_FILE, INFO_FILE, SIZES_FILE
from synthmed.data.verify.findings import Finding, Findings
from synthmed.data.verify.shard import Form, FoundShard, Stated, check_shard
from synthmed.data.verify.side_files import check_side_files, missing_side_files
from synthmed.errors import DataError
from synthmed.files.outputs import STATE_FOLDER
from synthmed.runtime.progress import progress

MAX_LISTED = 50
MAX_DEPARTURE = 2.0
"""Samples by which interleaved classes may depart from the split's mixture in any stretch of a shard."""
SHARD_DIGITS = 6
MEGABYTE = 1_000_000
PART = "is being written by another command, or left of an interrupted one"


@dataclass(frozen=True)
class VerifyReport:
    """What a folder holds and what is wrong with it."""

    folder: str
    splits: Mapping[str, Mapping[str, int]]
    """Split -> class -> samples."""
    shards: Mapping[str, int]
    """Split -> shards."""
    size: int
    """Of all shards in bytes."""
    departure: Mapping[str, float]
    """Split -> samples by which any class departs from the split's mixture within a shard, at the most."""
    num_problems: int
    problems: tuple[Finding, ...]
    """The first of them."""
    not_checked: tuple[str, ...]
    """What there was nothing to compare with."""


def verify_folder(folder: Path, *, workers: int | None = None) -> VerifyReport:
    """Read every member of every shard of a folder and compare all with what stands beside it.

    Args:
        folder: Of shards in the contract's form; without `.synthmed`, only what is there is compared.
        workers: Threads, each of which reads a shard; the number of cores by default.

    Raises:
        DataError: The folder is missing or holds no shards.
    """
    findings = Findings()
    paths = _list_shards(folder, findings)
    ours = (folder / STATE_FOLDER).is_dir()
    stated = _read_stated(folder, findings, ours)
    found = _check_shards(paths, stated, workers or default_workers())
    shards: dict[str, list[FoundShard]] = {}
    for shard in found:
        findings.merge(shard.findings)
        shards.setdefault(shard.split, []).append(shard)
    _check_keys(found, findings)
    _check_forms(found, findings)
    counts = {split: Counter(_labels(group)) for split, group in shards.items()}
    departure = {split: _check_mixture(group, counts[split], findings, ours) for split, group in shards.items()}
    names = dict(enumerate(stated.classes)) or _name_labels(counts.values(), found[0], findings)
    check_side_files(folder, shards, findings, ours)
    return VerifyReport(
        folder=str(folder),
        splits={s: {name: count[label] for label, name in names.items()} for s, count in counts.items()},
        shards={split: len(group) for split, group in shards.items()},
        size=sum(shard.size for shard in found),
        departure=departure,
        num_problems=len(findings),
        problems=tuple(findings.first(MAX_LISTED)),
        not_checked=() if ours else tuple(missing_side_files(folder)),
    )


def _read_stated(folder: Path, findings: Findings, ours: bool) -> Stated:
    """Return what the folder says of its samples; report a description that is missing or broken."""
    try:
        stated = Stated.from_description(read_description(folder))
    except DataError as error:
        findings.add(RUN_FILE, str(error))
        return Stated(None, (), (0, 0), "")
    if ours and not stated.classes:
        findings.add(RUN_FILE, "is missing or names no classes")
    return stated


def _name_labels(counts: Iterable[Counter[int]], first: FoundShard, findings: Findings) -> dict[int, str]:
    """Return label -> name where no names are stated; report labels that are not 0, 1, ..."""
    labels = sorted({label for count in counts for label in count})
    if labels != list(range(len(labels))):
        findings.add(first.path.name, f"labels have gaps: {', '.join(map(str, labels[:20]))}")
    return {label: str(label) for label in labels}


def _list_shards(folder: Path, findings: Findings) -> list[tuple[Path, str]]:
    """Return the shards with their splits, in the order of splits and numbers; report all else that lies there."""
    if not folder.is_dir():
        refuse_without_shards(folder)
    numbers: dict[str, dict[int, Path]] = {}
    for path in sorted(folder.iterdir()):
        match = SHARD_PATTERN.fullmatch(path.name)
        if match is None:
            _check_foreign(path, findings)
            continue
        if len(match["number"]) != SHARD_DIGITS:
            findings.add(path.name, f"its number does not have {SHARD_DIGITS} digits")
        if (other := numbers.setdefault(match["split"], {}).setdefault(int(match["number"]), path)) is not path:
            findings.add(path.name, f"has the number of {other.name} and was not read")
    for part in sorted((folder / STATE_FOLDER).glob("*.part")):
        findings.add(f"{STATE_FOLDER}/{part.name}", PART)
    if not numbers:
        refuse_without_shards(folder)
    shards = []
    for split in sort_splits(numbers):
        _check_numbers(split, sorted(numbers[split]), findings)
        shards += [(numbers[split][number], split) for number in sorted(numbers[split])]
    return shards


def _check_foreign(path: Path, findings: Findings) -> None:
    if path.name.endswith(".part"):
        findings.add(path.name, PART)
    # Hidden files are passed over by all readers; some of their tools keep an index in one.
    elif not path.name.startswith(".") and path.name not in (CARD_FILE, INFO_FILE, SIZES_FILE):
        findings.add(path.name, "does not belong in a folder of shards")


def _check_numbers(split: str, numbers: Sequence[int], findings: Findings) -> None:
    expected = 0
    for number in numbers:
        if number > expected:
            first, last = (f"{split}-{missing:0{SHARD_DIGITS}d}.tar" for missing in (expected, number - 1))
            findings.add(first, "is missing" if first == last else f"is missing, and all shards up to {last}")
        expected = number + 1


def _check_shards(paths: Sequence[tuple[Path, str]], stated: Stated, workers: int) -> list[FoundShard]:
    total = sum(path.stat().st_size for path, _ in paths if path.is_file())
    with progress("verifying", -(-total // MEGABYTE), "MB") as advance_megabytes:
        done = 0

        def advance(count: int) -> None:
            nonlocal done
            # Threads may both add to it: the bar is then a little behind, no more.
            before, done = done, done + count
            advance_megabytes(done // MEGABYTE - before // MEGABYTE)

        return list(map_ordered(lambda pair: check_shard(*pair, stated, advance), paths, workers))


def _labels(shards: Iterable[FoundShard]) -> list[int]:
    return [sample.label for shard in shards for sample in shard.samples.values()]


def _check_keys(shards: Iterable[FoundShard], findings: Findings) -> None:
    first: dict[str, str] = {}
    for shard in shards:
        for key in shard.samples:
            if (other := first.setdefault(key, shard.path.name)) != shard.path.name:
                findings.add(shard.path.name, f"the key {key} stands in {other} as well")


def _check_forms(shards: Iterable[FoundShard], findings: Findings) -> None:
    """Report samples that do not have the members and `.json` keys of most."""
    shards = list(shards)
    counts: Counter[Form] = sum((shard.forms for shard in shards), Counter())
    if len(counts) < 2:
        return
    usual = counts.most_common(1)[0][0]
    for shard in shards:
        for form, key in shard.first_of_form.items():
            if form != usual:
                more = f" and {shard.forms[form] - 1} more" if shard.forms[form] > 1 else ""
                findings.add(shard.path.name, f"{key}{more}: {_describe_difference(form, usual)}")


def _describe_difference(form: Form, usual: Form) -> str:
    if form[0] != usual[0]:
        return f"has the members {', '.join(form[0])}, most samples {', '.join(usual[0])}"
    odd = sorted(f"{name:.60} ({kind})" for name, kind in set(form[1]) ^ set(usual[1]))
    return f"the .json has not the keys and types of most samples: {', '.join(odd[:6])}"


def _check_mixture(shards: Sequence[FoundShard], counts: Counter[int], findings: Findings, ours: bool) -> float:
    """Return the largest departure of any class from the split's mixture within a shard; report it in ours."""
    largest = 0.0
    for shard in shards:
        labels = np.array(_labels([shard]), dtype=np.int64)
        places = np.arange(1, len(labels) + 1)
        shares = {label: count / counts.total() for label, count in counts.items()}
        departures = [
            float(np.abs(np.cumsum(labels == label) - share * places).max(initial=0)) for label, share in shares.items()
        ]
        departure = max(departures, default=0.0)
        if ours and departure >= MAX_DEPARTURE:
            label = list(shares)[departures.index(departure)]
            off = f"{departure:.1f} samples off the split's mixture"
            findings.add(shard.path.name, f"class {label} is not spread evenly: {off}")
        largest = max(largest, departure)
    return largest
