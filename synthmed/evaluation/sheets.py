"""Sheets of images to look at. They show real patients: none must go where the real images may not."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from synthmed.data.images import ImageArray
from synthmed.data.pixels import to_rgb_arrays
from synthmed.data.sets.image_set import ImageSet
from synthmed.data.sheets import contact_sheet
from synthmed.evaluation.copies import CopyReport

MIN_SIDE = 96
"""Smaller images are shown larger, in whole multiples."""
AMPLIFIED = 4


def draw_pairs(report: CopyReport, *, training: ImageSet, generated: ImageSet, pairs: int = 12) -> ImageArray:
    """Return a sheet of the generated images nearest to training images.

    A row holds the generated image, its nearest training image (mirrored where that fits), and four times their
    difference.

    Args:
        report: Of these sets.
        training: Of one image size with the generated images.
        generated: The images of the report's rows.
        pairs: Rows at most.
    """
    order = sorted(enumerate(report.rows), key=lambda place: (place[1].p, place[1].closest.ratio))[:pairs]
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
    titles = [f"p {row.p:.3g}{' suspect' * row.suspect}" for row in rows]
    return contact_sheet(np.stack(tiles), 3, row_titles=titles)


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
    return stack_rows(rows, count)


def stack_rows(rows: Mapping[str, ImageArray], count: int) -> ImageArray:
    """Return a sheet of rows of images with titles, all with room for `count`; small images are enlarged.

    A row is [n, H, W, 3] uint8, n <= count, and all are of one size.
    """
    height, width = next(iter(rows.values())).shape[1:3]
    scale = max(1, -(-MIN_SIDE // min(height, width)))
    sheet = np.full((len(rows), count, height, width, 3), 32, dtype=np.uint8)
    for row, images in zip(sheet, rows.values(), strict=True):
        row[: len(images)] = images
    large = sheet.reshape(-1, height, width, 3).repeat(scale, axis=1).repeat(scale, axis=2)
    return contact_sheet(large, count, row_titles=list(rows), gap=4, text_size=max(14, width * scale // 12))
