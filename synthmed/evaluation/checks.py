"""What is wrong with generated images, beyond their scores: each check with the sets that it needs, as JSON values."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch

from synthmed import device as devices
from synthmed.classifier.training import Placement
from synthmed.data.images import encode_image
from synthmed.evaluation.artefacts import EYE_DATASETS, check_discs, check_duplicates, check_grid
from synthmed.evaluation.config import EvaluateRequest
from synthmed.evaluation.copies import draw_pairs, find_copies
from synthmed.evaluation.copy_spaces import CopyFeatures
from synthmed.evaluation.labels import LABEL_CLASSIFIER, check_labels
from synthmed.evaluation.ratios import check_ratios
from synthmed.evaluation.report import picture_path
from synthmed.evaluation.sets import EvaluationSets
from synthmed.progress import log
from synthmed.runs import write_bytes
from synthmed.seeds import numpy_generator

Json = dict[str, Any]
PHANTOMS = "phantom-fundus"


def copies(
    request: EvaluateRequest, sets: EvaluationSets, features: Sequence[CopyFeatures | None], device: torch.device
) -> dict[str, Json]:
    """Return which images of each generated set are suspiciously near to training images, and draw the closest."""
    if not _asked("copies", request, sets) or sets.training is None or sets.held_out is None:
        return {}
    found = {}
    for images, its_features in zip(sets.generated, features, strict=True):
        log(f"looking for training images in {images.name}")
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


def labels(request: EvaluateRequest, sets: EvaluationSets, device: torch.device) -> Json | None:
    """Return how requested labels agree with what a classifier of real images sees, and in phantoms a ruler."""
    if not _asked("labels", request, sets) or sets.training is None or sets.held_out is None:
        return None
    if len(sets.training.classes) < 2:
        log("labels: not looked into, there is only one class")
        return None
    log("reading labels with a classifier of real images")
    report = check_labels(
        train=sets.training,
        held_out=sets.held_out,
        generated={images.name: images for images in sets.generated},
        folder=request.output,
        placement=Placement(device, devices.select_dtype("auto", device)),
        config=LABEL_CLASSIFIER,
    )
    ratios = {}
    if sets.real.dataset == PHANTOMS:
        ratios = {images.name: dataclasses.asdict(check_ratios(images)) for images in (sets.held_out, *sets.generated)}
    return {**dataclasses.asdict(report), "cup_to_disc": ratios}


def artefacts(request: EvaluateRequest, sets: EvaluationSets) -> dict[str, Json]:
    """Return grid patterns, wrong numbers of optic discs and near-duplicates of each generated set."""
    if "artefacts" not in request.config.checks:
        return {}
    found: dict[str, Json] = {}
    for images in sets.generated:
        log(f"looking for artefacts in {images.name}")
        compared = {"real": sets.real, "generated": images}
        grid = check_grid(**compared, generator=numpy_generator(request.config.seed, "grid"))
        duplicates = check_duplicates(**compared)
        found[images.name] = {
            "grid": {**dataclasses.asdict(grid), "has_grid": grid.has_grid},
            "duplicates": {**dataclasses.asdict(duplicates), "has_duplicates": duplicates.has_duplicates},
        }
        if sets.real.dataset in EYE_DATASETS:
            discs = check_discs(**compared, generator=numpy_generator(request.config.seed, "discs"))
            found[images.name]["optic_discs"] = {**dataclasses.asdict(discs), "has_faults": discs.has_faults}
    return found


def _asked(check: str, request: EvaluateRequest, sets: EvaluationSets) -> bool:
    """Say whether a check that needs real images on both sides is asked for; say aloud if they are not there."""
    if check not in request.config.checks:
        return False
    if missing := sets.training is None or sets.held_out is None:
        log(f"{check}: not looked into, for want of training or held-out images (--training, --held-out)")
    return not missing
