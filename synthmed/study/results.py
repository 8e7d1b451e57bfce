"""Results of a classifier comparison: figures, table rows, files and ROC plot."""

from __future__ import annotations

import csv
import io
import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import torchmetrics

from synthmed.data.shards.read import ShardFolder
from synthmed.files.atomic import write_bytes, write_json
from synthmed.metrics.statistics import (
    LEVEL,
    NUM_RESAMPLES,
    Floats,
    auroc,
    balanced_accuracy,
    bootstrap_auroc,
    count_units,
    format_spread,
    interval,
    mean_roc_curve,
    resample_weights,
    summarise,
)
from synthmed.plots import (
    GENERATED_COLOURS,
    LEGEND_SIZE,
    REAL_COLOUR,
    REFERENCE,
    figure_png,
    finish_axes,
    new_figure,
    plain,
)
from synthmed.runtime import version
from synthmed.runtime.seeds import numpy_generator
from synthmed.study.comparison import Comparison, Training

RESULTS_FILE = "results.json"
PREDICTIONS_FILE = "predictions.csv"
ROC_FILE = "roc.png"

ARM_COLUMNS = ("arm", "AUROC", "95 % interval", "each seed", "balanced accuracy", "training loss")
DIFFERENCE_COLUMNS = ("difference", "AUROC", "95 % interval")
ARM_COLOURS = {"real": REAL_COLOUR, "synthetic": GENERATED_COLOURS[0], "both": GENERATED_COLOURS[1]}


def comparison_results(comparison: Comparison, trainings: Sequence[Training]) -> dict[str, Any]:
    """Return all results of a comparison, its settings and its data, as JSON values.

    Intervals come from resampling the test patients (images, where the shards name no groups), the same resamples in
    every training. They say how much a result would change with another test set; the spread over seeds says how much
    with another training.
    """
    test, positive = comparison.folders.test, comparison.folders.classes.positive_label
    groups, labels = [entry.group for entry in test.entries], _labels(test)
    weights = resample_weights(groups, NUM_RESAMPLES, numpy_generator(comparison.config.seed, "bootstrap"))
    by_arm = {arm: [training for training in trainings if training.arm == arm] for arm in comparison.arms}
    resampled = {
        arm: bootstrap_auroc([training.probabilities for training in done], labels, positive, weights)
        for arm, done in by_arm.items()
    }
    arms = {arm: _arm_results(done, labels, positive, resampled[arm]) for arm, done in by_arm.items()}
    return {
        "arms": arms,
        "differences": _differences(arms, resampled),
        "bootstrap": {
            "level": LEVEL,
            "num_resamples": NUM_RESAMPLES,
            "unit": "group" if any(groups) else "image",
            "num_units": count_units(groups),
        },
        "classes": list(comparison.folders.classes),
        "positive": comparison.folders.classes[positive],
        "settings": comparison.fingerprint(),
        "data": {"test": _folder_facts(test), **{k: _folder_facts(v) for k, v in comparison.folders.train.items()}},
        "versions": {
            "synthmed": version.__version__,
            "python": platform.python_version(),
            **{library.__name__: library.__version__ for library in (torch, timm, torchmetrics)},
        },
    }


def _labels(folder: ShardFolder) -> list[int]:
    return [entry.label for entry in folder.entries]


def _arm_results(
    trainings: Sequence[Training], labels: Sequence[int], positive: int, resampled: Floats
) -> dict[str, Any]:
    scores = [auroc(training.probabilities, labels, positive) for training in trainings]
    summary = summarise(scores)
    return {
        "auroc_mean": summary.mean,
        "auroc_std": summary.std,
        "auroc_interval": list(interval(resampled.mean(axis=0))),
        "balanced_accuracy_mean": summarise([balanced_accuracy(run.probabilities, labels) for run in trainings]).mean,
        "final_loss_mean": summarise([run.final_loss for run in trainings]).mean,
        "trainings": [
            {
                "repetition": training.repetition,
                "auroc": score,
                "auroc_interval": list(interval(row)),
                "balanced_accuracy": balanced_accuracy(training.probabilities, labels),
                "final_loss": training.final_loss,
                "duration_sec": training.duration_sec,
            }
            for training, score, row in zip(trainings, scores, resampled, strict=True)
        ],
    }


