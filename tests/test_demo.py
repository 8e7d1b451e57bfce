"""The demo on fewer images: every step runs, and the embedded model does what its labels say."""

import dataclasses

import pytest
from PIL import Image

from synthmed import demo
from synthmed.generators import registry
from synthmed.generators.families import read_header


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    patch = pytest.MonkeyPatch()
    patch.setattr(demo, "NUM_REAL", 60)
    patch.setattr(demo, "NUM_SYNTHETIC", 40)
    patch.setattr(demo, "CLASSIFIER", dataclasses.replace(demo.CLASSIFIER, steps=3))
    try:
        yield demo.run_demo(tmp_path_factory.mktemp("demo"), device="cpu")
    finally:
        patch.undo()


def test_embedded_model_is_small_and_complete():
    path = registry.embedded_model("phantom-fundus")
    header = read_header(path)
    assert path.stat().st_size <= 8_000_000
    assert header.classes.names == ("no-glaucoma", "glaucoma")
    assert header.training["finished"] is True


def test_synthetic_cups_are_larger_with_glaucoma(result):
    ratios = {(row.kind, row.label): row for row in result.ratios}
    assert ratios["synthetic", "glaucoma"].mean > ratios["synthetic", "no-glaucoma"].mean + 0.04
    # Nearly every image has a disc and a cup that can be measured.
    assert all(row.measured >= 0.9 * row.images for row in result.ratios)


def test_every_arm_is_tested_beside_the_known_best(result):
    assert set(result.comparison["arms"]) == {"real", "synthetic", "both"}
    assert 0.88 < result.best_auroc < 0.92
    assert result.ratio_auroc["real"] > 0.7


def test_sheet_has_a_row_for_each_kind_and_label(result):
    with Image.open(result.sheet) as sheet:
        assert sheet.width > 8 * 64
        assert sheet.height > 4 * 64
