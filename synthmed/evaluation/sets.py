"""The sets of one evaluation: decoded, and cut to what is compared.

That is the same classes on both sides, and equally many images of each.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from synthmed.data.sets.image_set import ImageSet
from synthmed.data.sets.sources import Listing
from synthmed.errors import DataError
from synthmed.evaluation.config import EvaluateRequest
from synthmed.evaluation.content import open_by_content
from synthmed.evaluation.inputs import Inputs, open_inputs
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

    @property
    def searched(self) -> ImageSet:
        """The images of which others may be copies: those of training, or where they are not known the real ones."""
        return self.real if self.training is None else self.training


def open_sets(request: EvaluateRequest, inputs: Inputs | None = None) -> EvaluationSets:
    """Decode all images of an evaluation, in the size of the real ones.

    Args:
        request: What is asked for.
        inputs: Of this request; `None` opens them.

    Raises:
        DataError: See `open_inputs`, or an image cannot be read.
    """
    found = inputs or open_inputs(request)
    real = open_by_content(found.real, size=request.config.size, cache=request.cache)
    opened = {id(found.real): real}

    def decode(listing: Listing | None) -> ImageSet | None:
        if listing is not None and id(listing) not in opened:
            opened[id(listing)] = open_by_content(listing, size=real.size, cache=request.cache)
        return None if listing is None else opened[id(listing)]

    generated = tuple(open_by_content(listing, size=real.size, cache=request.cache) for listing in found.generated)
    return EvaluationSets(real, generated, decode(found.training), decode(found.held_out))


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
