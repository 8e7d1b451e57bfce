"""The main job in five minutes, on drawn eyes: real shards, synthetic shards, and what the synthetic ones are worth.

"Real" here are phantoms, whose cup-to-disc ratio is known; the synthetic images come from the model that synthmed
brings, which was trained on other phantoms.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from synthmed.classifier.config import ClassifierConfig
from synthmed.classifier.training import Placement
from synthmed.data.pixels import to_rgb_arrays
from synthmed.data.prepare.prepare import PrepareConfig, prepare_release
from synthmed.data.sets.image_set import ImageSet, open_images
from synthmed.data.shards.read import open_folder
from synthmed.data.sheets import contact_sheet
from synthmed.evaluation.ratios import Ratios, check_ratios
from synthmed.files.atomic import atomic_file
from synthmed.files.content import hash_file
from synthmed.generators import registry
from synthmed.generators.families import read_header
from synthmed.phantoms.cup_to_disc import MEASUREMENT_ERROR
from synthmed.phantoms.drawing import BEST_AUROC
from synthmed.phantoms.release import phantom_release
from synthmed.production.plan import GenerateConfig
from synthmed.production.run import generate
from synthmed.runtime import device as devices
from synthmed.runtime.progress import log
from synthmed.study.arms import ARMS
from synthmed.study.comparison import Comparison, run_comparison
from synthmed.study.folders import open_comparison
from synthmed.study.results import comparison_results, write_comparison

DATASET = "phantom-fundus"
NUM_REAL = 800
NUM_SYNTHETIC = 256
# Other eyes than those the shipped model was trained on, which were drawn with seed 0.
DRAWING_SEED = 1000
CLASSIFIER = ClassifierConfig(model="resnet10t", steps=120, batch_size=32)
SHEET_COLUMNS = 8


@dataclass(frozen=True)
class DemoResult:
    """What the demo found."""

    comparison: dict[str, Any]
    ratios: tuple[Ratios, ...]
    ratio_auroc: dict[str, float | None]
    """By kind: AUROC of the measured ratio itself, a classifier without any training."""
    best_auroc: float
    sheet: Path


def run_demo(output: Path, *, device: str = "auto", seed: int = 0, overwrite: bool = False) -> DemoResult:
    """Prepare phantoms, generate, train classifiers, measure; every step goes on where it was stopped."""
    log(f"1/4 drawing {NUM_REAL} eyes with known cup-to-disc ratio into {output / 'real'}")
    settings = PrepareConfig(size=64, seed=DRAWING_SEED + seed)
    prepare_release(phantom_release(NUM_REAL), output / "real", settings, overwrite=overwrite)
    log(f"2/4 generating {NUM_SYNTHETIC} images with the model that synthmed brings into {output / 'synthetic'}")
    path = registry.embedded_model(DATASET)
    header = read_header(path)
    counts = (NUM_SYNTHETIC // 2, NUM_SYNTHETIC // 2)
    config = GenerateConfig(path, hash_file(path), header, counts, seed, header.preset)
    generate(config, output / "synthetic", device=device, overwrite=overwrite)
    log("3/4 training a small ResNet on real, on synthetic and on both, testing on real images")
    comparison = _compare(output, device, seed, overwrite)
    log("4/4 measuring the cup-to-disc ratio of every image")
    images = {kind: open_images(open_folder(output / kind, "train")) for kind in ("real", "synthetic")}
    measured = {kind: check_ratios(replace(found, name=kind)) for kind, found in images.items()}
    ratios = tuple(row for found in measured.values() for row in found.rows)
    scores = {kind: found.auroc for kind, found in measured.items()}
    sheet = output / "samples.png"
    _write_sheet(sheet, images)
    return DemoResult(comparison, ratios, scores, BEST_AUROC, sheet)


def _compare(output: Path, device: str, seed: int, overwrite: bool) -> dict[str, Any]:
    target = devices.select_device(device)
    comparison = Comparison(
        folders=open_comparison(output / "real", output / "synthetic"),
        config=CLASSIFIER,
        arms=ARMS,
        repetitions=1,
        size=None,
        placement=Placement(target, devices.select_dtype("auto", target)),
    )
    trainings = run_comparison(comparison, output / "classifier", overwrite=overwrite)
    results = comparison_results(comparison, trainings)
    write_comparison(output / "classifier", comparison, trainings, results)
    return results


def _write_sheet(path: Path, images: dict[str, ImageSet]) -> None:
    """Write a sheet with a row of real and a row of synthetic images for each label."""
    from PIL import Image

    chosen, titles = [], []
    for label, name in enumerate(images["real"].classes):
        for kind, found in images.items():
            shown = np.flatnonzero(found.labels == label)[:SHEET_COLUMNS]
            chosen.append(to_rgb_arrays(found.load(shown)))
            titles.append(f"{kind}: {name}")
    sheet = contact_sheet(np.concatenate(chosen), SHEET_COLUMNS, row_titles=titles)
    picture = Image.fromarray(sheet)
    with atomic_file(path) as file:
        # Twice the size: 64 pixels are small on a screen.
        picture.resize((picture.width * 2, picture.height * 2), Image.Resampling.NEAREST).save(file, format="png")


def measurement_note() -> str:
    """Return what the measurement is good for, in a sentence."""
    return f"the measurement's own mean error on drawn eyes is {MEASUREMENT_ERROR:.3f}"
