"""Rules of the faults that the paper names, on sets with planted ones and on honest sets."""

from __future__ import annotations

import dataclasses
import json
from math import comb
from pathlib import Path

import numpy as np
import pytest

from synthmed.errors import DataError
from synthmed.evaluation import artefacts
from synthmed.evaluation.artefacts import check_discs, check_grid
from synthmed.evaluation.duplicates import check_duplicates
from synthmed.metrics.statistics import share_interval
from synthmed.phantoms.drawing import draw_phantom

SIZE = 64


def generator() -> np.random.Generator:
    return np.random.default_rng(0)


def draw(count: int, seed: int) -> np.ndarray:
    eyes = [draw_phantom(seed, number % 2, number, SIZE).image for number in range(count)]
    return np.stack(eyes).transpose(0, 3, 1, 2)


@pytest.fixture(scope="module")
def eyes() -> np.ndarray:
    """Drawn eyes, their classes in turn."""
    return draw(160, 11)


@pytest.fixture(scope="module")
def real(eyes, make_image_set):
    return make_image_set(eyes[:80], np.arange(80) % 2, name="real", groups=tuple(f"p{n // 2}" for n in range(80)))


@pytest.fixture(scope="module")
def honest(eyes, make_image_set):
    return make_image_set(eyes[80:], np.arange(80) % 2, name="made", kind="synthetic")


@pytest.fixture
def change(eyes, make_image_set):
    """A function that gives the honest set with other images."""

    def make(images, labels=None):
        labels = np.arange(len(images)) % 2 if labels is None else labels
        return make_image_set(np.clip(np.rint(images), 0, 255), labels, name="made", kind="synthetic")

    return make


def test_checkerboard_is_found_and_honest_eyes_have_none(eyes, real, honest, change):
    assert not check_grid(real=real, generated=honest, generator=generator()).peaks
    board = np.indices((SIZE, SIZE)).sum(axis=0) % 2 * 4.0 - 2
    found = check_grid(real=real, generated=change(eyes[80:] + board), generator=generator())
    assert found.has_grid and found.peaks[0].period == pytest.approx(2**0.5)
    assert found.peaks[0].amplitude == pytest.approx(2, rel=0.25)
    json.dumps(dataclasses.asdict(found))


def test_spectra_of_classes_weigh_the_same(eyes, make_image_set, change):
    # Class 1 has a pattern on both sides, but there are more of it among the generated images.
    board = np.indices((SIZE, SIZE)).sum(axis=0) % 2 * 4.0 - 2
    labels = np.arange(160) % 2
    marked = eyes + labels[:, None, None, None] * board
    many = np.r_[np.arange(80, 160)[::4], np.arange(81, 160, 2)]
    # Patients have an image of each class, so that halves of the real images differ in nothing.
    groups = tuple(f"p{number // 2}" for number in range(80))
    both = make_image_set(np.clip(marked[:80], 0, 255), labels[:80], groups=groups)
    found = check_grid(real=both, generated=change(marked[many], labels[many]), generator=generator())
    assert not found.has_grid


def test_a_class_that_was_not_generated_is_left_out_of_the_spectra(eyes, make_image_set, change):
    board = np.indices((SIZE, SIZE)).sum(axis=0) % 2 * 4.0 - 2
    labels = np.arange(80) % 2
    real = make_image_set(np.clip(eyes[:80] + labels[:, None, None, None] * board, 0, 255), labels)
    marked = eyes[81::2] + board
    assert not check_grid(real=real, generated=change(marked, np.ones(40, int)), generator=generator()).has_grid
    with pytest.raises(DataError, match="no class in common"):
        check_grid(real=real.subset(range(0, 80, 2)), generated=change(marked, np.ones(40, int)), generator=generator())


def test_spectra_of_unlike_sizes_and_of_few_patients_are_refused(real, honest, change):
    with pytest.raises(DataError, match=r"\(32, 32\)"):
        check_grid(real=real, generated=change(np.zeros((4, 3, 32, 32))), generator=generator())
    with pytest.raises(DataError, match="4 real images of 2 patients are too few"):
        check_grid(real=real.subset(range(4)), generated=honest, generator=generator())


@pytest.fixture(scope="module")
def fine(real, honest):
    return check_discs(real=real, generated=honest, generator=generator())


def test_eyes_without_a_disc_are_reported_against_real_ones(eyes, real, fine, change):
    assert not fine.has_faults and fine.real.one.value >= 0.95 and fine.generated.one.value >= 0.95
    # In every fourth, retina is laid over the disc.
    lost = eyes[80:].copy()
    away = np.hypot(*(np.indices((SIZE, SIZE)) - 31.5))
    lost[::4, :, away < 22] = np.median(lost[::4][..., (away > 22) & (away < 27)], axis=2)[..., None]
    found = check_discs(real=real, generated=change(lost), generator=generator())
    assert found.has_faults and found.difference_none[0] > 0
    assert found.generated.none.count == pytest.approx(20, abs=4)
    low, high = found.difference_none
    assert low < found.generated.none.value - found.real.none.value < high
    json.dumps(dataclasses.asdict(found))


