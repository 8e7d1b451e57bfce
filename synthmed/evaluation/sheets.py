"""Sheets of images to look at. They show real patients: none must go where the real images may not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from synthmed.data.images import ImageArray
from synthmed.data.pixels import to_rgb_arrays
from synthmed.data.sets.image_set import ImageSet
from synthmed.data.sheets import contact_sheet, with_heading
from synthmed.evaluation.copies import CopyReport, CopyRow

MIN_SIDE = 96
PAIR_SIDE = 160
"""Smaller images are shown larger, in whole multiples; those of pairs so large that the words above them have room."""
AMPLIFIED = 4
WARNING = "Shows real images: treat this picture like the data."


def draw_pairs(
    report: CopyReport,
    *,
    training: ImageSet,
    generated: ImageSet,
    pairs: int = 12,
    real_title: str = "nearest real (training)",
    heading: Sequence[str] = (),
) -> ImageArray:
    """Return a sheet of the generated images nearest to training images.

    A row holds the generated image, its nearest training image (mirrored where that fits), and four times their
    difference; above it stands how far apart they are.

    Args:
        report: Of these sets.
        training: Of one image size with the generated images.
        generated: The images of the report's rows.
        pairs: Rows at most.
        real_title: What stands above the training images.
        heading: Lines above all.
    """
    order = sorted(enumerate(report.rows), key=lambda place: (place[1].p or 0, place[1].closest.ratio))[:pairs]
    rows = [row for _, row in order]
    places = {key: index for index, key in enumerate(training.keys)}
    made = to_rgb_arrays(generated.load([index for index, _ in order]))
    real = to_rgb_arrays(training.load([places[row.closest.key] for row in rows]))
    tiles = []
    for image, other, row in zip(made, real, rows, strict=True):
        shown = other[:, ::-1] if row.closest.mirrored else other
        difference = np.abs(image.astype(np.int64) - shown) * AMPLIFIED
        tiles += [image, shown, np.minimum(difference, 255).astype(np.uint8)]
    # Without keys: they are long, and those of real images do not belong in a picture.
    titles = [_pair_title(row, report) for row in rows]
    sheet = contact_sheet(_enlarge(np.stack(tiles), PAIR_SIDE), 3, row_titles=titles, gap=4, text_size=13)
    return with_heading(sheet, [*heading, WARNING], columns=("synthetic", real_title, f"difference x {AMPLIFIED}"))


def _pair_title(row: CopyRow, report: CopyReport) -> str:
    """Return how far the two images shown are apart: in the space in which the real one is nearest."""
    scores = report.features
    space = f"{scores.extractor} features" if scores and row.closest is row.features else "pixels"
    words = f"distance {row.closest.distance:.3g} in {space}"
    return words if row.p is None else f"{words}; p {row.p:.3g}{', suspect' * bool(row.suspect)}"


def draw_examples(*, real: ImageSet, generated: Mapping[str, ImageSet], count: int = 8) -> ImageArray:
    """Return a sheet with rows of `count` images of each class: real ones, and below them those of each generated set.

    They are the first of each set: sets are in no meaningful order.

    Args:
        real: Its classes make the rows.
        generated: Sets of the same classes.
        count: Images in a row.
    """
    rows: dict[str, ImageArray] = {}
    for label, name in enumerate(real.classes):
        for title, images in {"real": real, **generated}.items():
            shown = np.flatnonzero(images.labels == label)[:count]
            rows[f"{name}: {title}"] = to_rgb_arrays(images.load(shown))
    return with_heading(stack_rows(rows, count), [WARNING])


def stack_rows(rows: Mapping[str, ImageArray], count: int) -> ImageArray:
    """Return a sheet of rows of images with titles, all with room for `count`; small images are enlarged.

    A row is [n, H, W, 3] uint8, n <= count, and all are of one size.
    """
    height, width = next(iter(rows.values())).shape[1:3]
    sheet = np.full((len(rows), count, height, width, 3), 32, dtype=np.uint8)
    for row, images in zip(sheet, rows.values(), strict=True):
        row[: len(images)] = images
    large = _enlarge(sheet.reshape(-1, height, width, 3), MIN_SIDE)
    return contact_sheet(large, count, row_titles=list(rows), gap=4, text_size=max(14, large.shape[2] // 12))


def _enlarge(images: ImageArray, side: int) -> ImageArray:
    """Return images [N, H, W, 3] as often larger as makes their shorter side at least so long."""
    scale = max(1, -(-side // min(images.shape[1:3])))
    return images.repeat(scale, axis=1).repeat(scale, axis=2)
