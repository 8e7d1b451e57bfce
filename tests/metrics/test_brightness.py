"""Brightness, its spread and contrast, on images for which they are known."""

from __future__ import annotations

import numpy as np
import pytest

from synthmed.errors import DataError
from synthmed.metrics.brightness import FIGURES, brightness_scores, grey_statistics


def score(real: np.ndarray, made: np.ndarray) -> dict[str, float]:
    masks = (np.ones((1, len(side)), dtype=bool) for side in (real, made))
    names = ("real_masks", "generated_masks")
    found = brightness_scores(real=real, generated=made, **dict(zip(names, masks, strict=True)))
    return {name: float(values[0]) for name, values in found.items()}


def labelled(labels, grey, contrast=10.0) -> np.ndarray:
    grey = np.asarray(grey, dtype=float)
    return np.column_stack([labels, grey, np.broadcast_to(contrast, grey.shape)])


def test_statistics_are_those_of_the_luma():
    image = np.zeros((1, 3, 4, 4), dtype=np.uint8)
    image[0, :, :2] = np.array([100, 50, 200])[:, None, None]
    luma = 0.299 * 100 + 0.587 * 50 + 0.114 * 200
    assert grey_statistics(image)[0] == pytest.approx([luma / 2, luma / 2])
    assert grey_statistics(image[:, :1])[0] == pytest.approx([50, 50])
    assert grey_statistics(np.full((2, 3, 4, 4), 255)) == pytest.approx(np.array([[255, 0]] * 2), abs=1e-6)


def test_spread_is_the_sample_deviation_of_one_class():
    generator = np.random.default_rng(0)
    real, made = generator.normal(100, 12, 50), generator.normal(90, 24, 9)
    found = score(labelled(np.zeros(50), real), labelled(np.zeros(9), made, 5.0))
    assert found["real mean"] == pytest.approx(real.mean()) and found["generated mean"] == pytest.approx(made.mean())
    assert found["real spread"] == pytest.approx(real.std(ddof=1))
    assert found["generated spread"] == pytest.approx(made.std(ddof=1))
    assert found["ratio spread"] == pytest.approx(made.std(ddof=1) / real.std(ddof=1))
    assert found["ratio contrast"] == pytest.approx(0.5)
    assert len(found) == 3 * len(FIGURES)


def test_spread_over_all_is_that_of_as_many_of_each_class():
    generator = np.random.default_rng(1)
    dark, bright = generator.normal(60, 5, 4000), generator.normal(140, 5, 4000)
    labels = np.repeat([0, 1], 4000)
    real = labelled(labels, np.r_[dark, bright])
    few = np.r_[0:4000, 4000:4400]
    found = score(real, real[few])
    # Two classes 80 apart: 40 between them, and 5 within.
    assert found["real spread"] == pytest.approx(np.hypot(40, 5), rel=0.01)
    assert found["ratio spread"] == pytest.approx(1, rel=0.01)
    assert found["generated mean"] == pytest.approx(100, abs=0.5)
    # A class that is on one side alone says nothing of the other.
    assert score(real, real[:4000])["real spread"] == pytest.approx(5, rel=0.05)


def test_sets_that_cannot_be_compared_are_refused():
    real = labelled([0, 0, 1, 1], [50, 60, 70, 90])
    with pytest.raises(DataError, match="no class has 2 of them"):
        score(real, labelled([0, 1], [50, 60]))
    with pytest.raises(DataError, match="equally bright"):
        score(labelled([0, 0], [70, 70]), real)
    with pytest.raises(DataError, match="flat"):
        score(labelled([0, 0], [70, 90], 0.0), real)
    assert score(real, labelled([0, 0], [70, 70], 0.0))["ratio spread"] == 0