def _differences(arms: Mapping[str, Any], resampled: Mapping[str, Floats]) -> dict[str, Any]:
    """Return each other arm minus `real`, paired: both are measured on the same resamples of the test images."""
    if "real" not in arms:
        return {}
    return {
        f"{arm} - real": {
            "mean": arms[arm]["auroc_mean"] - arms["real"]["auroc_mean"],
            "interval": list(interval(resampled[arm].mean(axis=0) - resampled["real"].mean(axis=0))),
        }
        for arm in arms
        if arm != "real"
    }


def _folder_facts(folder: ShardFolder) -> dict[str, Any]:
    counts = Counter(_labels(folder))
    return {
        "folder": str(folder.folder),
        "split": folder.split,
        "dataset": folder.dataset,
        "kind": folder.kind,
        "content_hash": folder.content_hash,
        "num_images": {name: counts[label] for label, name in enumerate(folder.classes)},
    }


def arm_rows(results: Mapping[str, Any]) -> list[tuple[object, ...]]:
    """Return one table row per arm, for `ARM_COLUMNS`."""
    return [
        (
            arm,
            format_spread(found["auroc_mean"], found["auroc_std"]),
            "{:.3f} to {:.3f}".format(*found["auroc_interval"]),
            ", ".join(f"{training['auroc']:.3f}" for training in found["trainings"]),
            f"{found['balanced_accuracy_mean']:.3f}",
            f"{found['final_loss_mean']:.3f}",
        )
        for arm, found in results["arms"].items()
    ]


def difference_rows(results: Mapping[str, Any]) -> list[tuple[object, ...]]:
    """Return one table row per paired difference, for `DIFFERENCE_COLUMNS`."""
    return [
        (name, f"{found['mean']:+.3f}", "{:+.3f} to {:+.3f}".format(*found["interval"]))
        for name, found in results["differences"].items()
    ]


def write_comparison(
    folder: Path, comparison: Comparison, trainings: Sequence[Training], results: Mapping[str, Any]
) -> None:
    """Write the results, the prediction for every test image, and the ROC plot."""
    write_bytes(folder / PREDICTIONS_FILE, predictions_csv(comparison, trainings))
    write_bytes(folder / ROC_FILE, draw_roc(comparison, trainings, results))
    write_json(folder / RESULTS_FILE, results)


def predictions_csv(comparison: Comparison, trainings: Sequence[Training]) -> bytes:
    """Return the probabilities of every test image in every training as CSV, one column per class."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    classes = comparison.folders.classes
    writer.writerow(["arm", "repetition", "key", "group", "label", *(f"probability_{name}" for name in classes)])
    for training in trainings:
        for entry, row in zip(comparison.folders.test.entries, training.probabilities, strict=True):
            probabilities = (f"{value:.6g}" for value in row)
            writer.writerow([training.arm, training.repetition, entry.key, entry.group, entry.label, *probabilities])
    return text.getvalue().encode()


def draw_roc(comparison: Comparison, trainings: Sequence[Training], results: Mapping[str, Any]) -> bytes:
    """Return the ROC plot as PNG: one line per arm, the mean over its trainings, and the diagonal of chance."""
    figure = new_figure(6, 6)
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], label="chance: 0.5", **REFERENCE)
    labels, positive = _labels(comparison.folders.test), comparison.folders.classes.positive_label
    for arm, found in results["arms"].items():
        probabilities = np.stack([training.probabilities for training in trainings if training.arm == arm])
        rates = mean_roc_curve(probabilities, labels, positive)
        score = format_spread(found["auroc_mean"], found["auroc_std"])
        axes.plot(*rates, color=ARM_COLOURS[arm], linewidth=2, label=f"{arm}: AUROC {score}")
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal")
    what = results["positive"] if len(results["classes"]) == 2 else "mean of one-against-rest"
    title = f"{plain(what)}: {comparison.config.model}, {len(labels)} test images"
    finish_axes(axes, "false positive rate (1 - specificity)", "true positive rate (sensitivity)", title)
    axes.legend(loc="lower right", fontsize=LEGEND_SIZE)
    return figure_png(figure)
