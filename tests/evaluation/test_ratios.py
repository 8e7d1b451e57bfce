"""Rules of measured cup-to-disc ratios by label."""

from __future__ import annotations

import numpy as np
import pytest

from synthmed.evaluation.ratios import check_ratios, summarise_ratios
from synthmed.phantoms.drawing import CLASSES, draw_phantom


def test_drawn_eyes_have_the_ratios_that_they_were_drawn_with(make_image_set):
    eyes = [draw_phantom(21, number % 2, number, 64) for number in range(40)]
    images = np.stack([eye.image for eye in eyes]).transpose(0, 3, 1, 2)
    found = check_ratios(make_image_set(images, np.arange(40) % 2, name="eyes", classes=CLASSES))
    for label, row in enumerate(found.rows):
        drawn = [eye.cup_to_disc for eye in eyes if eye.label == label]
        assert (row.kind, row.label, row.images) == ("eyes", CLASSES[label], 20)
        assert row.measured >= 19 and row.mean == pytest.approx(np.mean(drawn), abs=0.02)
    assert found.auroc is not None and found.auroc > 0.75


def test_images_without_a_disc_are_counted_but_not_measured():
    ratios = np.array([0.3, np.nan, 0.5, 0.4, np.nan])
    found = summarise_ratios("x", CLASSES, ratios, np.array([0, 0, 1, 1, 1]))
    assert [(row.measured, row.images, row.mean, row.std) for row in found.rows] == [
        (1, 2, 0.3, None),
        (2, 3, 0.45, pytest.approx(0.0707, abs=1e-4)),
    ]
    assert found.auroc == 1


def test_nothing_measured_gives_no_numbers():
    found = summarise_ratios("x", CLASSES, np.array([np.nan, 0.4]), np.array([0, 1]))
    assert found.rows[0].mean is None and found.auroc is None
