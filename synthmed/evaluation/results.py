"""Results of an evaluation as JSON values and as rows of tables, and whether two of them can be compared."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from synthmed.data.sets.image_set import ImageSet
from synthmed.errors import DataError
from synthmed.evaluation.detail import BandRow
from synthmed.evaluation.scores import ALL, Curve, DifferenceRow, DiversityRow, KidRow, ScoreRow
from synthmed.features.extractor import FeatureExtractor
from synthmed.files.outputs import differences
from synthmed.metrics.scores import SCORES
from synthmed.metrics.statistics import format_spread

# To be raised when a score is computed in another way, so that older results are not compared with newer ones.
SCORES_VERSION = 1
Json = dict[str, Any]
Table = tuple[tuple[str, ...], list[tuple[object, ...]]]
"""Columns and rows."""
REAL_AGAINST_REAL = "real against real"
COPY_SCORES = {"authenticity": "authenticity", "c_t": "C_T"}


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


def row_values(row: BandRow | ScoreRow | KidRow | DifferenceRow | DiversityRow | Curve, **more: str) -> Json:
    """Return a row of scores as a flat JSON object: `more`, its own fields, and those of its measurement."""
    found: Json = {**more}
    for name, value in asdict(row).items():
        found |= value if name in ("interval", "kid", "test", "similarity") else {name: value}
    return found


def check_baseline(path: Path, found: Json, results: Json) -> None:
    """Refuse results of an earlier evaluation that cannot be compared with these.

    Raises:
        DataError: They were made under other conditions, each of which is named with both values.
    """
    if unlike := differences(found["conditions"], results["conditions"]):
        raise DataError(f"{path} cannot be compared: {'; '.join(unlike)}", "evaluate both alike")
    known = {images["name"] for images in results["generated"]}
    if repeated := known & {images["name"] for images in found["generated"]}:
        raise DataError(f"{path} holds scores of {min(repeated)}, which is evaluated here too")


def add_baseline(results: Json, baseline: Json) -> None:
    """Put the scores of an earlier evaluation beside those of this one, and detail and brightness if it has them."""
    for part in ("generated", "scores", "kid_subsets", "bands", "brightness"):
        results[part] += baseline.get(part, [])


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
            rows.append((name, label, *sizes, *(format_interval(found.get(score)) for score in SCORES)))
        floors = {row["score"]: row["floor"] for row in of_label}
        sizes = next((floor["num_real"], floor["num_generated"]) for floor in floors.values())
        cells = [format_score(floors[score]["mean"]) if score in floors else "-" for score in SCORES]
        rows.append((REAL_AGAINST_REAL, label, *sizes, *cells))
    return rows


def difference_table(results: Json) -> Table:
    """Return a row for each score and each two generated sets."""
    return ("features", "score", "first", "second", "first - second", "p"), [
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


def diversity_table(results: Json) -> Table:
    """Return a row for each set and class."""
    return ("images", "class", "MS-SSIM between pairs", "pairs", "scales"), [
        (row["images"], row["label"], format_spread(row["mean"], row["std"]), row["num_pairs"], row["num_scales"])
        for row in results["diversity"]
    ]


def copies_table(results: Json) -> Table:
    """Return a row for each generated set."""
    columns = ("images", "of", "equal to real ones", "suspects", "expected", "p", *COPY_SCORES.values())
    rows: list[tuple[object, ...]] = []
    for name, found in results["copies"].items():
        counts = results["identical"][name]
        equal = max(counts[source] or 0 for source in ("training", "held_out", "real"))
        chance = ("-", "-", "-")
        if found["count"] is not None:
            chance = (str(found["count"]), f"{found['expected']:.1f}", f"{found['p_value']:.2g}")
        figures = (beside_real(found["features"], score) if found["features"] else "-" for score in COPY_SCORES)
        rows.append((name, len(found["rows"]), equal, *chance, *figures))
    return columns, rows


def beside_real(scores: Json, score: str) -> str:
    """Return a score of `FeatureScores`, and what held-out real images have."""
    value, real = scores[score], scores[f"real_{score}"]
    return "-" if value is None else f"{value:.2f}, real {'-' if real is None else format(real['mean'], '.2f')}"


def label_table(results: Json) -> Table:
    """Return rows for the real held-out images, which are the ceiling, and for each generated set."""
    report = results["labels"]
    columns: tuple[str, ...] = ("images", "class", "agreement", "probability of the label", "AUROC")
    # Measured in drawn eyes alone.
    columns += ("cup-to-disc ratio",) if report["cup_to_disc"] else ()
    rows: list[tuple[object, ...]] = []
    for scores in (report["held_out"], *report["generated"]):
        ratios = report["cup_to_disc"].get(scores["name"], {"rows": ()})["rows"]
        measured = {
            row["label"]: "not found" if row["mean"] is None else format_spread(row["mean"], row["std"])
            for row in ratios
        }
        for found in ({**scores, "label": ALL}, *scores["classes"]):
            cells = (
                scores["name"],
                found["label"],
                _format_share(found["agreement"]),
                f"{found['mean_probability']:.2f}",
                "-" if found["auroc"] is None else f"{found['auroc']:.3f}",
                measured.get(found["label"], "-"),
            )
            rows.append(cells[: len(columns)])
    return columns, rows


def artefact_table(results: Json) -> Table:
    """Return a row for each generated set, and behind each figure what real images have."""
    cells = {"grid": ("grid pattern",), "optic_discs": ("no disc", "several discs"), "duplicates": ("near-duplicates",)}
    found = results["artefacts"]
    # Discs are counted in eyes alone.
    parts = [part for part in cells if any(part in faults for faults in found.values())]
    rows = [
        (name, *(cell for part in parts for cell in _fault_cells(part, faults, len(cells[part]))))
        for name, faults in found.items()
    ]
    return ("images", *(column for part in parts for column in cells[part])), rows


def _fault_cells(part: str, faults: Json, width: int) -> tuple[str, ...]:
    if part not in faults:
        return ("-",) * width
    found = faults[part]
    if part == "grid":
        return (f"{_format_grid(found)}, real {_format_grid(faults.get('real_grid'))}",)
    if part == "optic_discs":
        return tuple(
            f"{found['generated'][kind]['value']:.1%}, real {found['real'][kind]['value']:.1%}"
            for kind in ("none", "several")
        )
    pairs = f"{found['generated_pairs']} pairs, expected {found['expected_pairs']:.1f}"
    return (f"{pairs} (p {found['p_value']:.2g})",)


def _format_grid(grid: Json | None) -> str:
    if grid is None or not grid["has_grid"]:
        return "-" if grid is None else "none"
    # The strongest comes first; those too faint to matter stand in results.json alone.
    return "period {period:.1f} px, amplitude {amplitude:.2g}".format(**grid["peaks"][0])


def _format_share(share: Json) -> str:
    return f"{share['value']:.1%} ({share['low']:.1%} to {share['high']:.1%})"


def format_score(value: float) -> str:
    """Return a score with three significant digits, so that KID's thousandths and FID's hundreds are both read."""
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def format_interval(row: Json | None) -> str:
    """Return a value with both ends of its interval; a dash where there is none."""
    if row is None:
        return "-"
    return f"{format_score(row['value'])} ({format_score(row['low'])} to {format_score(row['high'])})"


TABLES: dict[str, Callable[[Json], Table]] = {
    "differences": difference_table,
    "diversity": diversity_table,
    "copies": copies_table,
    "labels": label_table,
    "artefacts": artefact_table,
}
"""By part of the results: the function that makes columns and rows."""
