"""One evaluation from end to end: open and check everything, features once, all figures from them, then pictures."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import comb
from typing import Any

import torch
from torch import Tensor

from synthmed.data.sets.image_set import ImageSet
from synthmed.evaluation import checks, report
from synthmed.evaluation import results as values
from synthmed.evaluation.config import RESULTS_FILE, EvaluateRequest
from synthmed.evaluation.copy_spaces import CopyFeatures
from synthmed.evaluation.detail_tables import brightness_findings
from synthmed.evaluation.feature_cache import features
from synthmed.evaluation.identical import count_identical, count_shared, findings
from synthmed.evaluation.inputs import Inputs, open_inputs
from synthmed.evaluation.notes import Notes
from synthmed.evaluation.scores import (
    Featured,
    difference_rows,
    diversity_rows,
    frechet_curve,
    kid_rows,
    num_score_rows,
    score_rows,
)
from synthmed.evaluation.sets import compared_sets, open_sets
from synthmed.features.extractor import Extractor, FeatureExtractor, open_extractor
from synthmed.files.atomic import write_json
from synthmed.files.content import hash_json
from synthmed.metrics.scores import SCORES
from synthmed.runtime import device as devices
from synthmed.runtime import version
from synthmed.runtime.processes import Processes, join_processes
from synthmed.runtime.progress import log, progress

Json = dict[str, Any]


class MirroredExtractor:
    """The features of images flipped from left to right, in which mirrored copies are found."""

    def __init__(self, extractor: FeatureExtractor) -> None:
        self.extractor = extractor
        self.name, self.num_features = f"{extractor.name}, mirrored", extractor.num_features
        self.fingerprint = hash_json({"mirrored": extractor.fingerprint})

    def __call__(self, images: Tensor) -> Tensor:
        return self.extractor(images.flip(-1))


class Evaluation:
    """What one run works with: settings, sets and extractors."""

    def __init__(self, request: EvaluateRequest, inputs: Inputs, processes: Processes, device: torch.device) -> None:
        self.request, self.config = request, request.config
        self.processes, self.device = processes, device
        # Before any image is read, so that a broken file of weights is reported at once.
        self.extractors = open_extractors(request, device)
        self.sets = open_sets(request, inputs)
        self.real, self.generated = compared_sets(self.sets, balanced=self.config.balanced, seed=self.config.seed)

    def featured(self, images: ImageSet, extractor: Extractor) -> Featured:
        """Return a set with its features, from the cache if they are there."""
        found = features(
            images,
            extractor,
            cache=self.request.cache,
            batch_size=self.request.batch_size,
            device=self.device,
            processes=self.processes,
        )
        return Featured(images, found)


def evaluate(request: EvaluateRequest, inputs: Inputs | None = None) -> Json | None:
    """Evaluate generated sets, write results.json and pictures, and return the results.

    Several processes started by torchrun share the features; the first one does the rest, the others get `None`.

    Args:
        request: What is asked for.
        inputs: Of this request, if they are already open; see `open_inputs`, whose errors are raised too.

    Raises:
        UsageError: Names that do not exist.
        DataError: An image is broken, or an earlier result was made otherwise.
        CheckpointError: Weights are missing or broken.
        DeviceError: Memory is used up.
        Interrupted: A signal came; features and the label classifier are kept.
    """
    inputs = inputs or open_inputs(request)
    device = devices.select_device(request.device)
    devices.configure(device)
    with join_processes(device) as (processes, own_device):
        evaluation = Evaluation(request, inputs, processes, own_device)
        results = _describe(evaluation)
        for path, baseline in inputs.baselines.items():
            values.check_baseline(path, baseline, results)
        found = _compute_features(evaluation)
    if not processes.main:
        return None
    notes, sets = Notes(), evaluation.sets
    results |= _scores(evaluation, found, notes)
    copy_features = next((features_of.copies for features_of in found.values()), [])
    results["copies"] = checks.copies(request, sets, copy_features, device, notes)
    results["labels"] = checks.labels(request, sets, device, notes)
    results["artefacts"] = checks.artefacts(request, sets, notes)
    results |= checks.detail(request, sets, notes)
    for baseline in inputs.baselines.values():
        values.add_baseline(results, baseline)
    results["not_looked_into"] = notes
    results["findings"] = findings(results) + brightness_findings(results["brightness"])
    write_json(request.output / RESULTS_FILE, results)
    _draw(evaluation, found, results)
    return results


def open_extractors(request: EvaluateRequest, device: torch.device) -> dict[str, FeatureExtractor]:
    """Return by name the extractors that the requested checks need.

    Raises:
        UsageError: timm has no such model.
        CheckpointError: Weights are missing or broken.
    """
    return {
        name: open_extractor(name, weights=request.weights.get(name), device=device, download=request.download)
        for name in request.needed_extractors
    }


def _describe(evaluation: Evaluation) -> Json:
    """Return what results say of the sets, the extractors and the settings."""
    sets = evaluation.sets
    real = values.describe_set(evaluation.real)
    generated = [values.describe_set(images) for images in evaluation.generated]
    extractors = {name: values.describe_extractor(found) for name, found in evaluation.extractors.items()}
    held_out = None
    if sets.held_out is not None:
        leaked = 0 if sets.training is None else count_shared(sets.held_out, sets.training)
        held_out = {**values.describe_set(sets.held_out), "num_in_training": leaked}
    return {
        "synthmed_version": version.__version__,
        "settings": asdict(evaluation.config),
        "real": real,
        "generated": generated,
        "training": None if sets.training is None else values.describe_set(sets.training),
        "held_out": held_out,
        "identical": {images.name: asdict(count_identical(images, sets)) for images in sets.generated},
        "features": extractors,
        "conditions": values.conditions(real, generated, extractors),
    }


@dataclass(frozen=True)
class _Found:
    """Features on one extractor: of the scored parts of the sets, and for copies of all images."""

    real: Featured
    generated: list[Featured]
    copies: list[CopyFeatures]
    """One per generated set; empty where copies are not looked for."""


def _compute_features(evaluation: Evaluation) -> dict[str, _Found]:
    """Return the features that all checks need, by extractor."""
    sets = evaluation.sets
    found: dict[str, _Found] = {}
    for name, extractor in evaluation.extractors.items():
        whole = [evaluation.featured(images, extractor) for images in (sets.real, *sets.generated)]
        parts = [one.part(images) for one, images in zip(whole, (evaluation.real, *evaluation.generated), strict=True)]
        copies: list[CopyFeatures] = []
        # One extractor is enough: each further one would need more held-out images for the same rate of false alarms.
        if not found and "copies" in evaluation.config.checks:
            training = evaluation.featured(sets.searched, extractor).features
            mirrored = evaluation.featured(sets.searched, MirroredExtractor(extractor)).features
            held_out = None if sets.held_out is None else evaluation.featured(sets.held_out, extractor).features
            copies = [CopyFeatures(name, training, mirrored, held_out, one.features) for one in whole[1:]]
        found[name] = _Found(parts[0], parts[1:], copies)
    return found


def _draw(evaluation: Evaluation, found: dict[str, _Found], results: Json) -> None:
    """Write all pictures but the sheets of copies."""
    output = evaluation.request.output
    if evaluation.request.sheets:
        generated = {images.name: images for images in evaluation.generated}
        report.write_examples(output, real=evaluation.real, generated=generated)
        log(f"pictures in {output} show real images: treat them like the data; --no-sheets leaves those out")
    for name, features_of in found.items() if results["scores"] else ():
        report.write_score_pictures(output, name, results, features_of.real, features_of.generated)
    report.write_spectra(output, results["artefacts"])


def _scores(evaluation: Evaluation, found: dict[str, _Found], notes: Notes) -> Json:
    """Return all scores on all extractors; empty lists where they are not asked for, or have no values."""
    scores: Json = {"scores": [], "kid_subsets": [], "differences": [], "diversity": [], "curves": []}
    if "scores" not in evaluation.config.checks:
        return scores
    seed = evaluation.config.seed
    for name, features_of in found.items():
        real, generated = features_of.real, features_of.generated
        for one in generated:
            what = f"scoring {one.images.name} on {name} features"
            log(what)
            with progress(what, num_score_rows(one.images), "scores") as advance:
                for row in score_rows(real, one, seed, notes):
                    scores["scores"].append(values.row_values(row, features=name))
                    advance(1)
            scores["kid_subsets"] += [values.row_values(row, features=name) for row in kid_rows(real, one, seed)]
            with notes.noted(f"Fréchet distance against the number of images of {one.images.name}"):
                scores["curves"].append(values.row_values(frechet_curve(real, one, seed), features=name))
        with progress("permutation tests", comb(len(generated), 2) * len(SCORES), "scores") as advance:
            for difference in difference_rows(real, generated, seed, notes):
                scores["differences"].append(values.row_values(difference, features=name))
                advance(1)
    for images in (evaluation.real, *evaluation.generated):
        scores["diversity"] += [values.row_values(row) for row in diversity_rows(images, seed, notes)]
    return scores
