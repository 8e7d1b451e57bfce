"""Rules of the comparison's report: numbers, table rows, CSV and ROC plot."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from synthmed.classifier.config import ClassifierConfig
from synthmed.classifier.training import Placement
from synthmed.data.labels import Classes
from synthmed.data.shards.read import ShardFolder
from synthmed.data.shards.samples import Entry
from synthmed.study.comparison import Comparison, Training
from synthmed.study.folders import ComparisonFolders
from synthmed.study.results import (
    ARM_COLUMNS,
    DIFFERENCE_COLUMNS,
    arm_rows,
    comparison_results,
    difference_rows,
    draw_roc,
    predictions_csv,
)

COUNT = 60


def folder(split: str, *, groups: bool = True) -> ShardFolder:
    entries = tuple(
        Entry(Path("x.tar"), f"{split}{n}", 0, 1, "png", n % 2, f"p{n // 2}" if groups else "") for n in range(COUNT)
    )
    return ShardFolder(
        Path(split), split, "squares", Classes(("healthy", "ill"), positive="ill"), "real", entries, "0" * 64
    )


def comparison(arms=("real", "both"), repetitions=2, **options) -> Comparison:
    folders = ComparisonFolders({"real": folder("train")}, folder("test", **options), ())
    placement = Placement(torch.device("cpu"), torch.float32)
    return Comparison(folders, ClassifierConfig(), tuple(arms), repetitions, 64, placement, None, None)


def training(arm: str, repetition: int, skill: float) -> Training:
    labels = np.arange(COUNT) % 2
    scores = np.random.default_rng(repetition).normal(size=COUNT) + skill * labels
    ill = 1 / (1 + np.exp(-scores))
    return Training(arm, repetition, np.stack([1 - ill, ill], axis=1), 0.5, 1.0)


@pytest.fixture
def trainings() -> list[Training]:
    return [training(arm, number, skill) for number in range(2) for arm, skill in (("real", 1), ("both", 2))]


def test_mean_and_spread_are_those_of_the_trainings(trainings):
    found = comparison_results(comparison(), trainings)["arms"]["real"]
    scores = [run["auroc"] for run in found["trainings"]]
    assert found["auroc_mean"] == pytest.approx(np.mean(scores))
    assert found["auroc_std"] == pytest.approx(np.std(scores, ddof=1))
    low, high = found["auroc_interval"]
    assert low < found["auroc_mean"] < high
    # The mean of two trainings is known better than each of them.
    assert high - low < max(run["auroc_interval"][1] - run["auroc_interval"][0] for run in found["trainings"])


def test_paired_difference_is_known_better_than_its_parts(trainings):
    results = comparison_results(comparison(), trainings)
    difference, arms = results["differences"]["both - real"], results["arms"]
    assert difference["mean"] == pytest.approx(arms["both"]["auroc_mean"] - arms["real"]["auroc_mean"])
    low, high = difference["interval"]
    assert 0 < low < difference["mean"] < high
    assert high - low < arms["real"]["auroc_interval"][1] - arms["real"]["auroc_interval"][0]


def test_same_trainings_give_the_same_intervals(trainings):
    assert comparison_results(comparison(), trainings) == comparison_results(comparison(), trainings)


def test_without_groups_images_are_resampled(trainings):
    assert comparison_results(comparison(), trainings)["bootstrap"]["num_units"] == COUNT // 2
    facts = comparison_results(comparison(groups=False), trainings)["bootstrap"]
    assert (facts["unit"], facts["num_units"]) == ("image", COUNT)


def test_single_seed_has_no_spread_and_results_are_strict_json():
    results = comparison_results(comparison(["real"], 1), [training("real", 0, 1)])
    assert results["arms"]["real"]["auroc_std"] is None
    assert "±" not in str(arm_rows(results))
    json.dumps(results, allow_nan=False)


def test_rows_fit_their_columns(trainings):
    results = comparison_results(comparison(), trainings)
    assert [row[0] for row in arm_rows(results)] == ["real", "both"]
    assert all(len(row) == len(ARM_COLUMNS) for row in arm_rows(results))
    assert all(len(row) == len(DIFFERENCE_COLUMNS) for row in difference_rows(results))
    assert str(difference_rows(results)[0][1]).startswith("+")


def test_predictions_have_a_row_an_image_and_a_column_a_class(trainings):
    rows = list(csv.DictReader(io.StringIO(predictions_csv(comparison(), trainings).decode())))
    assert len(rows) == len(trainings) * COUNT
    assert list(rows[0]) == [
        "arm",
        "repetition",
        "key",
        "group",
        "label",
        "probability_healthy",
        "probability_ill",
    ]
    assert float(rows[1]["probability_ill"]) == pytest.approx(trainings[0].probabilities[1, 1], abs=1e-6)


def test_roc_plot_is_a_png_with_a_line_an_arm_and_the_same_every_time(trainings):
    results = comparison_results(comparison(), trainings)
    data = draw_roc(comparison(), trainings, results)
    image = Image.open(io.BytesIO(data)).convert("RGB")
    assert image.size == (900, 900)
    colours = set(map(tuple, np.unique(np.asarray(image).reshape(-1, 3), axis=0).tolist()))
    assert {(0, 0x72, 0xB2), (0, 0x9E, 0x73)} <= colours and (0xD5, 0x5E, 0) not in colours
    assert data == draw_roc(comparison(), trainings, results)
