"""From a release to a folder of real shards: check, split by group, resize, write, and say what was left out.

The unit of work is the shard: the same command skips finished ones, and the bytes do not depend on where it was
stopped.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from synthmed.data.datasets import DataSetInfo
from synthmed.data.images import ImageFormat, ResizeMethod
from synthmed.data.prepare.changes import refuse_changes
from synthmed.data.prepare.raw import Problem, RawItem, Release
from synthmed.data.prepare.report import PrepareReport, count_reasons, finished_report, make_report, write_report
from synthmed.data.prepare.samples import SampleMaker, plan_splits, write_shards
from synthmed.data.prepare.scan import SCAN_FOLDER, default_workers, read_item, scan_items
from synthmed.data.prepare.splits import assign_splits
from synthmed.data.shards.card import NOT_STATED, FolderInfo
from synthmed.data.shards.plan import RUN_FILE
from synthmed.data.shards.side_files import write_side_files
from synthmed.data.shards.write import write_lines
from synthmed.errors import DataError, UsageError
from synthmed.files.atomic import atomic_file
from synthmed.files.content import hash_json
from synthmed.files.fingerprints import Fingerprint, fingerprint
from synthmed.files.outputs import STATE_FOLDER, clear_folder, open_output
from synthmed.files.storage import list_folder
from synthmed.runtime import version
from synthmed.runtime.progress import log
from synthmed.runtime.signals import StopSignal

LEFT_OUT_FILE = f"{STATE_FOLDER}/left_out.jsonl"
COMMAND = "prepare"
LISTING = {"listing_sha256": "the list of its images with their labels and groups"}
MANY = 5  # problems named on stderr; all of them stand in the file


@dataclass(frozen=True)
class PrepareConfig:
    """How a release becomes shards."""

    size: int
    """Width and height in pixels."""
    resize: ResizeMethod = "crop"
    validation: float = 0.1
    """Share of the images; of train alone where the release has its own test split."""
    test: float = 0.3
    """Share of the images; not used where the release has its own test split."""
    max_bad: float = 0.01
    """Largest share of images that may be left out as missing, unreadable, too small, duplicate or of two classes."""
    seed: int = 0
    image_format: ImageFormat = "png"
    name: str | None = None
    """Of the data set in the shards; None takes the release's."""
    source_terms: str = NOT_STATED
    bits: int | None = None
    """Depth of 16-bit grey values whose header states none, 8 to 16; None takes the full range."""

    def __post_init__(self) -> None:
        if not (self.validation > 0 and self.test > 0 and self.validation + self.test < 1):
            raise UsageError(
                f"--validation {self.validation} and --test {self.test} leave no three splits",
                "both above 0 and below 1 together",
            )
        if not 0 <= self.max_bad <= 1:
            raise UsageError(f"--max-bad is not a share: {self.max_bad}", "from 0 to 1")
        if self.name is not None and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", self.name):
            raise UsageError(f"--name cannot be used as a name: {self.name!r}", "letters, digits, '-' and '_'")


def prepare_release(
    release: Release, output: Path, config: PrepareConfig, *, overwrite: bool = False, workers: int | None = None
) -> PrepareReport:
    """Write a release as shards with the splits train, validation and test.

    Args:
        release: From one of the readers.
        output: Folder; made if it is missing, gone on with if it holds part of the same work.
        config: Everything else that the bytes depend on.
        overwrite: Start anew in a folder of ours, whatever it holds.
        workers: Threads that decode and encode; the number of cores by default.

    Raises:
        DataError: A class does not occur or is too small, or too many images cannot be used.
        ResumeError: The folder holds other work, or the release has changed since it was checked.
        Interrupted: A signal came; finished shards are kept.
    """
    if config.name:
        release = replace(release, info=replace(release.info, name=config.name))
    info = release.info
    for note in release.notes:
        log(note)
    folder_info = _folder_info(info, config)
    fractions = {"validation": config.validation, "test": config.test}
    workers = workers or default_workers()
    if release.draw is None and not overwrite:
        refuse_changes(release.items, output, COMMAND, stat=_stat, read=read_item, workers=workers)
    # A class that is missing or too small is better said now than after an hour of checking images.
    assign_splits(release.items, info.classes, fractions, config.seed)
    run_config = _run_config(release, config, folder_info)
    source = LISTING if release.draw is None else None
    reads = {item.label: item.path for item in release.items if item.path is not None}.values()
    resumed = open_output(output, run_config, name=RUN_FILE, overwrite=overwrite, source=source, reads=reads)
    if resumed and (report := finished_report(output)):
        log(f"{output} is already complete")
        _say_grey(report)
        return report
    maker = SampleMaker(info, config.size, config.resize, config.image_format, config.seed, release.draw, config.bits)
    with StopSignal() as stop:
        usable, problems = _usable_items(release, output, config, workers, stop)
        splits = assign_splits(usable, info.classes, fractions, config.seed)
        write_shards(plan_splits(usable, splits, len(info.classes), output, config.seed), maker, workers, stop)
    write_side_files(output, folder_info)
    report = make_report(release, usable, splits, problems)
    write_report(output, report)
    _say_grey(report)
    return report


