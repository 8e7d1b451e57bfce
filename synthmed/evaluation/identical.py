"""Images that are equal to the last pixel, which needs no statistics to be told, and what is to be said of them first.

Pixels are those at which sets are compared: after images were brought to one size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from synthmed.data.sets.image_set import ImageSet
from synthmed.evaluation.sets import EvaluationSets

SOURCES = {"training": "training image", "held_out": "held-out real image", "real": "real image"}
SIGNIFICANT = 0.001
Json = dict[str, Any]


@dataclass(frozen=True)
class Identical:
    """How many images of a set equal others to the last pixel."""

    images: int
    """All of the set."""
    different: int
    """Different pictures among them."""
    training: int | None
    """Images that are training images; `None` where those are not known."""
    held_out: int | None
    """Images that are held-out real images."""
    real: int | None
    """Images that are images of the reference; `None` where that is one of the two others."""


def count_identical(images: ImageSet, sets: EvaluationSets) -> Identical:
    """Return how many images of a set equal real ones, or each other."""
    real = None if sets.real is sets.training or sets.real is sets.held_out else sets.real
    copied = [
        None if others is None else count_shared(images, others) for others in (sets.training, sets.held_out, real)
    ]
    return Identical(len(images), len(set(images.pixel_hashes)), *copied)


def count_shared(images: ImageSet, others: ImageSet) -> int:
    """Return how many images of a set are images of another one."""
    known = set(others.pixel_hashes)
    return sum(found in known for found in images.pixel_hashes)


def findings(results: Json) -> list[str]:
    """Return in plain words which sets copy real images, or hold the same picture again and again."""
    found = [
        f"{name}: {words}"
        for name, counts in results["identical"].items()
        for words in set_findings(counts, results["copies"].get(name))
    ]
    if (held_out := results["held_out"]) and (leaked := held_out["num_in_training"]):
        total = sum(held_out["num_images"].values())
        found.append(f"{held_out['name']}: {_many(leaked, total, 'training images', 'a training image')}, not held out")
    return found


def set_findings(counts: Json, copies: Json | None) -> list[str]:
    """Return the same of one set: its `Identical`, and if they were sought its `CopyReport`, as JSON has them."""
    total, different = counts["images"], counts["different"]
    found = []
    for source, word in SOURCES.items():
        if copied := counts[source]:
            found.append(_many(copied, total, f"copies of {word}s", f"a copy of one {word}"))
    if copies and copies["count"] and copies["count"] > (counts["training"] or 0) and copies["p_value"] < SIGNIFICANT:
        word = SOURCES["real" if counts["training"] is None else "training"]
        near = _many(copies["count"], total, f"suspiciously near to {word}s", f"suspiciously near to a {word}")
        found.append(f"{near}, where {copies['expected']:.1f} are expected of unseen real images")
    if different == 1 < total:
        found.append(f"all {total} images are the same picture")
    elif different < total:
        found.append(f"{total} images are only {different} different pictures")
    return found


def _many(count: int, total: int, several: str, one: str) -> str:
    images = f"all {total} images" if count == total else f"{count} of {total} images"
    return f"{images} are {several}" if count > 1 else f"{images.removeprefix('all ')} is {one}"
