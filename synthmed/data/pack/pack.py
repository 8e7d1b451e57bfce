"""Images of any other program as shards in the contract's form: check, label, write, and say what was left out.

The unit of work is the shard: the same command skips finished ones, and the bytes do not depend on where it was
stopped.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from synthmed.data.datasets import folder_info
from synthmed.data.pack.labels import Labels, read_labels
from synthmed.data.pack.samples import Look, Packer, check_items, find_first
from synthmed.data.pack.sources import ImageSource, open_source
from synthmed.data.prepare.prepare import check_known, leave_out
from synthmed.data.prepare.raw import Problem, RawItem
from synthmed.data.prepare.report import count_reasons
from synthmed.data.prepare.samples import plan_splits, write_shards
from synthmed.data.prepare.scan import default_workers
from synthmed.data.shards.card import FolderInfo
from synthmed.data.shards.plan import RUN_FILE, safe_key
from synthmed.data.shards.side_files import write_side_files
from synthmed.errors import DataError, UsageError
from synthmed.files.content import hash_json
from synthmed.files.outputs import open_output
from synthmed.runtime import version
from synthmed.runtime.progress import log, printable
from synthmed.runtime.signals import StopSignal

MAX_ID_BYTES = 60  # split and number stand before it in a sample's key
ORDER_SEED = 0

PackedFormat = Literal["keep", "png"]


@dataclass(frozen=True)
class PackConfig:
    """How images become shards."""

    split: Literal["train", "validation", "test"] = "train"
    kind: Literal["synthetic", "real"] = "synthetic"
    image_format: PackedFormat = "png"
    """png decodes and encodes again, with the mark of a synthetic image inside; keep leaves the bytes as they are."""
    dataset: str | None = None
    """Name of the data set in the shards; None takes the source's."""
    positive: str | None = None
    """Class whose score AUROC ranks."""
    classes: tuple[str, ...] = ()
    """Class names in label order; empty takes those of the source."""
    workers: int = 4
    """Loader workers that the number of shards should suit."""
    ranks: int = 1
    """Training processes that it should suit."""
    max_bad: float = 0.01
    """Largest share of images that may be left out."""
    exclude: tuple[str, ...] = ()
    """Shell patterns of files and folders that are passed over."""
    source_terms: str = "not stated"

    def __post_init__(self) -> None:
        if not 0 <= self.max_bad <= 1:
            raise UsageError(f"--max-bad is not a share: {self.max_bad}", "from 0 to 1")
        if self.dataset is not None and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", self.dataset):
            raise UsageError(f"--dataset cannot be used as a name: {self.dataset!r}", "letters, digits, '-' and '_'")


@dataclass(frozen=True)
class PackReport:
    """What was packed."""

    output: str
    dataset: str
    split: str
    images: Mapping[str, int]
    """Class -> images."""
    shards: int
    image_format: str
    width: int
    height: int
    left_out: Mapping[str, int]
    """Reason -> images; each is named in `.synthmed/left_out.jsonl`."""
    duplicates: int
    """Images with the pixels of another one; they are kept."""


