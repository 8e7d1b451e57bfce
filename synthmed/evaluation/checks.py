"""What is wrong with generated images beyond their scores: each check on the sets that it needs, as JSON values.

Where a set is too small for a check, or there are no held-out images, that check is left out and the evaluation goes
on: the reason is logged and kept in the notes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch

from synthmed.classifier.training import Placement
from synthmed.data.sets.image_set import ImageSet
from synthmed.errors import DataError
from synthmed.evaluation.artefacts import EYE_DATASETS, check_discs, check_grid
from synthmed.evaluation.config import DISCS, EvaluateRequest
from synthmed.evaluation.copies import find_copies
from synthmed.evaluation.copy_spaces import CopyFeatures
from synthmed.evaluation.detail import band_rows, brightness_rows, measure
from synthmed.evaluation.duplicates import check_duplicates
from synthmed.evaluation.identical import count_identical, set_findings
from synthmed.evaluation.label_classifier import LABEL_CLASSIFIER
from synthmed.evaluation.labels import check_labels
from synthmed.evaluation.notes import Notes
from synthmed.evaluation.ratios import check_ratios
from synthmed.evaluation.report import write_pairs
from synthmed.evaluation.results import row_values
from synthmed.evaluation.sets import EvaluationSets
from synthmed.runtime import device as devices
from synthmed.runtime.progress import log
from synthmed.runtime.seeds import numpy_generator

Json = dict[str, Any]
PHANTOMS = "phantom-fundus"


def copies(
    request: EvaluateRequest,
    sets: EvaluationSets,
    features: Sequence[CopyFeatures | None],
    device: torch.device,
    notes: Notes,
) -> dict[str, Json]:
    """Return which images of each generated set are suspiciously near to training images, and draw the closest."""
    if "copies" not in request.config.checks:
        return {}
    found: dict[str, Json] = {}
    for images, its_features in zip(sets.generated, features, strict=True):
        log(f"looking for images of {sets.searched.name} in {images.name}")
        with notes.noted(f"copies in {images.name}"):
            report = find_copies(
                training=sets.searched,
                held_out=sets.held_out,
                generated=images,
                features=its_features,
                false_alarm_rate=request.config.false_alarms,
                generator=numpy_generator(request.config.seed, "copies"),
                device=device,
            )
            found[images.name] = {"searched": sets.searched.name, **dataclasses.asdict(report)}
            said = set_findings(dataclasses.asdict(count_identical(images, sets)), found[images.name])
            if report.unranked:
                notes.add(f"suspected copies in {images.name}", report.unranked)
            for score, why in (report.features.missing if report.features else {}).items():
                notes.add(f"{score}, for {images.name}", why)
            if request.sheets:
                write_pairs(request.output, report, sets, images, said)
    return found


def labels(request: EvaluateRequest, sets: EvaluationSets, device: torch.device, notes: Notes) -> Json | None:
    """Return how requested labels agree with a classifier, and in phantoms with measured cup-to-disc ratios."""
    if "labels" not in request.config.checks:
        return None
    with notes.noted("labels"):
        if sets.training is None or sets.held_out is None:
            raise DataError("there are no training or no held-out images", "name them with --training and --held-out")
        log("reading labels with a classifier of real images")
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
    asked, seed = request.config.checks, request.config.seed
    discs = DISCS in asked or ("artefacts" in asked and sets.real.dataset in EYE_DATASETS)
    found: dict[str, Json] = {images.name: {} for images in sets.generated}
    for images in sets.generated if discs or "artefacts" in asked else ():
        log(f"looking for artefacts in {images.name}")
        parts = found[images.name]
        if "artefacts" in asked:
            with notes.noted(f"grid patterns in {images.name}"):
                parts["grid"] = _grid(sets.real, images, seed)
            with notes.noted(f"grid patterns in held-out images, for {images.name}"):
                parts["real_grid"] = _grid(sets.real, _as_many(_other_real(sets), len(images)), seed)
            with notes.noted(f"near-duplicates in {images.name}"):
                duplicates = check_duplicates(real=sets.real, generated=images)
                parts["duplicates"] = {**dataclasses.asdict(duplicates), "has_duplicates": duplicates.has_duplicates}
        if discs:
            with notes.noted(f"optic discs in {images.name}"):
                counted = check_discs(real=sets.real, generated=images, generator=numpy_generator(seed, "discs"))
                parts["optic_discs"] = {**dataclasses.asdict(counted), "has_faults": counted.has_faults}
    return {name: parts for name, parts in found.items() if parts}


def detail(request: EvaluateRequest, sets: EvaluationSets, notes: Notes) -> dict[str, list[Json]]:
    """Return the power by band and the brightness of each generated set against those of real images."""
    found: dict[str, list[Json]] = {"bands": [], "brightness": []}
    if "artefacts" not in request.config.checks:
        return found
    log(f"measuring detail and brightness of {', '.join(images.name for images in (sets.real, *sets.generated))}")
    real, seed = measure(sets.real), request.config.seed
    for images in sets.generated:
        with notes.noted(f"detail and brightness of {images.name}"):
            made = measure(images)
            found["bands"] += map(row_values, band_rows(real, made, seed, notes))
            for row in brightness_rows(real, made, seed, notes):
                found["brightness"].append({**dataclasses.asdict(row), "has_fault": row.has_fault})
    return found


def _grid(real: ImageSet, images: ImageSet, seed: int) -> Json:
    grid = check_grid(real=real, generated=images, generator=numpy_generator(seed, "grid"))
    return {**dataclasses.asdict(grid), "has_grid": grid.has_grid, "num_images": len(images)}


def _other_real(sets: EvaluationSets) -> ImageSet:
    """Return real images that are not those of the reference."""
    for images in (sets.held_out, sets.training):
        if images is not None and images is not sets.real:
            return images
    raise DataError("there are no real images but those of --real", "name others with --held-out")


def _as_many(images: ImageSet, count: int) -> ImageSet:
    """Return so many images of a set, or all: the first ones, for sets are in no meaningful order."""
    return images.subset(range(min(count, len(images))))
