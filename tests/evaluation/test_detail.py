"""Detail by band and brightness of sets: planted faults are figures, honest halves are near 1."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest

from synthmed.errors import DataError
from synthmed.evaluation.detail import BandRow, BrightnessRow, band_rows, brightness_rows, measure
from synthmed.evaluation.detail_tables import band_table, brightness_findings, brightness_table
from synthmed.evaluation.notes import Notes
from synthmed.evaluation.results import row_values
from synthmed.metrics.bands import BAND_TITLES

SIZE = 32
COUNT = 120
LABELS = np.arange(COUNT) % 2


def pictures(seed: int, *, spread: float = 10, detail: float = 12, count: int = COUNT, between: float = 30) -> Any:
    """Noise around a grey that varies, class 1 brighter by `between`: [N, 3, SIZE, SIZE]."""
    generator = np.random.default_rng(seed)
    grey = 110 + between * (np.arange(count) % 2) + generator.normal(0, spread, count)
    return np.clip(np.rint(grey[:, None, None, None] + generator.normal(0, detail, (count, 3, SIZE, SIZE))), 0, 255)


@pytest.fixture(scope="module")
def compared(make_image_set):
    """A function that gives the rows of bands and of brightness, and the notes, of images against real ones."""
    honest = make_image_set(pictures(0), LABELS, groups=tuple(f"p{n // 2}" for n in range(COUNT)))

    def compare(images, labels=None, real=honest) -> tuple[list[BandRow], list[BrightnessRow], Notes]:
        labels = np.arange(len(images)) % 2 if labels is None else labels
        made, notes = make_image_set(images, labels, name="made", kind="synthetic"), Notes()
        both = measure(real), measure(made)
        return list(band_rows(*both, 0, notes)), list(brightness_rows(*both, 0, notes)), notes

    return compare


def spreads(rows: list[BrightnessRow]) -> dict[str, BrightnessRow]:
    return {row.label: row for row in rows if row.figure == "spread"}


def as_results(rows: list[BrightnessRow]) -> list[dict[str, Any]]:
    return [{**asdict(row), "has_fault": row.has_fault} for row in rows]


def test_two_halves_of_one_set_differ_in_nothing(compared):
    bands, brightness, notes = compared(pictures(1))
    assert not notes
    assert [(row.label, row.band) for row in bands] == [
        (label, band) for label in ("all", "no", "yes") for band in BAND_TITLES
    ]
    for row in bands:
        assert row.interval.value == pytest.approx(1, abs=0.1) and row.floor.mean == pytest.approx(1, abs=0.1)
        assert row.interval.low < row.interval.value < row.interval.high
    assert bands[-1].up_to is None and bands[-1].above == bands[-2].up_to == 0.375
    assert not any(row.has_fault for row in brightness) and brightness_findings(as_results(brightness)) == []
    for row in spreads(brightness).values():
        assert row.ratio.low < 1 < row.ratio.high and row.floor.mean == pytest.approx(1, abs=0.15)


def test_doubled_spread_of_brightness_is_a_finding_and_no_detail(compared):
    bands, brightness, _ = compared(pictures(1, spread=20, between=60))
    found = spreads(brightness)
    assert found["all"].has_fault and found["all"].ratio.value == pytest.approx(2, rel=0.2)
    assert found["no"].of_real.value == pytest.approx(10, rel=0.2)
    assert found["no"].of_generated.value == pytest.approx(20, rel=0.2)
    assert found["no"].of_generated.low < 20 < found["no"].of_generated.high
    (words,) = brightness_findings(as_results(brightness))
    ratio = found["all"].ratio
    assert words.startswith(f"made: brightness varies {ratio.value:.3g} ({ratio.low:.3g} to {ratio.high:.3g}) times")
    for row in bands:
        assert row.interval.value == pytest.approx(1, abs=0.1)


def test_fault_of_one_class_names_it(compared):
    images = pictures(1)
    images[1::2] = pictures(2, spread=30)[1::2]
    brightness = as_results(compared(images)[1])
    for row in brightness:
        row["has_fault"] &= row["label"] != "all"
    (words,) = brightness_findings(brightness)
    assert words.startswith("made, yes: brightness varies")


def test_set_that_varies_too_little_is_a_fault_too(compared):
    _, brightness, _ = compared(pictures(1, spread=3, between=10))
    assert spreads(brightness)["all"].has_fault and spreads(brightness)["all"].ratio.high < 0.5


def test_few_images_accuse_nobody(compared):
    row = spreads(compared(pictures(1, spread=25, between=100, count=18))[1])["all"]
    assert row.ratio.low > 1.25 and not row.has_fault


def test_power_is_that_of_the_contrast_and_blur_is_a_loss_of_high_bands(compared):
    strong, brightness, _ = compared(pictures(1, detail=24))
    assert [row.interval.value for row in strong[:6]] == pytest.approx([4] * 6, rel=0.1)
    (contrast,) = (row for row in brightness if (row.figure, row.label) == ("contrast", "all"))
    assert contrast.ratio.value == pytest.approx(2, rel=0.03) and contrast.ratio.low > 1.9
    images = pictures(1)
    blurred = np.rint((images + np.roll(images, 1, 2) + np.roll(images, 1, 3) + np.roll(images, (1, 1), (2, 3))) / 4)
    ratios = [row.interval for row in compared(blurred)[0][:6]]
    assert ratios[0].value > 0.9 and ratios[-1].high < 0.2
    assert [one.value for one in ratios] == sorted((one.value for one in ratios), reverse=True)


def test_classes_weigh_the_same_whatever_their_number(compared, make_image_set):
    """Class 1 has four times the power on both sides, and is rarer in one of them."""
    images = pictures(3)
    images[1::2] = pictures(4, detail=24)[1::2]
    real = make_image_set(images, LABELS)
    made = pictures(5)
    made[1::2] = pictures(6, detail=24)[1::2]
    few = np.r_[np.arange(0, COUNT, 2), np.arange(1, COUNT, 2)[:12]]
    bands, brightness, _ = compared(made[few], LABELS[few], real)
    assert [row.interval.value for row in bands[:6]] == pytest.approx([1] * 6, abs=0.15)
    figures = {row.figure: row.ratio.value for row in brightness if row.label == "all"}
    assert figures == pytest.approx({"mean": 1, "spread": 1, "contrast": 1}, abs=0.2)
    assert figures["mean"] == pytest.approx(1, abs=0.05) and figures["contrast"] == pytest.approx(1, abs=0.05)


def test_class_of_one_side_is_left_out(compared):
    bands, brightness, notes = compared(pictures(1)[::2], np.zeros(COUNT // 2, int))
    assert {row.label for row in (*bands, *brightness)} == {"all"} and not notes
    assert spreads(brightness)["all"].num_real == COUNT // 2
    assert spreads(brightness)["all"].of_real.value == pytest.approx(10, rel=0.2)


def test_a_rare_class_is_measured_in_a_large_set(make_image_set, monkeypatch):
    monkeypatch.setattr("synthmed.evaluation.detail.MAX_IMAGES", 40)
    labels = (np.arange(COUNT) >= COUNT - 15).astype(int)
    assert np.bincount(measure(make_image_set(pictures(0), labels)).images.labels).tolist() == [20, 15]


def test_what_cannot_be_compared_is_refused_or_noted(compared, make_image_set):
    with pytest.raises(DataError, match=r"\(16, 16\)"):
        compared(pictures(1)[:, :, :16, :16])
    with pytest.raises(DataError, match="no class in common"):
        compared(pictures(1), np.ones(COUNT, int), make_image_set(pictures(0), np.zeros(COUNT, int)))
    bands, brightness, notes = compared(pictures(1, count=2))
    assert {row.label for row in bands} == {"all"} and not brightness
    assert notes.keys() == {"detail by band of made, no", "detail by band of made, yes", "brightness of made, all"}
    flat = make_image_set(np.full((8, 3, SIZE, SIZE), 90), np.arange(8) % 2)
    bands, brightness, notes = compared(pictures(1), None, flat)
    assert not bands and not brightness and "equally bright" in notes["brightness of made, all"]


def test_flat_images_have_no_power_and_no_spread(compared):
    bands, brightness, notes = compared(np.full((60, 3, SIZE, SIZE), 90))
    assert not notes and all(row.interval.high < 1e-6 for row in bands)
    assert spreads(brightness)["no"].has_fault and spreads(brightness)["no"].ratio.value == 0
    json.dumps(as_results(brightness), allow_nan=False)


def test_tables_show_sets_beside_real_ones(compared):
    bands, brightness, _ = compared(pictures(1))
    results = {"bands": [row_values(row) for row in bands], "brightness": as_results(brightness)}
    columns, rows = band_table(results)
    assert columns == ("images", "real", "generated", *BAND_TITLES)
    assert [row[:3] for row in rows] == [("made", COUNT, COUNT), ("real against real", COUNT // 2, COUNT // 2)]
    assert rows[0][3] == "{:.3g} ({:.3g} to {:.3g})".format(*(results["bands"][0][k] for k in ("value", "low", "high")))
    columns, rows = brightness_table(results)
    assert [row[:2] for row in rows] == [
        (name, label) for label in ("all", "no", "yes") for name in ("real", "made", "real against real")
    ]
    assert {len(row) for row in rows} == {len(columns)} == {6}
    assert str(rows[4][3]).startswith(f"{spreads(brightness)['no'].of_generated.value:.3g} (")
    del results["bands"][2]
    assert band_table(results)[1][0][5] == "-"