def _say_grey(report: PrepareReport) -> None:
    if report.grey:
        log("note: all images are grey: models of one channel suit them")


def _stat(item: RawItem) -> Fingerprint | None:
    return None if item.path is None else fingerprint(item.path)


def _run_config(release: Release, config: PrepareConfig, folder_info: FolderInfo) -> dict[str, Any]:
    """Return all that the shards depend on; `max_bad` only decides whether they are written."""
    settings = {key: value for key, value in asdict(config).items() if key not in ("max_bad", "source_terms", "name")}
    if config.bits is None:
        del settings["bits"]
    listed = [[item.key, item.label, item.group, item.split or ""] for item in release.items]
    return {
        "command": COMMAND,
        "synthmed": version.__version__,
        "folder": folder_info.as_config(),
        "settings": settings,
        "listed_images": len(release.items),
        "listing_sha256": hash_json(listed),
    }


def _folder_info(info: DataSetInfo, config: PrepareConfig) -> FolderInfo:
    drawn = info.kind == "phantom"
    resized = {
        "crop": f"the short side was brought to {config.size} pixels and the centre cut out",
        "stretch": f"width and height were brought to {config.size} pixels without keeping the proportions",
    }
    how = [
        f"Made by `synthmed prepare` {version.__version__} from a release: {resized[config.resize]} (bilinear, "
        "antialiased)."
    ]
    if drawn:
        how = [
            f"Drawn by `synthmed prepare phantom` {version.__version__}, seed {config.seed}; `cup_to_disc` in the "
            "`.json` is the truth."
        ]
    if info.intensity == "grey-stretch":
        how.append("Every image was made grey and its own minimum and maximum moved to 0 and 255.")
    how.append(
        "The splits train, validation and test share no patient or other group (`group` in the `.json`); they were "
        f"drawn with seed {config.seed}."
    )
    return FolderInfo(
        kind=info.kind,
        dataset=info.name,
        classes=info.classes,
        title=info.title,
        size=config.size,
        image_format=config.image_format,
        how_made=tuple(how),
        source_terms="none, drawn by synthmed" if drawn else config.source_terms,
    )


def _usable_items(
    release: Release, output: Path, config: PrepareConfig, workers: int, stop: StopSignal
) -> tuple[list[RawItem], list[Problem]]:
    """Check all images; write down those that are left out, and end the run if they are too many."""
    if release.info.kind == "phantom":
        return release.items, []
    total = len(release.items) + len(release.problems)
    check_known(release.problems, total, output, config.max_bad)
    usable, found = scan_items(
        release.items, release.info.classes, output, config.size, workers, stop, bits=config.bits
    )
    problems = [*release.problems, *found]
    leave_out(problems, total, output, config.max_bad)
    return usable, problems


def check_known(problems: Sequence[Problem], total: int, output: Path, max_bad: float) -> None:
    """End the run before any image is read where too many are known to be left out already; see `leave_out`.

    Raises:
        DataError: They are too many.
    """
    if len(problems) > max_bad * total:
        leave_out(problems, total, output, max_bad)


def leave_out(problems: Sequence[Problem], total: int, output: Path, max_bad: float) -> None:
    """Write down the images that are left out, and name the first.

    Args:
        problems: One for each of them.
        total: Images in all.
        output: Folder of the shards.
        max_bad: Largest share of images that may be left out.

    Raises:
        DataError: They are more than that.
    """
    with atomic_file(output / LEFT_OUT_FILE) as file:
        write_lines(file, (asdict(problem) for problem in problems))
    for problem in problems[:MANY]:
        log(f"left out: {problem.source}: {problem.reason}: {problem.detail}")
    if len(problems) > MANY:
        log(f"left out: {len(problems) - MANY} more, see {output / LEFT_OUT_FILE}")
    if len(problems) > max_bad * total:
        if not any(path.suffix == ".tar" for path in list_folder(output)):
            # What was found is not to be remembered: the images may be there at the next run.
            clear_folder(output / SCAN_FOLDER)
        reasons = ", ".join(f"{count} {reason}" for reason, count in count_reasons(problems).items())
        raise DataError(
            f"{len(problems)} of {total} images ({len(problems) / total:.1%}) cannot be used: {reasons};"
            f" the first: {problems[0].source}: {problems[0].detail}",
            f"all are named in {output / LEFT_OUT_FILE}; --max-bad allows more than {max_bad:.1%}",
        )
