"""Draw eye-fundus images whose cup-to-disc ratio is known.

Owns the embedded data set: what an eye looks like, how its class is drawn, and the best AUROC anyone can reach on it.

Lengths are in half image widths: x to the right and y downwards, both in [-1, 1], the same at any size.
Shapes: H = W = size; M = canvas side (2 * size); V vessels of S points each.
An ellipse is [5] = (centre x, centre y, log horizontal semi-axis, log vertical semi-axis, log edge softness).
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

Floats = NDArray[np.float64]
Vessels = tuple[Floats, Floats, NDArray[np.bool_]]
"""Points [V, S, 2], widths [V, S], and which are arteries [V]."""

CLASSES: tuple[str, ...] = ("no-glaucoma", "glaucoma")
CUP_TO_DISC_MEANS = (0.43, 0.63)
CUP_TO_DISC_SIGMA = 0.11
CUP_TO_DISC_RANGE = (0.2, 0.88)

VESSEL_STEPS = 20
# Share of red, green and blue light that a vessel takes away.
ARTERY_ABSORBS = np.array([0.20, 0.44, 0.45], dtype=np.float32)
VEIN_ABSORBS = np.array([0.36, 0.60, 0.56], dtype=np.float32)


@dataclass(frozen=True)
class Phantom:
    """A drawn eye and the truth about it."""

    image: NDArray[np.uint8]
    """[size, size, 3] RGB in [0, 255]."""
    label: int
    """Index into CLASSES."""
    cup_to_disc: float
    """Vertical cup diameter over vertical disc diameter."""


def best_auroc(num_points: int = 20001) -> float:
    """Return the AUROC of the true cup-to-disc ratio, the highest that any reader of these images can have.

    Two normals of equal sigma cut to the same range keep a likelihood ratio that rises with the ratio itself, so
    by Neyman and Pearson no other statistic ranks better; nothing else in the image depends on the label. The
    value is the integral of glaucoma's density times the other class's distribution function (trapezoid rule).
    """
    ratio = np.linspace(*CUP_TO_DISC_RANGE, num_points)
    density = [np.exp(-0.5 * ((ratio - mean) / CUP_TO_DISC_SIGMA) ** 2) for mean in CUP_TO_DISC_MEANS]
    below = np.concatenate([[0.0], np.cumsum(density[0][1:] + density[0][:-1])])
    weight = density[1].copy()
    weight[[0, -1]] *= 0.5
    return float((weight * below).sum() / (weight.sum() * below[-1]))


BEST_AUROC: float = best_auroc()


def draw_phantom(seed: int, label: int, index: int, size: int) -> Phantom:
    """Return eye `index` of a class; it depends on the arguments alone, and size is only its resolution.

    Args:
        seed: of the whole data set, >= 0.
        label: index into CLASSES.
        index: of the eye within its class, >= 0.
        size: image width and height in pixels, >= 32.

    Raises:
        ValueError: for a label outside CLASSES or a smaller size.
    """
    # The ratio has its own stream: how many numbers it takes must not shift the look of the eye.
    ratio_rng, eye_rng = (np.random.default_rng(s) for s in np.random.SeedSequence((seed, label, index)).spawn(2))
    cup_to_disc = sample_cup_to_disc(label, ratio_rng)
    return Phantom(draw_fundus(cup_to_disc, size, eye_rng), label, cup_to_disc)


def sample_cup_to_disc(label: int, rng: np.random.Generator) -> float:
    """Return a vertical cup-to-disc ratio of the class: a normal cut to CUP_TO_DISC_RANGE."""
    if label not in range(len(CLASSES)):
        raise ValueError(f"label must be 0 to {len(CLASSES) - 1}: {label}")
    low, high = CUP_TO_DISC_RANGE
    while not low <= (ratio := rng.normal(CUP_TO_DISC_MEANS[label], CUP_TO_DISC_SIGMA)) <= high:
        pass
    return float(ratio)


def draw_fundus(cup_to_disc: float, size: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Return a fundus photograph around the optic disc: [size, size, 3] RGB uint8 in [0, 255].

    Args:
        cup_to_disc: vertical cup diameter over vertical disc diameter, in (0, 1).
        size: image width and height in pixels, >= 32.
        rng: gives all else: colours, light, place and shape of the disc, vessels, noise.
    """
    if size < 32:
        raise ValueError(f"size must be at least 32 pixels: {size}")
    canvas = 2 * size
    axis = ((np.arange(canvas) + 0.5) / size - 1).astype(np.float32)
    x, y = axis[None, :], axis[:, None]
    temporal = float(rng.choice([-1.0, 1.0]))  # the side of the macula: right or left eye
    disc, cup = _disc_and_cup(cup_to_disc, temporal, rng)
    on_disc, on_cup = _coverage(x, y, disc), _coverage(x, y, cup)

    retina, rim, cup_colour = _colours(rng)
    rim_light = 1 + rng.uniform(0.0, 0.06) * temporal * x + rng.uniform(-0.03, 0.03) * y
    # [3, M, M] until the end: numpy is several times slower over a last axis of 3.
    picture = retina * _choroid(x, y, temporal, canvas, rng)
    picture += on_disc * (rim * rim_light - picture)
    picture += on_cup * (cup_colour - picture)
    for absorbed, opacity in _vessel_layers(disc, temporal, canvas, rng):
        picture *= 1 - absorbed * opacity
    picture *= _light(x, y, rng)

    # The box mean of 2 x 2 canvas pixels of every pixel.
    picture = picture[:, 0::2] + picture[:, 1::2]
    picture = 0.25 * (picture[..., 0::2] + picture[..., 1::2])
    blur = rng.uniform(0.008, 0.016) * size / 2  # half widths to pixels
    photo = Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8).transpose(1, 2, 0).copy())
    photo = photo.filter(ImageFilter.GaussianBlur(blur))
    # Noise comes last, because its count of draws depends on the size and nothing else may.
    level = rng.uniform(1.5, 3.5)
    noise = rng.standard_normal((size, size, 4), dtype=np.float32)
    noisy = np.asarray(photo, dtype=np.float32) + level * (0.6 * noise[..., :1] + 0.6 * noise[..., 1:])
    return np.clip(np.rint(noisy), 0, 255).astype(np.uint8)


