"""The sets of one evaluation: opened, checked against each other, and cut to what is compared.

That is the same classes on both sides, and equally many images of each.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from synthmed.data.sets.image_set import ImageSet
from synthmed.data.sets.sources import split_place
from synthmed.data.shards.read import find_splits
from synthmed.errors import DataError
from synthmed.evaluation.config import EvaluateRequest
from synthmed.evaluation.content import open_by_content
from synthmed.metrics.statistics import unit_names
from synthmed.runtime.progress import log
from synthmed.runtime.seeds import numpy_generator


@dataclass(frozen=True)
class EvaluationSets:
    """All images of an evaluation, under the real images' class names and in their size."""

    real: ImageSet
    """What generated images are scored against."""
    generated: tuple[ImageSet, ...]
    training: ImageSet | None
    """What the model was trained on; `None` where it is not known."""
    held_out: ImageSet | None
    """Real images of other patients than those."""


def open_sets(request: EvaluateRequest) -> EvaluationSets:
    """Open all sets and check that they fit each other.

    Raises:
        DataError: A set cannot be read, is not of the kind it is given as, or has other classes.
    """
    options: dict[str, Any] = {"split": "train", "exclude": request.exclude, "cache": request.cache}
    real = open_by_content(request.real, size=request.config.size, **options)
    if real.kind == "synthetic":
        raise DataError(f"--real {request.real} says that its images are synthetic", "give the real ones")
    place, _ = split_place(request.real)
    opened = {request.real: real, f"{place}:{real.split}": real}

    def open_real(where: str) -> ImageSet:
        # The reference is often the training split itself, which is then opened once.
        if where not in opened:
            images = open_by_content(where, size=real.size, **options)
            opened[where] = match_classes(real=real, generated=images)
        return opened[where]

    splits = find_splits(place) if place.is_dir() else []
    training = request.training or next((f"{place}:{split}" for split in splits if split == "train"), None)
    others = [split for split in ("test", "validation") if split in splits]
    held_out = request.held_out or next((f"{place}:{split}" for split in others), None)
    return EvaluationSets(
        real=real,
        generated=_open_generated(request, real, options),
        training=None if training is None else open_real(training),
        held_out=None if held_out is None else open_real(held_out),
    )


def _open_generated(request: EvaluateRequest, real: ImageSet, options: dict[str, Any]) -> tuple[ImageSet, ...]:
    sets = []
    for where in request.generated:
        images = open_by_content(where, size=real.size, **options)
        if images.kind == "real":
            raise DataError(f"--synthetic {where} says that its images are real", "give the generated ones")
        shared = set(images.pixel_hashes) & set(real.pixel_hashes)
        if len(shared) == len(set(images.pixel_hashes)):
            raise DataError(f"--synthetic {where} holds the images of --real", "give the generated ones")
        sets.append(match_classes(real=real, generated=images))
    names = [images.name for images in sets]
    # Folders of the same name, such as a/shards and b/shards, are called by their whole paths.
    return tuple(
        images if names.count(images.name) == 1 else replace(images, name=where)
        for images, where in zip(sets, request.generated, strict=True)
    )


def compared_sets(sets: EvaluationSets, *, balanced: bool, seed: int) -> tuple[ImageSet, tuple[ImageSet, ...]]:
    """Return the real and the generated images that are scored: the classes that were generated, equally often.

    Balanced, the real set has as many images of every class, and all generated sets have the same number of images.

    Raises:
        DataError: A generated set lacks a class that another one has.
    """
    used = sorted({label for images in sets.generated for label in images.labels.tolist()})
    real, *generated = (_of_classes(images, used) for images in (sets.real, *sets.generated))
    if len(used) < len(sets.real.classes):
        log(f"only the class {', '.join(real.classes)} was generated: scores are of it alone")
    if balanced:
        fewest = min(int(np.bincount(images.labels, minlength=len(used)).min()) for images in generated)
        real = balance_classes(real, numpy_generator(seed, "balance", "real"))
        generated = [
            balance_classes(images, numpy_generator(seed, "balance", "generated"), images_per_class=fewest or None)
            for images in generated
        ]
    return real, tuple(generated)


def _of_classes(images: ImageSet, labels: Sequence[int]) -> ImageSet:
    """Return the images of some classes, whose labels are then 0, 1, ..."""
    part = images.subset(np.flatnonzero(np.isin(images.labels, labels)))
    return replace(part, classes=images.classes.part(labels), labels=np.searchsorted(labels, part.labels))


def match_classes(*, real: ImageSet, generated: ImageSet) -> ImageSet:
    """Return the generated set under the real set's class names and labels.

    Names are matched as labels on the command line are: by name or alias of either side, in any case. A class of the
    real set that was not generated is left without images.

    Raises:
        DataError: A generated class is none of the real ones, or two of them are the same.
    """
    used = set(generated.labels.tolist())
    found = real.classes.match(generated.classes, used, here=real.name, there=generated.name)
    new_labels = np.asarray([-1 if label is None else label for label in found], dtype=np.int64)
    return replace(generated, classes=real.classes, labels=new_labels[generated.labels])


def balance_classes(
    images: ImageSet, generator: np.random.Generator, *, images_per_class: int | None = None
) -> ImageSet:
    """Return a random part of a set with as many images of every class, as the paper's reference sets are.

    Groups take turns: no patient's second image of a class is drawn before every patient's first.

    Args:
        images: The set.
        generator: Draws the images.
        images_per_class: `None` takes as many as the smallest class has.

    Raises:
        DataError: A class has no images, or fewer than asked for.
    """
    counts = np.bincount(images.labels, minlength=len(images.classes))
    smallest = int(counts.argmin())
    wanted = int(counts[smallest]) if images_per_class is None else images_per_class
    if not 0 < wanted <= counts[smallest]:
        raise DataError(
            f"{images.name} has {counts[smallest]} images of class {images.classes[smallest]}, {max(wanted, 1)} are "
            "needed",
            "fewer images per class, or a larger set",
        )
    members = (np.flatnonzero(images.labels == label) for label in range(len(images.classes)))
    chosen = [_draw(indices, images.groups, wanted, generator) for indices in members]
    return images.subset(np.sort(np.concatenate(chosen)))


def _draw(
    members: NDArray[np.int64], groups: tuple[str, ...], count: int, generator: np.random.Generator
) -> NDArray[np.int64]:
    """Return `count` of the members: first images of groups before second ones, in random order within each turn."""
    order = generator.permutation(members)
    units, seen = unit_names(groups), Counter[str]()
    turns = []
    for index in order:
        turns.append(seen[units[index]])
        seen[units[index]] += 1
    return order[np.argsort(turns, kind="stable")][:count]