def test_interval_of_real_discs_is_that_of_patients(fine):
    assert fine.real.one == share_interval(fine.real.one.count, 80, units=40)
    assert fine.generated.one == share_interval(fine.generated.one.count, 80)


def test_no_real_eye_is_counted_by_the_rule_that_it_helped_to_make(real, honest, monkeypatch):
    counted: list[set[bytes]] = []

    class Finder:
        radius, least_contrast = 4.0, 0.1

        def __init__(self, learned: set[bytes]) -> None:
            self.learned = learned

        def count(self, images):
            seen = {image.numpy().tobytes() for image in images}
            assert not seen & self.learned
            counted.append(seen)
            return np.ones(len(images), dtype=np.int64)

    def calibrate(images):
        return Finder({image.numpy().tobytes() for image in images})

    monkeypatch.setattr(artefacts, "calibrate_finder", calibrate)
    found = check_discs(real=real, generated=honest, generator=generator())
    assert len(set.union(*counted)) == 160 and sum(map(len, counted)) == 160
    assert found.real.one.count == found.generated.one.count == 80


def test_discs_need_two_patients(real, honest):
    with pytest.raises(DataError, match="too few eyes"):
        check_discs(real=real.subset([0, 1]), generated=honest, generator=generator())


def test_planted_copies_are_found_and_honest_eyes_have_none(eyes, real, honest, change):
    fine = check_duplicates(real=real, generated=honest)
    assert not fine.has_duplicates and fine.generated_copies == 0
    planted = eyes[80:].astype(float)
    planted[1] = planted[0]
    planted[3] = 0.9 * planted[2] + 8
    planted[5] = planted[4] + np.random.default_rng(0).normal(0, 4, planted[4].shape)
    found = check_duplicates(real=real, generated=change(planted))
    assert found.has_duplicates and found.generated_copies == 3
    pairs = {(pair.first, pair.second) for pair in found.closest[:3]}
    assert pairs == {("made-0", "made-1"), ("made-2", "made-3"), ("made-4", "made-5")}
    assert found.closest[0].distance == 0 and found.near == fine.near
    # Of all near pairs, each is a generated one with probability one half, as both sets are of one size.
    count, total = found.generated_pairs, found.generated_pairs + found.real_pairs
    assert found.p_value == pytest.approx(sum(comb(total, k) for k in range(count, total + 1)) / 2**total)
    json.dumps(dataclasses.asdict(found))


def test_collapse_to_a_few_images_is_found(eyes, real, change):
    many = eyes[80:86][np.arange(80) % 6] + np.random.default_rng(1).normal(0, 6, (80, 3, SIZE, SIZE))
    found = check_duplicates(real=real, generated=change(many))
    assert found.has_duplicates and found.p_value < 1e-3
    assert found.generated.count == 80 and found.median_generated < found.median_real


def test_several_images_of_a_patient_do_not_make_near_ones_nearer(eyes, make_image_set, honest):
    images = np.concatenate([eyes[:40], eyes[:40]])
    names = tuple(f"p{number % 40}" for number in range(80))
    alike = check_duplicates(real=make_image_set(images, np.arange(80) % 2, groups=names), generated=honest)
    once = check_duplicates(real=make_image_set(eyes[:40], np.arange(40) % 2), generated=honest)
    assert alike.near == pytest.approx(once.near)
    # Where real images repeat each other, that generated ones do is no fault.
    assert alike.real_copies == 40 and alike.real.count == 80
    one = make_image_set(eyes[:4], np.arange(4) % 2, groups=("p",) * 4)
    with pytest.raises(DataError, match="one patient only"):
        check_duplicates(real=one, generated=honest)


def test_pairs_are_expected_by_their_number(real, honest):
    found = check_duplicates(real=real, generated=honest.subset(range(40)))
    assert found.expected_pairs == pytest.approx(found.real_pairs * (40 * 39) / (80 * 79))


@pytest.fixture(scope="module")
def photographs(make_image_set):
    folder = Path(__file__).resolve().parents[3] / "shared" / "data" / "airogs-mini"
    if not folder.is_dir():
        pytest.skip(f"no photographs in {folder}")
    from PIL import Image

    files = sorted(folder.glob("*/*.jpg"))[::6]
    images = [np.asarray(Image.open(file).convert("RGB").resize((SIZE, SIZE), Image.Resampling.BOX)) for file in files]
    return make_image_set(np.stack(images).transpose(0, 3, 1, 2), np.arange(len(images)) % 2)


def test_photographs_have_mostly_one_disc_no_grid_and_no_copies(photographs):
    half = len(photographs) // 2
    real, others = photographs.subset(range(half)), photographs.subset(range(half, len(photographs)))
    discs = check_discs(real=real, generated=others, generator=generator())
    assert discs.real.one.value > 0.6 and discs.generated.one.value > 0.6
    assert 0.04 < discs.radii[0] < 0.09
    assert not check_grid(real=real, generated=others, generator=generator()).has_grid
    assert not check_duplicates(real=real, generated=others).has_duplicates
