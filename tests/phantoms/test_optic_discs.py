"""Rules of counting optic discs: on drawn eyes, whose discs are known, and on ones with discs planted and removed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from synthmed.errors import DataError
from synthmed.phantoms.drawing import draw_phantom
from synthmed.phantoms.optic_discs import DARK, WORK_SIZE, DiscFinder, calibrate_finder, find_spots

ROWS, COLUMNS = np.indices((WORK_SIZE, WORK_SIZE)) + 0.5
DISC = 22  # width in pixels of a drawn eye made small: its disc's radius is then about 4.5


def wide_eye(number: int, places: list[tuple[float, float]]) -> np.ndarray:
    """The whole back of an eye, [S, S, 3]: a retina, lit unevenly, with small discs of drawn eyes at (x, y)."""
    generator = np.random.default_rng(number)
    colour = np.array([190.0, generator.uniform(70, 110), 50])
    light = 1 + 0.3 * ((COLUMNS - 32) * generator.normal(0, 0.5) + (ROWS - 32) * generator.normal(0, 0.5)) / 32
    eye = colour * light[..., None]
    disc = draw_phantom(5, number % 2, number, 3 * DISC).image.reshape(DISC, 3, DISC, 3, 3).mean(axis=(1, 3))
    # Against its own retina, so that it fits where it is laid.
    relative = disc / np.median(disc[3:-3, 3:-3], axis=(0, 1))
    for x, y in places:
        left, top = int(x) - DISC // 2, int(y) - DISC // 2
        patch = eye[top : top + DISC, left : left + DISC]
        away = np.hypot(*(np.indices((DISC, DISC)) - (DISC - 1) / 2))
        opaque = np.clip((0.8 * DISC / 2 - away) / 2 + 0.5, 0, 1)[..., None]
        patch *= 1 + opaque * (relative - 1)
    eye *= (np.hypot(ROWS - 32, COLUMNS - 32) < 31)[..., None]
    return np.clip(eye + generator.normal(0, 2, eye.shape), 0, 255).astype(np.uint8)


def to_tensor(images: list[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()


def left_or_right(number: int) -> list[tuple[float, float]]:
    return [(19.0 if number % 2 else 45.0, 28.0 + number % 8)]


@pytest.fixture(scope="module")
def eyes() -> Tensor:
    return to_tensor([wide_eye(number, left_or_right(number)) for number in range(60)])


@pytest.fixture(scope="module")
def finder(eyes: Tensor) -> DiscFinder:
    return calibrate_finder(eyes[:40])


def test_size_of_the_discs_is_learned(finder):
    # Drawn discs have a half width of 0.36 to 0.46, here of DISC / 2 pixels.
    assert 0.36 * DISC / 2 - 0.6 <= finder.radius <= 0.48 * DISC / 2 + 0.6


def test_drawn_eyes_have_one_disc_where_it_is_drawn(eyes, finder):
    assert (finder.count(eyes) == 1).mean() >= 0.95
    _, places = find_spots(eyes, finder.radius)
    truth = np.array([left_or_right(number)[0] for number in range(len(eyes))])
    # A drawn disc is up to 0.08 of DISC / 2 off the middle of its eye.
    assert (np.abs(places[:, 0] + 0.5 - truth).max(axis=1) < 2.5).mean() >= 0.95


def test_planted_second_discs_are_counted(finder):
    twice = [
        wide_eye(number, [(x, y), (WORK_SIZE - x, y)]) for number in range(100, 130) for x, y in left_or_right(number)
    ]
    counts = finder.count(to_tensor(twice))
    assert (counts == 2).mean() >= 0.9 and counts.min() >= 1


def test_retinas_without_a_disc_are_counted(finder):
    assert (finder.count(to_tensor([wide_eye(number, []) for number in range(200, 230)])) == 0).mean() >= 0.9


def test_drawn_eyes_around_the_disc_have_one():
    drawn = to_tensor([draw_phantom(3, number % 2, number, WORK_SIZE).image for number in range(40)])
    learned = calibrate_finder(drawn[:20])
    assert 10 <= learned.radius <= 14
    assert (learned.count(drawn[20:]) == 1).all()
    # Drawn within 0.08 half widths of the middle.
    assert np.abs(find_spots(drawn, learned.radius)[1][:, 0] + 0.5 - 32).max() < 6
    covered, away = drawn[20:].clone(), torch.from_numpy(np.hypot(ROWS - 32, COLUMNS - 32))
    retina = drawn[20:, :, (away > 20) & (away < 27)].float().median(dim=2).values.byte()
    covered[:, :, away < 20] = retina[:, :, None]
    assert (learned.count(covered) == 0).mean() >= 0.9


def test_bright_rim_and_stripe_are_no_disc(finder):
    plain = wide_eye(300, [])
    rim, stripe = plain.copy(), plain.copy()
    inside = np.hypot(ROWS - 32, COLUMNS - 32)
    rim[(inside > 26) & (inside < 31) & (COLUMNS < 32)] = 240
    stripe[28:36] = np.where(plain[28:36] > DARK, 240, plain[28:36])
    assert (finder.count(to_tensor([rim, stripe])) == 0).all()


def test_exposure_does_not_matter(eyes, finder):
    darker = (eyes.float() * 0.6).byte()
    assert (finder.count(darker) == finder.count(eyes)).mean() >= 0.9


def test_black_images_have_no_disc_and_no_images_none_to_learn_from(finder):
    assert finder.count(torch.zeros(2, 3, WORK_SIZE, WORK_SIZE, dtype=torch.uint8)).tolist() == [0, 0]
    with pytest.raises(DataError, match="no real images"):
        calibrate_finder(torch.zeros(0, 3, WORK_SIZE, WORK_SIZE, dtype=torch.uint8))
