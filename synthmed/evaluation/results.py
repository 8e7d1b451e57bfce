"""Results of an evaluation as JSON values and as rows of tables, and whether two of them can be compared."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from synthmed.data.sets.image_set import ImageSet
from synthmed.errors import DataError
from synthmed.evaluation.scores import ALL, Curve, DifferenceRow, DiversityRow, KidRow, ScoreRow
from synthmed.features.extractor import FeatureExtractor
from synthmed.files.content import read_json
from synthmed.files.outputs import differences
from synthmed.metrics.scores import SCORES
from synthmed.metrics.statistics import format_spread

RESULTS_FILE = "results.json"
# To be raised when a score is computed in another way, so that older results are not compared with newer ones.
SCORES_VERSION = 1
Json = dict[str, Any]


def describe_set(images: ImageSet) -> Json:
    """Return what results say of a set."""
    counts = Counter(images.labels.tolist())
    return {
        "name": images.name,
        "kind": images.kind,
        "dataset": images.dataset,
        "split": images.split,
        "content_hash": images.content_hash,
        "num_images": {name: counts[label] for label, name in enumerate(images.classes)},
        "num_groups": len(set(images.groups) - {""}) or None,
        "size": list(images.size),
    }


def describe_extractor(extractor: FeatureExtractor) -> Json:
    """Return what results say of an extractor."""
    return {name: getattr(extractor, name) for name in ("num_features", "weights_sha256", "resize", "fingerprint")}


def conditions(real: Json, generated: Sequence[Json], extractors: Mapping[str, Json]) -> Json:
    """Return what must be the same where scores are compared: reference, sizes, extractors, how scores are made."""
    return {
        "reference_hash": real["content_hash"],
        "num_real": real["num_images"],
        "num_generated": generated[0]["num_images"],
        "size": real["size"],
        "features": {name: found["fingerprint"] for name, found in extractors.items()},
        "scores_version": SCORES_VERSION,
    }


def row_values(row: ScoreRow | KidRow | DifferenceRow | DiversityRow | Curve, **more: str) -> Json:
    """Return a row of scores as a flat JSON object: `more`, its own fields, and those of its measurement."""
    found: Json = {**more}
    for name, value in asdict(row).items():
        found |= value if name in ("interval", "kid", "test", "similarity") else {name: value}
    return found


def read_baseline(path: Path, results: Json) -> Json:
    """Return the results of an earlier evaluation that can be compared with these.

    Raises:
        DataError: It holds no results, or they were made under other conditions: each is named with both values.
    """
    found = read_json(path / RESULTS_FILE if path.is_dir() else path)
    if not isinstance(found, dict) or not isinstance(found.get("conditions"), dict):
        raise DataError(f"{path} holds no results of synthmed evaluate")
    if unlike := differences(found["conditions"], results["conditions"]):
        raise DataError(f"{path} cannot be compared: {'; '.join(unlike)}", "evaluate both alike")
    known = {images["name"] for images in results["generated"]}
    if repeated := known & {images["name"] for images in found["generated"]}:
        raise DataError(f"{path} holds scores of {min(repeated)}, which is evaluated here too")
    return found


def add_baseline(results: Json, baseline: Json) -> None:
    """Put the scores of an earlier evaluation beside those of this one."""
    for part in ("generated", "scores", "kid_subsets"):
        results[part] += baseline[part]


def score_title(score: str, features: str) -> str:
    """Return what a score is called; FID and KID are FD and KD on other features than Inception's."""
    title = SCORES[score].title
    return title if features == "inception" else {"FID": "FD", "KID": "KD"}.get(title, title)


def score_columns(features: str) -> tuple[str, ...]:
    """Return the columns of `score_table`."""
    return ("images", "class", "real", "generated", *(score_title(name, features) for name in SCORES))


def score_table(results: Json, features: str) -> list[tuple[object, ...]]:
    """Return a row for each generated set and class, and one for what real images reach against real ones."""
    rows: list[tuple[object, ...]] = []
    mine = [row for row in results["scores"] if row["features"] == features]
    for label in dict.fromkeys(row["label"] for row in mine):
        of_label = [row for row in mine if row["label"] == label]
        for name in dict.fromkeys(row["generated"] for row in of_label):
            found = {row["score"]: row for row in of_label if row["generated"] == name}
            sizes = next((row["num_real"], row["num_generated"]) for row in found.values())
            rows.append((name, label, *sizes, *(_cell(found.get(score)) for score in SCORES)))
        floors = {row["score"]: row["floor"] for row in of_label}
        sizes = next((floor["num_real"], floor["num_generated"]) for floor in floors.values())
        cells = [format_score(floors[score]["mean"]) if score in floors else "-" for score in SCORES]
        rows.append(("real against real", label, *sizes, *cells))
    return rows


