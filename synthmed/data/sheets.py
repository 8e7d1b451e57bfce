"""Contact sheets: images side by side, to look at. Images are [H, W, 3] uint8."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from synthmed.data.images import ImageArray


def contact_sheet(
    images: ImageArray, columns: int, *, row_titles: Sequence[str] | None = None, gap: int = 2, text_size: int = 10
) -> ImageArray:
    """Return images laid out row by row on dark grey, to look at.

    Args:
        images: [N, H, W, 3] uint8, N >= 1; the last row may be short.
        columns: Images in a row.
        row_titles: A line of text above each row; too few leave the last rows without.
        gap: Pixels between images and around them.
        text_size: Of the titles, in pixels.
    """
    count, height, width = images.shape[:3]
    titles = list(row_titles or [])
    strip = text_size + 4 if titles else 0
    rows = -(-count // columns)
    pitch = (height + strip + gap, width + gap)
    sheet = np.full((rows * pitch[0] + gap, min(columns, count) * pitch[1] + gap, 3), 32, dtype=np.uint8)
    for number, image in enumerate(images):
        row, column = divmod(number, columns)
        top, left = gap + row * pitch[0] + strip, gap + column * pitch[1]
        sheet[top : top + height, left : left + width] = image
    if not titles:
        return sheet
    picture = Image.fromarray(sheet)
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(text_size)
    for row, title in enumerate(titles[:rows]):
        draw.text((gap + 1, gap + row * pitch[0]), title, fill=(230, 230, 230), font=font)
    return np.asarray(picture)


def with_heading(
    sheet: ImageArray, lines: Sequence[str], *, columns: Sequence[str] = (), text_size: int = 14
) -> ImageArray:
    """Return a sheet with text above it.

    Args:
        sheet: The images.
        lines: Of text; what is wider than the sheet goes on in the next line.
        columns: Names of the sheet's columns, which are equally wide.
        text_size: In pixels.
    """
    font, width = ImageFont.load_default(text_size), sheet.shape[1]
    # On average a sign is about half as wide as it is high.
    shown = [part for line in lines for part in textwrap.wrap(line, max(1, int(width / (0.55 * text_size))))]
    pitch = text_size + 4
    strip = pitch * (len(shown) + bool(columns)) + 4
    picture = Image.fromarray(np.concatenate([np.full((strip, width, 3), 32, dtype=np.uint8), sheet]))
    draw = ImageDraw.Draw(picture)
    for number, line in enumerate(shown):
        draw.text((4, 2 + number * pitch), line, fill=(230, 230, 230), font=font)
    for number, name in enumerate(columns):
        place = (4 + number * width // len(columns), 2 + len(shown) * pitch)
        draw.text(place, name, fill=(255, 220, 120), font=font)
    return np.asarray(picture)
