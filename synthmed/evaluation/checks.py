"""What is wrong with generated images beyond their scores: each check on the sets that it needs, as JSON values.

Where a set is too small for a check, or there are no held-out images, that check is left out and the evaluation goes
on: the reason is logged and kept in the notes.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from synthmed.classifier.training import Placement
from synthmed.data.images import encode_image
from synthmed.data.sets.image_set import ImageSet
from synthmed.errors import DataError
from synthmed.evaluation.artefacts import EYE_DATASETS, check_discs, check_grid
from synthmed.evaluation.config import EvaluateRequest
from synthmed.evaluation.copies import find_copies
from synthmed.evaluation.copy_spaces import CopyFeatures
from synthmed.evaluation.duplicates import check_duplicates
from synthmed.evaluation.label_classifier import LABEL_CLASSIFIER
from synthmed.evaluation.labels import check_labels
from synthmed.evaluation.ratios import check_ratios
from synthmed.evaluation.report import picture_path
from synthmed.evaluation.sets import EvaluationSets
from synthmed.evaluation.sheets import draw_pairs
from synthmed.files.atomic import write_bytes
from synthmed.runtime import device as devices
from synthmed.runtime.progress import log
from synthmed.runtime.seeds import numpy_generator

Json = dict[str, Any]
Notes = dict[str, str]
"""Check -> why it was not made."""
PHANTOMS = "phantom-fundus"


def copies(
    request: EvaluateRequest,
    sets: EvaluationSets,
    features: Sequence[CopyFeatures | None],
    device: torch.device,
    notes: Notes,
) -> dict[str, Json]:
    """Return which images of each generated set are suspiciously near to training images, and draw the closest."""
    if not _asked("copies", request, sets, notes) or sets.training is None or sets.held_out is None:
        return {}
    found: dict[str, Json] = {}
    for images, its_features in zip(sets.generated, features, strict=True):
        log(f"looking for training images in {images.name}")
        with _noted(f"copies in {images.name}", notes):
            report = find_copies(
                training=sets.training,
                held_out=sets.held_out,
                generated=images,
                features=its_features,
                false_alarm_rate=request.config.false_alarms,
                generator=numpy_generator(request.config.seed, "copies"),
                device=device,
            )
            found[images.name] = dataclasses.asdict(report)
            if request.sheets:
                sheet = draw_pairs(report, training=sets.training, generated=images)
                write_bytes(picture_path(request.output, "copies", images.name), encode_image(sheet, "png"))
    return found


def labels(request: EvaluateRequest, sets: EvaluationSets, device: torch.device, notes: Notes) -> Json | None:
    """Return how requested labels agree with a classifier, and in phantoms with measured cup-to-disc ratios."""
    if not _asked("labels", request, sets, notes) or sets.training is None or sets.held_out is None:
        return None
    log("reading labels with a classifier of real images")
    with _noted("labels", notes):
        report = check_labels(
            train=sets.training,
            held_out=sets.held_out,
            generated={images.name: images for images in sets.generated},
            folder=request.output,
            placement=Placement(device, devices.select_dtype("auto", device)),
            config=LABEL_CLASSIFIER,
        )
        measured = (sets.held_out, *sets.generated) if sets.real.dataset == PHANTOMS else ()
        ratios = {images.name: dataclasses.asdict(check_ratios(images)) for images in measured}
        return {**dataclasses.asdict(report), "cup_to_disc": ratios}
    return None


def artefacts(request: EvaluateRequest, sets: EvaluationSets, notes: Notes) -> dict[str, Json]:
    """Return grid patterns, missing or surplus optic discs and near-duplicates of each generated set."""
    if "artefacts" not in request.config.checks:
        return {}
    found: dict[str, Json] = {}
    for images in sets.generated:
        log(f"looking for artefacts in {images.name}")
        with _noted(f"artefacts in {images.name}", notes):
            found[images.name] = _artefacts(sets.real, images, request.config.seed)
    return found


def _artefacts(real: ImageSet, generated: ImageSet, seed: int) -> Json:
    grid = check_grid(real=real, generated=generated, generator=numpy_generator(seed, "grid"))
    duplicates = check_duplicates(real=real, generated=generated)
    found = {
        "grid": {**dataclasses.asdict(grid), "has_grid": grid.has_grid},
        "duplicates": {**dataclasses.asdict(duplicates), "has_duplicates": duplicates.has_duplicates},
    }
    if real.dataset in EYE_DATASETS:
        discs = check_discs(real=real, generated=generated, generator=numpy_generator(seed, "discs"))
        found["optic_discs"] = {**dataclasses.asdict(discs), "has_faults": discs.has_faults}
    return found


def _asked(check: str, request: EvaluateRequest, sets: EvaluationSets, notes: Notes) -> bool:
    """Say whether a check is asked for, and has the training and the held-out images that it needs."""
    if check not in request.config.checks:
        return False
    with _noted(check, notes):
        if sets.training is None or sets.held_out is None:
            raise DataError("there are no training or no held-out images", "name them with --training and --held-out")
        return True
    return False


@contextlib.contextmanager
def _noted(check: str, notes: Notes) -> Iterator[None]:
    """Note why a check cannot be made, and go on."""
    try:
        yield
    except DataError as error:
        notes[check] = str(error)
        log(f"{check}: not looked into: {error}")
