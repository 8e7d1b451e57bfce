"""The pictures of an evaluation as files in the output folder."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from synthmed.data.images import encode_image
from synthmed.data.sets.image_set import ImageSet
from synthmed.evaluation.copies import CopyReport
from synthmed.evaluation.overlap import draw_overlap
from synthmed.evaluation.pictures import Score, draw_scores, draw_sizes, draw_spectra
from synthmed.evaluation.results import COPY_SCORES, beside_real, score_title
from synthmed.evaluation.scores import ALL, Curve, Featured
from synthmed.evaluation.sets import EvaluationSets
from synthmed.evaluation.sheets import draw_examples, draw_pairs
from synthmed.files.atomic import write_bytes
from synthmed.metrics.feature_arrays import Floats
from synthmed.metrics.scores import SCORES
from synthmed.plots import write_figure

Json = dict[str, Any]


def picture_path(output: Path, kind: str, name: str) -> Path:
    """Return where the picture of something goes, under a name that every file system takes."""
    return output / f"{kind}-{re.sub('[^A-Za-z0-9_.]+', '-', name).strip('-.')}.png"


def write_examples(output: Path, *, real: ImageSet, generated: Mapping[str, ImageSet]) -> None:
    """Write samples.png: rows of real and of generated images of each class. It shows real patients."""
    write_bytes(output / "samples.png", encode_image(draw_examples(real=real, generated=generated), "png"))


def write_pairs(output: Path, report: CopyReport, sets: EvaluationSets, generated: ImageSet, said: list[str]) -> None:
    """Write copies-NAME.png: generated images beside the real ones nearest to them. It shows real patients.

    Args:
        output: The output folder.
        report: Of this set.
        sets: All sets.
        generated: The set.
        said: What was found, as lines for the picture.
    """
    figures = []
    if report.features:
        found = asdict(report.features)
        figures = [f"{title} {beside_real(found, name)}" for name, title in COPY_SCORES.items()]
    title = f"{generated.name} and the images of {sets.searched.name} nearest to it"
    sheet = draw_pairs(
        report,
        training=sets.searched,
        generated=generated,
        real_title="nearest real" if sets.training is None else "nearest real (training)",
        heading=[title, *said, *figures],
    )
    write_bytes(picture_path(output, "copies", generated.name), encode_image(sheet, "png"))


def write_score_pictures(output: Path, features: str, results: Json, real: Featured, generated: list[Featured]) -> None:
    """Write for one extractor the overlap of features, the scores as bars, and FID against sample size."""
    by_name = {one.images.name: one for one in generated}
    overlap = draw_overlap(
        real=real.features,
        generated={name: one.features for name, one in by_name.items()},
        extractor=features,
        classes=real.images.classes if len(real.images.classes) > 1 else (),
        real_labels=real.images.labels,
        generated_labels={name: one.images.labels for name, one in by_name.items()},
    )
    write_figure(picture_path(output, "pca", features), overlap)
    rows = [row for row in results["scores"] if (row["features"], row["label"]) == (features, ALL)]
    bars = []
    for name, score in SCORES.items():
        mine = [row for row in rows if row["score"] == name]
        if mine:
            found = {row["generated"]: (row["value"], row["low"], row["high"]) for row in mine}
            bars.append(Score(score_title(name, features), score.better, found, mine[0]["floor"]["mean"]))
    if bars:
        write_figure(picture_path(output, "scores", features), draw_scores(bars))
    mine = [row for row in results["curves"] if row["features"] == features]
    if curves := [Curve(**{name: row[name] for name in row if name != "features"}) for row in mine]:
        floors = [row["floor"] for row in rows if row["score"] == "fid"]
        floor = (floors[0]["num_generated"], floors[0]["mean"]) if floors else None
        figure = draw_sizes(curves, score=score_title("fid", features), floor=floor)
        write_figure(picture_path(output, "sizes", features), figure)


def write_spectra(output: Path, artefacts: Mapping[str, Json]) -> None:
    """Write spectra.png: mean power against frequency, real and generated."""
    spectra = {name: found["grid"] for name, found in artefacts.items() if "grid" in found}
    if not spectra:
        return
    first = next(iter(spectra))
    others = artefacts[first].get("real_grid")

    def power(decibels: list[float]) -> Floats:
        values: Floats = 10 ** (np.asarray(decibels)[1:] / 10)
        return values

    # Frequency zero, the mean grey value, is left out: the axes are logarithmic.
    figure = draw_spectra(
        np.asarray(spectra[first]["frequencies"])[1:],
        real=power(spectra[first]["real_db"]),
        generated={name: power(found["generated_db"]) for name, found in spectra.items()},
        held_out=None if others is None else power(others["generated_db"]),
    )
    write_figure(output / "spectra.png", figure)