def pack_images(
    path: Path, output: Path, config: PackConfig, *, overwrite: bool = False, threads: int | None = None
) -> PackReport:
    """Write the images of a folder, zip or tar as shards of one split.

    All images must be as large as the first; one that is not, or that is broken, is left out.

    Args:
        path: The source.
        output: Folder; made if it is missing, gone on with if it holds part of the same work.
        config: Everything else that the bytes depend on.
        overwrite: Start anew where the folder holds other work.
        threads: Threads that decode and encode; the number of cores by default.

    Raises:
        UsageError: Class names that do not fit.
        DataError: No images, no labels, or too many images that cannot be used.
        ResumeError: The folder holds other work.
        Interrupted: A signal came; finished shards are kept.
    """
    threads = threads or default_workers()
    with open_source(path, config.exclude) as source:
        labels = read_labels(source, config.classes)
        first = find_first(source, labels.labels)
        info = _folder_info(path, labels, first, config)
        items = [_make_item(path, name, labels) for name in sorted(labels.labels)]
        open_output(output, _run_config(source, labels, config, info), name=RUN_FILE, overwrite=overwrite)
        _log_notes(source, labels)
        check_known(source.problems, len(items) + len(source.problems), output, config.max_bad)
        packer = Packer(source, first, info, config.image_format == "keep")
        with StopSignal() as stop:
            usable, problems, duplicates = check_items(items, packer, output, threads, stop)
            problems = [*source.problems, *labels.problems, *problems]
            leave_out(problems, len(usable) + len(problems), output, config.max_bad)
            splits = [config.split] * len(usable)
            plan = plan_splits(
                usable, splits, len(info.classes), output, ORDER_SEED, workers=config.workers, ranks=config.ranks
            )
            write_shards(plan, packer, threads, stop)
    write_side_files(output, info)
    return _report(output, config.split, packer, usable, len(plan), problems, duplicates)


def _report(
    output: Path,
    split: str,
    packer: Packer,
    items: Sequence[RawItem],
    num_shards: int,
    problems: Sequence[Problem],
    duplicates: int,
) -> PackReport:
    info, counts = packer.info, Counter(item.label for item in items)
    return PackReport(
        output=str(output),
        dataset=info.dataset,
        split=split,
        images={name: counts[label] for label, name in enumerate(info.classes)},
        shards=num_shards,
        image_format=info.image_format,
        width=packer.first.width,
        height=packer.first.height,
        left_out=count_reasons(problems),
        duplicates=duplicates,
    )


def _folder_info(path: Path, labels: Labels, first: Look, config: PackConfig) -> FolderInfo:
    named = folder_info(config.dataset or path.resolve().stem, labels.classes, config.positive)
    if config.image_format == "keep" and not first.image_format:
        raise DataError(f"{path} holds images that shards may not hold", "--image-format png encodes them anew")
    kept = "decoded and encoded again as PNG without loss"
    if config.image_format == "keep":
        mark = ", which carry no mark that they are synthetic" if config.kind == "synthetic" else ""
        kept = f"the files' own bytes{mark}"
    how = f"Made by `synthmed pack` from `{printable(path.name)}`, which another program made: {kept}. {labels.origin}."
    return FolderInfo(
        kind=config.kind,
        dataset=named.name,
        classes=named.classes,
        title=named.name,
        size=first.width if first.width == first.height else 0,
        image_format=first.image_format if config.image_format == "keep" else "png",
        how_made=(how,),
        source_terms=config.source_terms,
    )


def _make_item(path: Path, name: str, labels: Labels) -> RawItem:
    stem = str(PurePosixPath(name).with_suffix("")).replace("/", "-")
    return RawItem(path, name, safe_key(stem, max_bytes=MAX_ID_BYTES), labels.labels[name], labels.groups.get(name, ""))


def _run_config(source: ImageSource, labels: Labels, config: PackConfig, info: FolderInfo) -> dict[str, Any]:
    """Return all that the shards depend on; `max_bad` only decides whether they are written."""
    listed = [
        [name, label, labels.groups.get(name, ""), source.files[name]] for name, label in sorted(labels.labels.items())
    ]
    return {
        "command": "pack",
        "synthmed": version.__version__,
        "folder": info.as_config(),
        "source": printable(source.path.name),
        "settings": {
            "split": config.split,
            "image_format": config.image_format,
            "workers": config.workers,
            "ranks": config.ranks,
        },
        "listed_images": len(listed),
        "listing_sha256": hash_json(listed),
    }


def _log_notes(source: ImageSource, labels: Labels) -> None:
    log(f"{len(labels.labels)} images in {len(labels.classes)} classes, {labels.origin}")
    if labels.num_unlisted:
        log(f"{labels.num_unlisted} images are not listed and are not used")
    for note in source.notes():
        log(note)
