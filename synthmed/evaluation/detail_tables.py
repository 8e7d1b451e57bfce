"""Detail by band and brightness as rows of tables and in plain words, from the rows of the results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from synthmed.evaluation.results import REAL_AGAINST_REAL, Table, format_interval, format_score
from synthmed.evaluation.scores import ALL
from synthmed.metrics.bands import BAND_TITLES

Json = dict[str, Any]
BRIGHTNESS_TITLES = {"mean": "mean grey", "spread": "spread of it over images", "contrast": "contrast"}


def band_table(results: Json) -> Table:
    """Return a row for each generated set, all classes together, and one of real images against real ones."""
    mine = [row for row in results["bands"] if row["label"] == ALL]
    rows: list[tuple[object, ...]] = []
    for name in dict.fromkeys(row["generated"] for row in mine):
        found = {row["band"]: row for row in mine if row["generated"] == name}
        first = next(iter(found.values()))
        cells = (format_interval(found.get(band)) for band in BAND_TITLES)
        rows.append((name, first["num_real"], first["num_generated"], *cells))
    floors = {row["band"]: row["floor"] for row in mine}
    if floors:
        floor = next(iter(floors.values()))
        cells = (_format_floor(floors.get(band)) for band in BAND_TITLES)
        rows.append((REAL_AGAINST_REAL, floor["num_real"], floor["num_generated"], *cells))
    return ("images", "real", "generated", *BAND_TITLES), rows


def brightness_table(results: Json) -> Table:
    """Return for each class a row of real images, one for each generated set, and real images against real ones."""
    rows: list[tuple[object, ...]] = []
    for label in dict.fromkeys(row["label"] for row in results["brightness"]):
        of_label = [row for row in results["brightness"] if row["label"] == label]
        for name in dict.fromkeys(row["generated"] for row in of_label):
            found = {row["figure"]: row for row in of_label if row["generated"] == name}
            if name == of_label[0]["generated"]:
                rows.append(("real", label, *_figures(found, "of_real"), "-"))
            rows.append((name, label, *_figures(found, "of_generated"), format_interval(found["spread"]["ratio"])))
        floors = {row["figure"]: row["floor"] for row in of_label}
        rows.append((REAL_AGAINST_REAL, label, *("-" for _ in BRIGHTNESS_TITLES), _format_floor(floors["spread"])))
    return ("images", "class", *BRIGHTNESS_TITLES.values(), "spread / real spread"), rows


def _figures(found: Json, side: str) -> list[str]:
    return [format_interval(found[figure][side]) for figure in BRIGHTNESS_TITLES]


def _format_floor(floor: Json | None) -> str:
    if floor is None:
        return "-"
    return format_score(floor["mean"]) + ("" if floor["std"] is None else f" ± {format_score(floor['std'])}")


def brightness_findings(rows: Sequence[Json]) -> list[str]:
    """Return in plain words which sets vary in brightness otherwise than real images do.

    Of a set in which all classes together do, the classes are not named too.

    Args:
        rows: `BrightnessRow`s as results have them.
    """
    found: list[str] = []
    faulty = [row for row in rows if row["has_fault"]]
    whole = {row["generated"] for row in faulty if row["label"] == ALL}
    for row in faulty:
        if row["label"] == ALL or row["generated"] not in whole:
            of_class = "" if row["label"] == ALL else f", {row['label']}"
            spreads = (format_score(row[side]["value"]) for side in ("of_generated", "of_real"))
            found.append(
                f"{row['generated']}{of_class}: brightness varies {format_interval(row['ratio'])} times as much "
                f"from image to image as in real images (standard deviation {' against '.join(spreads)} grey levels)"
            )
    return found


TABLES: dict[str, Callable[[Json], Table]] = {"bands": band_table, "brightness": brightness_table}
"""By part of the results: the function that makes columns and rows."""