def difference_table(results: Json) -> list[tuple[object, ...]]:
    """Return a row for each score and each two generated sets."""
    return [
        (
            row["features"],
            score_title(row["score"], row["features"]),
            row["first"],
            row["second"],
            format_score(row["difference"]),
            f"{row['p_value']:.3g}",
        )
        for row in results["differences"]
    ]


def diversity_table(results: Json) -> list[tuple[object, ...]]:
    """Return a row for each set and class."""
    return [
        (row["images"], row["label"], format_spread(row["mean"], row["std"]), row["num_pairs"], row["num_scales"])
        for row in results["diversity"]
    ]


def copies_table(results: Json) -> list[tuple[object, ...]]:
    """Return a row for each generated set."""
    rows: list[tuple[object, ...]] = []
    for name, found in results["copies"].items():
        features = found["features"] or {"authenticity": None, "c_t": None}
        figures = ("-" if value is None else f"{value:.2f}" for value in (features["authenticity"], features["c_t"]))
        chance = (f"{found['expected']:.1f}", f"{found['p_value']:.2g}")
        rows.append((name, found["count"], len(found["rows"]), *chance, *figures))
    return rows


def label_table(results: Json) -> list[tuple[object, ...]]:
    """Return rows for the real held-out images, which are the ceiling, and for each generated set."""
    report = results["labels"]
    rows: list[tuple[object, ...]] = []
    for scores in (report["held_out"], *report["generated"]):
        ratios = report["cup_to_disc"].get(scores["name"], {"rows": ()})["rows"]
        measured = {
            row["label"]: "not found" if row["mean"] is None else format_spread(row["mean"], row["std"])
            for row in ratios
        }
        for found in ({**scores, "label": ALL}, *scores["classes"]):
            rows.append(
                (
                    scores["name"],
                    found["label"],
                    _format_share(found["agreement"]),
                    f"{found['mean_probability']:.2f}",
                    "-" if found["auroc"] is None else f"{found['auroc']:.3f}",
                    measured.get(found["label"], "-"),
                )
            )
    return rows


def artefact_table(results: Json) -> list[tuple[object, ...]]:
    """Return a row for each generated set, and behind each figure what real images have."""
    rows: list[tuple[object, ...]] = []
    for name, found in results["artefacts"].items():
        grid, duplicates, discs = found["grid"], found["duplicates"], found.get("optic_discs")
        # The strongest comes first; those too faint to matter stand in results.json alone.
        shown = "none"
        if grid["has_grid"]:
            shown = f"period {grid['peaks'][0]['period']:.1f} px, amplitude {grid['peaks'][0]['amplitude']:.2g}"
        eyes: tuple[str, ...] = ("-", "-")
        if discs is not None:
            eyes = tuple(
                f"{discs['generated'][kind]['value']:.1%}, real {discs['real'][kind]['value']:.1%}"
                for kind in ("none", "several")
            )
        pairs = f"{duplicates['generated_pairs']}, expected {duplicates['expected_pairs']:.1f}"
        rows.append((name, shown, *eyes, f"{pairs} (p {duplicates['p_value']:.2g})"))
    return rows


def _format_share(share: Json) -> str:
    return f"{share['value']:.1%} ({share['low']:.1%} to {share['high']:.1%})"


def format_score(value: float) -> str:
    """Return a score with three significant digits, so that KID's thousandths and FID's hundreds are both read."""
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def _cell(row: Json | None) -> str:
    if row is None:
        return "-"
    return f"{format_score(row['value'])} ({format_score(row['low'])} to {format_score(row['high'])})"


TABLES: dict[str, tuple[tuple[str, ...], Callable[[Json], list[tuple[object, ...]]]]] = {
    "differences": (("features", "score", "first", "second", "first - second", "p"), difference_table),
    "diversity": (("images", "class", "MS-SSIM between pairs", "pairs", "scales"), diversity_table),
    "copies": (("images", "suspects", "of", "expected", "p", "authenticity", "C_T"), copies_table),
    "labels": (("images", "class", "agreement", "probability of the label", "AUROC", "cup-to-disc ratio"), label_table),
    "artefacts": (("images", "grid pattern", "no disc", "several discs", "near-duplicate pairs"), artefact_table),
}
"""By part of the results: columns, and the function that makes the rows."""
