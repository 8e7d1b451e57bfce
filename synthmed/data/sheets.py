"""Contact sheets: images side by side, to look at. Images are [H, W, 3] uint8."""

from __future__ import annotations

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
