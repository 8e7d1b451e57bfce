"""Cup-to-disc ratios of eyes by label: phantoms with glaucoma are drawn with larger ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from synthmed.data.pixels import to_rgb_arrays
from synthmed.data.sets.image_set import ImageSet
from synthmed.metrics.statistics import auroc
from synthmed.phantoms.cup_to_disc import measure_cup_to_disc


@dataclass(frozen=True)
class Ratios:
    """Vertical cup-to-disc ratios measured on the images of one label."""

    kind: str
    """What the images are, as tables show it."""
    label: str
    mean: float | None
    """`None` where nothing could be measured."""
    std: float | None
    """`None` with fewer than two."""
    measured: int
    """Images in which a disc with a cup was found."""
    images: int


@dataclass(frozen=True)
class RatioScores:
    """Measured ratios of a set, and how well they tell its labels apart."""

    rows: tuple[Ratios, ...]
    """One per class, in label order."""
    auroc: float | None
    """Of the ratio itself, label 1 against label 0, over the images that could be measured; `None` where a class has no
    such image, or there are other than two classes."""


def check_ratios(images: ImageSet) -> RatioScores:
    """Return the measured ratios of a set of square pictures with the disc near the middle, such as the phantoms."""
    measured = [measure_cup_to_disc(image) for block in images.blocks() for image in to_rgb_arrays(block)]
    return summarise_ratios(images.name, images.classes, np.array(measured), images.labels)


def summarise_ratios(
    kind: str, classes: Sequence[str], ratios: NDArray[np.float64], labels: NDArray[np.int64]
) -> RatioScores:
    """Return what ratios [N], NaN where none was found, say about labels [N]."""
    known = np.isfinite(ratios)
    rows = []
    for label, name in enumerate(classes):
        chosen = ratios[(labels == label) & known]
        rows.append(
            Ratios(
                kind,
                name,
                float(chosen.mean()) if len(chosen) else None,
                float(chosen.std(ddof=1)) if len(chosen) > 1 else None,
                len(chosen),
                int((labels == label).sum()),
            )
        )
    area = None
    if len(rows) == 2 and all(row.measured for row in rows):
        area = auroc(np.stack([1 - ratios[known], ratios[known]], axis=1), labels[known], 1)
    return RatioScores(tuple(rows), area)
