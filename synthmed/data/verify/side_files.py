"""The files beside the shards against what the shards hold: stats, sizes, timm's index, data card, manifest."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from synthmed.data.shards.card import card_files
from synthmed.data.shards.plan import stats_path
from synthmed.data.shards.side_files import CARD_FILE, INFO_FILE, MANIFEST_FILE, SIZES_FILE, shard_sizes, timm_info
from synthmed.data.shards.write import ShardStats
from synthmed.data.verify.findings import Findings, show
from synthmed.data.verify.shard import FoundSample, FoundShard
from synthmed.errors import DataError
from synthmed.files.content import parse_json, read_json
from synthmed.files.outputs import STATE_FOLDER

MAX_LINE_BYTES = 256 * 1024
MAX_CARD_BYTES = 1 << 20
SHARD_FIELDS = ("shard", "num_samples", "class_counts", "sha256", "size")

Report = Callable[[str], object]

_CARD_ENTRY = re.compile(r"^\s*- split: (\S+)\n\s*path: (\S+)$", re.MULTILINE)
_STATS_NAME = re.compile(r"[A-Za-z0-9_]+-[0-9]{6}\.json")


def check_side_files(folder: Path, splits: Mapping[str, Sequence[FoundShard]], findings: Findings, ours: bool) -> None:
    """Compare everything beside the shards with what was found in them.

    Args:
        folder: Of the shards.
        splits: All shards by split, in order.
        findings: Takes what differs.
        ours: Whether all these files must be there; else only those that are there are compared.
    """
    stats = {split: [shard.stats() for shard in shards] for split, shards in splits.items()}
    shards = [shard for group in splits.values() for shard in group]
    checks: dict[str, Callable[[Path, Report], None]] = {
        SIZES_FILE: lambda path, report: _compare("", read_json(path), shard_sizes(stats), report),
        INFO_FILE: lambda path, report: _compare("", read_json(path), timm_info(stats), report),
        CARD_FILE: lambda path, report: _check_card(path, splits, report),
        MANIFEST_FILE: lambda path, report: _check_manifest(path, shards, report),
    }
    for name, check in checks.items():

        def report(problem: str, name: str = name) -> None:
            findings.add(name, problem)

        if not (folder / name).exists():
            if ours:
                report("is missing: run the command that made the folder again")
            continue
        try:
            check(folder / name, report)
        except DataError as error:
            report(str(error))
    if ours:
        for shard in shards:
            _check_stats(shard, findings)
        _check_orphans(folder, {shard.path.name for shard in shards}, findings)


def missing_side_files(folder: Path) -> list[str]:
    """Return what cannot be checked in a folder of another program, and why, in words."""
    parts = {
        "hashes of the shards, stated classes and size": f"{STATE_FOLDER}/run.json",
        "hashes of the images": MANIFEST_FILE,
        "number of samples": SIZES_FILE,
        "timm's index": INFO_FILE,
        "splits of the data card": CARD_FILE,
    }
    return [f"{what}: no {name}" for what, name in parts.items() if not (folder / name).exists()]


def _compare(where: str, stated: Any, found: Any, report: Report) -> None:
    """Report every leaf in which a side file differs from the shards."""
    if isinstance(found, list) and isinstance(stated, list):
        found, stated = dict(enumerate(found)), dict(enumerate(stated))
    if isinstance(found, dict) and isinstance(stated, dict):
        for key in [*found, *(key for key in stated if key not in found)]:
            inside = f"{where}.{key}" if where else f"{key}"
            if key not in stated:
                report(f"{inside} is not listed: {show(found[key])}")
            elif key not in found:
                report(f"{inside} is listed, but the shards have no such thing: {show(stated[key])}")
            else:
                _compare(inside, stated[key], found[key], report)
    elif stated != found:
        report(f"{where or 'it'} is {show(stated)}, but the shards have {show(found)}")


def _check_card(path: Path, splits: Iterable[str], report: Report) -> None:
    if not path.is_file() or path.stat().st_size > MAX_CARD_BYTES:
        raise DataError("is no file of text", f"at most {MAX_CARD_BYTES} bytes")
    parts = path.read_bytes().decode("utf-8", "replace").split("---\n")
    pinned = _CARD_ENTRY.findall(parts[1]) if len(parts) > 2 else []
    wanted = card_files(splits)
    for split, files in wanted:
        if (split, files) not in pinned:
            report(f"its head does not pin {files} to the split {split}")
    for split, files in pinned:
        if (split, files) not in wanted:
            report(f"its head pins {files:.100} to the split {split:.100}, of which there are no shards")


def _check_stats(shard: FoundShard, findings: Findings) -> None:
    path = stats_path(shard.path)
    name = f"{STATE_FOLDER}/{path.name}"

    def report(problem: str) -> None:
        findings.add(name, problem)

    if not path.exists():
        report(f"is missing: {shard.path.name} is not finished")
        return
    try:
        stated = read_json(path)
        if not isinstance(stated, dict) or not isinstance(stated.get("samples"), list):
            raise DataError("is not a shard's stats file")
    except DataError as error:
        report(str(error))
        return
    found: ShardStats = shard.stats()
    for field in SHARD_FIELDS:
        value = getattr(found, field)
        if stated.get(field) != value:
            report(f"{field} is {show(stated.get(field))}, but {shard.path.name} has {show(value)}")
    _compare_rows(stated["samples"], shard.samples, report)


def _check_orphans(folder: Path, shards: set[str], findings: Findings) -> None:
    for path in sorted((folder / STATE_FOLDER).glob("*.json")):
        if _STATS_NAME.fullmatch(path.name) and f"{path.stem}.tar" not in shards:
            findings.add(f"{path.stem}.tar", f"is missing: only {STATE_FOLDER}/{path.name} is there")


def _check_manifest(path: Path, shards: Iterable[FoundShard], report: Report) -> None:
    samples = {key: sample for shard in shards for key, sample in shard.samples.items()}
    _compare_rows(_read_lines(path, report), samples, report)


def _read_lines(path: Path, report: Report) -> Iterator[Any]:
    """Yield the rows of a file of JSON lines; a line that is none is reported."""
    if not path.is_file():
        raise DataError("is not a file")
    with path.open("rb") as file:
        number = 0
        while line := file.readline(MAX_LINE_BYTES):
            number += 1
            if not line.endswith(b"\n"):
                report(f"line {number} is cut short or above {MAX_LINE_BYTES} bytes")
                return
            try:
                yield parse_json(line, f"line {number}")
            except DataError as error:
                report(str(error))


def _compare_rows(rows: Iterable[Any], samples: Mapping[str, FoundSample], report: Report) -> None:
    """Compare rows of a manifest with the samples they should describe."""
    seen: set[str] = set()
    for number, row in enumerate(rows, 1):
        key = row.get("key") if isinstance(row, dict) else None
        if not isinstance(key, str):
            report(f"row {number} has no key")
        elif key in seen:
            report(f"{show(key)} is listed twice")
        elif key not in samples:
            seen.add(key)
            report(f"{show(key)} is listed, but no shard has such a sample")
        else:
            seen.add(key)
            sample = samples[key]
            for field in ("shard", "label", "sha256"):
                value = getattr(sample, field)
                if row.get(field) != value:
                    report(f"{key}: {field} is {show(row.get(field))}, but {sample.shard} has {show(value)}")
    for key, sample in samples.items():
        if key not in seen:
            report(f"{key} of {sample.shard} is not listed")
