"""Which images are compared: the same classes on both sides, and equally many of each."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from synthmed.data.sets.image_set import ImageSet
from synthmed.errors import DataError
from synthmed.metrics.statistics import unit_names


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
