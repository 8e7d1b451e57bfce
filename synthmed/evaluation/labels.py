"""Does a label show what it says: a classifier trained on real images reads the requested labels of other sets.

Its agreement with the labels of real images that it has not seen is the measure. Better agreement of a generated set is
no merit: its images may be clearer cases than real ones, or copies of images that the classifier was trained on.

Shapes: N images, K classes, R resamples.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from synthmed.classifier.config import ClassifierConfig
from synthmed.classifier.training import Placement, predict
from synthmed.data.labels import Classes
from synthmed.data.sets.image_set import ImageSet
from synthmed.errors import DataError
from synthmed.evaluation.identical import count_shared
from synthmed.evaluation.label_classifier import LABEL_CLASSIFIER, LabelClassifier, open_classifier
from synthmed.metrics.statistics import (
    NUM_RESAMPLES,
    Share,
    bootstrap_auroc,
    count_units,
    interval,
    resample_weights,
    share_difference,
    share_interval,
    weighted_auroc,
)
from synthmed.runtime.seeds import numpy_generator

SEEN = "what a classifier says of images that it has seen means nothing; hold others out"


@dataclass(frozen=True)
class ClassAgreement:
    """The images of one requested label."""

    label: str
    agreement: Share
    """Images for which the classifier's likeliest class is this one."""
    mean_probability: float
    """That the classifier gives this class."""
    auroc: float | None
    """Of this class's probability, its images against all others; `None` where there are no others."""


@dataclass(frozen=True)
class LabelScores:
    """How well the requested labels of a set agree with what a classifier sees."""

    name: str
    agreement: Share
    """Images for which the classifier's likeliest class is the requested one. Its interval is that of independent
    images, or of patients where they are known."""
    mean_probability: float
    """That the classifier gives the requested class."""
    auroc: float | None
    """Of two classes, or the mean of one-against-rest; `None` where a class has no images."""
    auroc_interval: tuple[float, float] | None
    """From resampling patients, or images where none are known."""
    confusion: tuple[tuple[int, ...], ...]
    """[K][K]: images of a requested label (row) by the classifier's likeliest class (column)."""
    classes: tuple[ClassAgreement, ...]
    """Those with images, in label order."""


@dataclass(frozen=True)
class LabelReport:
    """One classifier, and what it reads from real and from generated images."""

    settings: dict[str, Any]
    held_out: LabelScores
    """Real images that the classifier has not seen."""
    generated: tuple[LabelScores, ...]
    differences: tuple[tuple[float, float], ...]
    """Interval of each set's agreement less that of `held_out`: the classifier's own errors are in both."""


def check_labels(
    *,
    train: ImageSet,
    held_out: ImageSet,
    generated: Mapping[str, ImageSet],
    folder: Path,
    placement: Placement,
    config: ClassifierConfig = LABEL_CLASSIFIER,
) -> LabelReport:
    """Train a classifier on real images, or take it from an earlier start, and let it read every set.

    Args:
        train: Real images to learn from.
        held_out: Real images of other patients.
        generated: By name; classes and size must be those of `train`.
        folder: Output folder that keeps the classifier.
        placement: Where the network runs.
        config: How it is trained.

    Raises:
        DataError: Classes or sizes differ, a class has no training image, or a patient is on both sides.
        DeviceError: Memory is used up.
    """
    for images in (held_out, *generated.values()):
        _check_fits(images, train.classes, train.size)
    _check_separate(train, held_out)
    classifier = open_classifier(train, folder, placement=placement, config=config)
    ceiling = score_labels(classifier, held_out)
    scores = tuple(
        dataclasses.replace(score_labels(classifier, images), name=name) for name, images in generated.items()
    )
    differences = tuple(share_difference(found.agreement, ceiling.agreement) for found in scores)
    return LabelReport(classifier.settings, ceiling, scores, differences)


def score_labels(classifier: LabelClassifier, images: ImageSet) -> LabelScores:
    """Return how a set's labels agree with what the classifier sees.

    Raises:
        DataError: Other classes or another size than the classifier's, or no images.
    """
    _check_fits(images, classifier.classes, classifier.image_size)
    shown = images.resized(classifier.size, cache_bytes=0)
    probabilities = predict(classifier.network, shown, classifier.placement.device)
    generator = numpy_generator(classifier.settings["seed"], "label-bootstrap")
    return summarise_labels(images.name, classifier.classes, probabilities, images.labels, images.groups, generator)


def summarise_labels(
    name: str,
    classes: Sequence[str],
    probabilities: NDArray[np.float64],
    labels: NDArray[np.int64],
    groups: tuple[str, ...],
    generator: np.random.Generator,
) -> LabelScores:
    """Return the agreement of probabilities [N, K] with requested labels [N], N >= 1; see `LabelScores`."""
    predicted, of_requested = probabilities.argmax(axis=1), probabilities[np.arange(len(labels)), labels]
    confusion = np.zeros((len(classes), len(classes)), dtype=np.int64)
    np.add.at(confusion, (labels, predicted), 1)
    rows = []
    for label, class_name in enumerate(classes):
        mine = labels == label
        if not mine.any():
            continue
        units = count_units([group for group, inside in zip(groups, mine, strict=True) if inside])
        agreement = share_interval(int(confusion[label, label]), int(mine.sum()), units=units)
        area = weighted_auroc(probabilities[:, label], mine, np.ones((1, len(labels))))[0]
        rows.append(
            ClassAgreement(class_name, agreement, float(of_requested[mine].mean()), None if mine.all() else float(area))
        )
    auroc, auroc_interval = None, None
    if len(rows) == len(classes):
        # Of two classes both one-against-rest areas are the same: the probabilities add up to one.
        auroc = float(np.mean([row.auroc for row in rows]))
        weights = resample_weights(groups, NUM_RESAMPLES, generator)
        auroc_interval = interval(bootstrap_auroc(probabilities[None], labels, 1, weights)[0])
    return LabelScores(
        name,
        share_interval(int(np.trace(confusion)), len(labels), units=count_units(groups)),
        float(of_requested.mean()),
        auroc,
        auroc_interval,
        tuple(map(tuple, confusion.tolist())),
        tuple(rows),
    )


def _check_fits(images: ImageSet, classes: Classes, size: tuple[int, int]) -> None:
    if not len(images):
        raise DataError(f"{images.name} has no images")
    if images.classes != classes:
        raise DataError(
            f"the classes differ: {', '.join(classes)} in real images, {', '.join(images.classes)} in {images.name}",
            "names and order must be the same",
        )
    if images.size != size:
        raise DataError(f"{images.name} has images of {images.size} pixels, the real ones have {size}")


def _check_separate(train: ImageSet, held_out: ImageSet) -> None:
    shared = (set(train.groups) & set(held_out.groups)) - {""} or set(train.keys) & set(held_out.keys)
    if shared:
        raise DataError(
            f"{held_out.name} shares {len(shared)} patient(s) or image(s) with {train.name}: {min(shared)}",
            SEEN,
        )
    if count_shared(held_out, train) == len(held_out):
        raise DataError(f"all {len(held_out)} images of {held_out.name} are images of {train.name}", SEEN)
