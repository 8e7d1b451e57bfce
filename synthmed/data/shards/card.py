"""What a folder of shards says about itself: its description, and the data card made from it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from synthmed.data.labels import Classes
from synthmed.data.shards.write import ShardStats

FolderKind = Literal["real", "phantom", "synthetic"]

_KIND_SENTENCES = {
    "real": "**These are real images** of people or tissue. Handle them as the source's terms and your rules ask.",
    "phantom": "**No patient was imaged**: every image was drawn by a program from random numbers.",
    "synthetic": "**These images are synthetic**: a trained generative model made every one of them. No patient was "
    "imaged, but a model can repeat parts of what it was trained on. Not for diagnosis.",
}
_USE = {
    "real": "Intended use: training and testing image classifiers and generative models. Limits: labels are those of "
    "the source, with its errors; the images were made smaller, so that fine findings may be gone; people, devices and "
    "places outside the source are not represented. Not for diagnosis.",
    "phantom": "Intended use: trying out and testing programs where the truth must be known. Limits: the images follow "
    "a few simple rules; what works on them need not work on images of patients.",
    "synthetic": "Intended use: training classifiers beside real data; test them on real data alone. Limits: the "
    "images show what a model has learnt of its training set, with its biases; rare findings may be missing or wrong; "
    "no proof of privacy, since a model can repeat what it was trained on. Not for diagnosis.",
}
_TERMS = {
    "real": "Terms of the source",
    "phantom": "Terms of the source",
    "synthetic": "Terms of the data that the model was trained on",
}
NOT_STATED = "not stated"


@dataclass(frozen=True)
class FolderInfo:
    """What a folder of shards is; the caller keeps `as_config()` in `.synthmed/run.json` under "folder"."""

    kind: FolderKind
    dataset: str
    classes: Classes
    title: str = ""
    """Heading of the data card; the data set's name if empty."""
    size: int | tuple[int, int] = 0
    """Side of square images in pixels, or height and width of others; 0 where it is not known."""
    image_format: str = "png"
    how_made: tuple[str, ...] = ()
    """Paragraphs of the data card."""
    source_terms: str = NOT_STATED
    """Licence or terms of use of the source."""

    def as_config(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return {**asdict(self), **self.classes.as_table(), "how_made": list(self.how_made)}


def card_files(splits: Iterable[str]) -> list[tuple[str, str]]:
    """Return the files that the data card's head pins to each split."""
    return [(split, f"{split}-*.tar") for split in splits]


def data_card(info: FolderInfo, splits: Mapping[str, list[ShardStats]]) -> str:
    head = ["---", "configs:", "  - config_name: default", "    data_files:"]
    for split, path in card_files(splits):
        head += [f"      - split: {split}", f"        path: {path}"]
    head += [f"pretty_name: {json.dumps(info.title or info.dataset)}", "task_categories:", "  - image-classification"]
    head += ["tags:", "  - medical-imaging", f"  - {info.kind}"]
    lines = [*head, "---", "", f"# {info.title or info.dataset}", "", _KIND_SENTENCES[info.kind], ""]
    lines += ["## How it was made", ""]
    for paragraph in info.how_made:
        lines += [paragraph, ""]
    terms = " ".join(info.source_terms.split())
    ask = " Ask before you hand the images on." if terms == NOT_STATED else ""
    lines += [f"Images: {_size_words(info.size)}{info.image_format}. {_TERMS[info.kind]}: {terms}.{ask}", ""]
    lines += ["## Use and limits", "", _USE[info.kind], "", "## Contents", ""]
    lines += [*_class_table(info, splits), "", *_class_notes(info), ""]
    return "\n".join(lines)


def _size_words(size: int | tuple[int, int]) -> str:
    if isinstance(size, int):
        return f"{size} x {size} pixels, " if size else ""
    return f"{size[0]} pixels high and {size[1]} wide, "


def _class_table(info: FolderInfo, splits: Mapping[str, list[ShardStats]]) -> list[str]:
    names = " | ".join(f"{label} {name}" for label, name in enumerate(info.classes))
    lines = [f"| split | {names} | all | shards |", "|---|" + "---:|" * (len(info.classes) + 2)]
    for split, shards in splits.items():
        counts: Counter[str] = Counter()
        for stats in shards:
            counts.update(stats.class_counts)
        cells = [*(counts[str(label)] for label in range(len(info.classes))), counts.total(), len(shards)]
        lines.append(f"| {split} | " + " | ".join(map(str, cells)) + " |")
    return lines


def _class_notes(info: FolderInfo) -> list[str]:
    notes = ["Members of a sample: `.cls` the label, `.json` what is known about it, and the image."]
    if info.classes.positive is not None:
        notes.append(f"Positive class for AUROC: `{info.classes.positive}`.")
    if info.classes.aliases:
        notes.append(
            "Other words: " + ", ".join(f"{alias} = {name}" for alias, name in info.classes.aliases.items()) + "."
        )
    notes.append("The same samples as rows, with the SHA-256 of every image: `.synthmed/manifest.jsonl`.")
    notes.append(f"Read with timm: `--dataset wds/{info.dataset} --data-dir DIR --train-split train`.")
    return notes
