"""What a folder of prepared shards holds and lacks, kept in it as `.synthmed/report.json`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from synthmed.data.prepare.raw import Problem, RawItem, Release
from synthmed.data.shards.plan import SPLITS
from synthmed.data.shards.write import read_stats
from synthmed.files.atomic import write_json
from synthmed.files.content import read_json
from synthmed.files.outputs import STATE_FOLDER
from synthmed.files.storage import file_size, naming_read_errors

REPORT_FILE = f"{STATE_FOLDER}/report.json"


@dataclass(frozen=True)
class CountCheck:
    """One count of the release beside the published one."""

    name: str
    found: int
    published: int


@dataclass(frozen=True)
class PrepareReport:
    """What a folder of prepared shards holds and what it lacks."""

    dataset: str
    classes: tuple[str, ...]
    splits: Mapping[str, Mapping[str, int]]
    """Split -> class -> images."""
    groups: Mapping[str, int]
    """Split -> groups."""
    left_out: Mapping[str, int]
    """Reason -> images; each is named in `.synthmed/left_out.jsonl`."""
    published: tuple[CountCheck, ...]
    """Empty where nothing is published."""
    verdict: str
    """The comparison in words; empty where nothing is published."""
    grey: bool | None = None
    """Whether all images are without colours, so that one channel holds them; None where nobody has looked."""


def make_report(
    release: Release, items: Sequence[RawItem], splits: Sequence[str], problems: Sequence[Problem]
) -> PrepareReport:
    """Return the report of a release.

    Args:
        release: As its reader found it.
        items: The usable ones.
        splits: Of the items.
        problems: One for each image left out.
    """
    classes = release.info.classes
    counts = Counter(zip(splits, (item.label for item in items), strict=True))
    groups = {split: {item.group for item, its in zip(items, splits, strict=True) if its == split} for split in SPLITS}
    published = tuple(
        CountCheck(name, release.counts.get(name, 0), number) for name, number in release.info.published.items()
    )
    return PrepareReport(
        dataset=release.info.name,
        classes=classes.names,
        splits={split: {name: counts[split, label] for label, name in enumerate(classes)} for split in SPLITS},
        groups={split: len(members) for split, members in groups.items()},
        left_out=count_reasons(problems),
        published=published,
        verdict=_compare(published),
        grey=_are_grey(release, items),
    )


def _are_grey(release: Release, items: Sequence[RawItem]) -> bool | None:
    if release.info.intensity == "grey-stretch":
        return True
    found = {item.grey for item in items}
    return False if False in found else None if None in found else True


def count_reasons(problems: Sequence[Problem]) -> dict[str, int]:
    """Return reason -> number of images."""
    return dict(sorted(Counter(problem.reason for problem in problems).items()))


def _compare(published: Sequence[CountCheck]) -> str:
    if not published:
        return ""
    if all(check.found == check.published for check in published):
        return "the whole release, as published"
    if all(check.found <= check.published for check in published):
        return "a part of the release"
    return "not the published counts"


def write_report(output: Path, report: PrepareReport) -> None:
    """Keep a report in its folder; it is the last file written and means that the folder is complete."""
    write_json(output / REPORT_FILE, asdict(report))


def finished_report(output: Path) -> PrepareReport | None:
    """Return the report of a complete folder; None where a shard or the report is missing."""
    if not (output / REPORT_FILE).is_file():
        return None
    if not all(read_stats(output / shard) for shard in read_json(output / "sizes.json")):
        return None
    found = read_json(output / REPORT_FILE)
    # JSON files are written with sorted keys: bring splits and classes back into their order.
    return PrepareReport(
        dataset=found["dataset"],
        classes=tuple(found["classes"]),
        splits={split: {name: found["splits"][split][name] for name in found["classes"]} for split in SPLITS},
        groups={split: found["groups"][split] for split in SPLITS},
        left_out=found["left_out"],
        published=tuple(CountCheck(**check) for check in found["published"]),
        verdict=found["verdict"],
        grey=found.get("grey"),
    )


def read_grey(folder: Path) -> bool | None:
    """Return whether all images in a folder of shards are grey, as `synthmed prepare` found; None where it did not say.

    Raises:
        DataError: The report in the folder cannot be read.
    """
    path = folder / REPORT_FILE
    with naming_read_errors(path):
        if file_size(path) is None:
            return None
    found = read_json(path)
    grey = found.get("grey") if isinstance(found, dict) else None
    return grey if isinstance(grey, bool) else None