def _disc_and_cup(cup_to_disc: float, temporal: float, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Place the two ellipses; the cup keeps a rim on every side however large it is."""
    width = rng.uniform(0.36, 0.46)
    height = width * rng.uniform(1.0, 1.1)
    x, y = rng.uniform(-0.08, 0.08, 2)
    disc = np.array([x, y, math.log(width), math.log(height), math.log(rng.uniform(0.035, 0.055))])
    cup_width, room = cup_to_disc * width * rng.uniform(0.9, 1.04), 1 - cup_to_disc
    cup_x = x + temporal * width * room * rng.uniform(-0.05, 0.3)
    cup_y = y + height * room * rng.uniform(-0.2, 0.2)
    softness = math.log(rng.uniform(0.018, 0.026) / (cup_to_disc * width))
    return disc, np.array([cup_x, cup_y, math.log(cup_width), math.log(cup_to_disc * height), softness])


def _coverage(x: NDArray[np.float32], y: NDArray[np.float32], ellipse: Floats) -> NDArray[np.float32]:
    """Return how much of each pixel the ellipse covers, in [0, 1], one half on its edge."""
    cx, cy, *logs = (float(v) for v in ellipse)
    width, height, softness = (math.exp(v) for v in logs)
    radius = np.sqrt(((x - cx) / width) ** 2 + ((y - cy) / height) ** 2)
    return np.asarray(0.5 + 0.5 * np.tanh((1 - radius) / (2 * softness)), dtype=np.float32)


def _colours(rng: np.random.Generator) -> NDArray[np.float32]:
    """Return [3, 3, 1, 1] RGB of retina, rim and cup; green and blue rise at both steps, red is nearly full."""
    green = rng.uniform(72, 104)
    retina = [rng.uniform(182, 222), green, green * rng.uniform(0.35, 0.62)]
    rim = [min(retina[0] + 32, 243.0), green + rng.uniform(54, 74), retina[2] + rng.uniform(32, 50)]
    cup = [min(rim[0] + 10, 250.0), rim[1] + rng.uniform(40, 54), rim[2] + rng.uniform(48, 72)]
    return np.array([retina, rim, cup], dtype=np.float32)[..., None, None]


def _smooth_noise(shape: tuple[int, int], canvas: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Return [M, M] noise of unit scale that varies over `shape` = (columns, rows) bumps."""
    grid = Image.fromarray(rng.standard_normal(shape[::-1], dtype=np.float32))
    return np.asarray(grid.resize((canvas, canvas), Image.Resampling.BICUBIC), dtype=np.float32)


def _choroid(
    x: NDArray[np.float32], y: NDArray[np.float32], temporal: float, canvas: int, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Return [3, M, M] factors on the retina's colour: choroid, nerve fibres and the way to the macula."""
    patches = rng.uniform(0.02, 0.05) * _smooth_noise((6, 6), canvas, rng)
    streaks = rng.uniform(0.02, 0.06) * _smooth_noise((12, 24), canvas, rng)
    macula = rng.uniform(0.05, 0.20) / (1 + np.exp(-6 * (temporal * x - 0.9))) * np.exp(-2 * y**2)
    fibres = rng.uniform(0.0, 0.08) * np.exp(-((np.abs(y) - 0.6) ** 2) / 0.08) * np.exp(-(x**2) / 0.3)
    depth = patches + streaks - macula + fibres
    return np.asarray(1 + depth * np.array([0.6, 1.0, 0.9])[:, None, None], dtype=np.float32)


def _light(x: NDArray[np.float32], y: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Return [M, M] factors: uneven flash, vignetting and the camera's round aperture."""
    slope_x, slope_y = rng.uniform(-0.10, 0.10, 2).tolist()
    off_x, off_y = rng.uniform(-0.15, 0.15, 2).tolist()
    vignette = rng.uniform(0.10, 0.28) * ((x - off_x) ** 2 + (y - off_y) ** 2)
    view_x, view_y, view = rng.uniform(-0.03, 0.03), rng.uniform(-0.03, 0.03), rng.uniform(0.98, 1.05)
    outside = (np.hypot(x - view_x, y - view_y) - view) / rng.uniform(0.008, 0.02)
    aperture = 0.5 - 0.5 * np.tanh(outside)
    exposure = rng.uniform(0.9, 1.04)
    lit = exposure * (1 + slope_x * x + slope_y * y - vignette)
    return np.asarray(0.02 + aperture * lit, dtype=np.float32)


def _vessel_layers(
    disc: Floats, temporal: float, canvas: int, rng: np.random.Generator
) -> list[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """Return (absorbed [3, 1, 1], opacity [M, M] in [0, 1]) of the veins, then of the arteries above them."""
    points, widths, is_artery = _vessel_tree(disc, temporal, rng)
    heading = np.gradient(points, axis=1)
    normal = heading[..., ::-1] * [-1, 1] / np.linalg.norm(heading, axis=-1, keepdims=True)
    layers = []
    for artery, absorbed in ((False, VEIN_ABSORBS), (True, ARTERY_ABSORBS)):
        layer = Image.new("L", (2 * canvas, 2 * canvas))
        pen = ImageDraw.Draw(layer)
        # Arteries carry a pale streak along the middle, the flash on their wall, once pixels can show it.
        for share, ink in ((0.5, 255), (0.17, 165))[: 2 if artery and canvas >= 256 else 1]:
            offset = share * widths[..., None] * normal
            outline = np.concatenate([points + offset, (points - offset)[:, ::-1]], axis=1)
            pixels = (outline[is_artery == artery] + 1) * canvas
            for polygon in pixels.reshape(len(pixels), -1).tolist():
                pen.polygon(polygon, fill=ink)
        opacity = np.asarray(layer.reduce(2), dtype=np.float32) * (rng.uniform(0.75, 1.0) / 255)
        layers.append((absorbed[:, None, None], opacity))
    return layers


def _vessel_tree(disc: Floats, temporal: float, rng: np.random.Generator) -> Vessels:
    """Grow the vessels: trunks with their branches, and a few twigs that cross the rim sideways."""
    trunks, angles, up = _trunks(disc, temporal, rng)
    branches = _branches(trunks, angles, up, temporal, rng)
    points, widths, is_artery = zip(trunks, branches, _twigs(disc, temporal, rng), strict=True)
    return np.concatenate(points), np.concatenate(widths), np.concatenate(is_artery)


def _trunks(disc: Floats, temporal: float, rng: np.random.Generator) -> tuple[Vessels, Floats, Floats]:
    """Grow an artery and a vein into each quadrant; return also their angles [8, S] and which go up (1) or down (-1).

    Temporal pairs arch round the macula, nasal ones run straighter.
    """
    up = np.repeat([-1.0, 1.0], 4)
    side = np.tile([1.0, 1.0, -1.0, -1.0], 2)  # 1: temporal
    artery = np.tile([True, False], 4)
    across = temporal * (rng.uniform(-0.10, 0.0) + 0.04 * side + rng.normal(0, 0.015, 8))
    origin = disc[:2] + np.stack([across, -0.03 * up * rng.random(8)], 1)
    # Angles are measured from the vertical towards the macula; (temporal, up) turn them into the image.
    angle = np.where(side > 0, rng.uniform(-0.05, 0.45, 8), rng.uniform(-0.8, -0.3, 8)) + 0.16 * artery * side
    bend = np.where(side > 0, rng.uniform(0.3, 1.1, 8), rng.uniform(-0.5, 0.2, 8))
    width = np.where(artery, rng.uniform(0.030, 0.042, 8), rng.uniform(0.042, 0.058, 8))
    width *= np.where(side > 0, 1.0, 0.75)
    points, angles = _grow(origin, angle, bend, np.full(8, 1.5), math.exp(disc[3]), temporal, up, rng)
    return (points, width[:, None] * np.linspace(1.0, 0.55, VESSEL_STEPS), artery), angles, up


def _branches(trunks: Vessels, angles: Floats, up: Floats, temporal: float, rng: np.random.Generator) -> Vessels:
    """Grow three branches from every trunk."""
    points, widths, is_artery = trunks
    parent = np.repeat(np.arange(8), 3)
    fork = rng.integers(6, 16, 24)
    turn = rng.choice([-1.0, 1.0], 24) * rng.uniform(0.35, 0.8, 24)
    bend = -0.4 * turn + rng.normal(0, 0.4, 24)
    length = rng.uniform(0.4, 1.0, 24)
    start, angle = points[parent, fork], angles[parent, fork] + turn
    grown, _ = _grow(start, angle, bend, length, 0.0, temporal, up[parent], rng)
    width = widths[parent, fork, None] * np.linspace(0.62, 0.25, VESSEL_STEPS)
    return grown, width, is_artery[parent]


def _twigs(disc: Floats, temporal: float, rng: np.random.Generator) -> Vessels:
    """Grow five thin vessels sideways over the rim."""
    centre, height = disc[:2], math.exp(disc[3])
    up, side = rng.choice([-1.0, 1.0], (2, 5))
    start = centre + height * np.stack([0.55 * temporal * side, 0.35 * up * rng.random(5)], 1)
    angle, bend, length = side * rng.uniform(1.1, 1.6, 5), rng.normal(0, 0.4, 5), rng.uniform(0.4, 0.9, 5)
    points, _ = _grow(start, angle, bend, length, height, temporal, up, rng)
    widths = np.full((5, 1), 0.018) * np.linspace(1.0, 0.5, VESSEL_STEPS)
    return points, widths, rng.random(5) < 0.5


def _grow(
    start: Floats,
    angle: Floats,
    bend: Floats,
    length: Floats,
    rim: float,
    temporal: float,
    up: Floats,
    rng: np.random.Generator,
) -> tuple[Floats, Floats]:
    """Follow headings from `start` [V, 2]: points [V, S, 2], angles [V, S]; vessels bend after length `rim`."""
    count = len(start)
    along = np.linspace(0, 1, VESSEL_STEPS) * length[:, None]
    phase, kink = rng.uniform(0, 2 * np.pi, (count, 1)), rng.normal(0, 0.22, (count, 1))
    wave = rng.uniform(0.05, 0.22, (count, 1)) * np.sin(rng.uniform(4, 11, (count, 1)) * along + phase)
    over_rim = kink * np.tanh((along - rim) / 0.05) if rim else 0.0
    angles = angle[:, None] + bend[:, None] * along + wave - wave[:, :1] + over_rim
    step = (length / (VESSEL_STEPS - 1))[:, None]
    moves = np.stack([temporal * np.sin(angles) * step, up[:, None] * np.cos(angles) * step], -1)
    return start[:, None] + np.cumsum(moves, axis=1) - moves[:, :1], angles
