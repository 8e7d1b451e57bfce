"""From a frame to [H, W, 3] uint8 in [0, 255]: the only place that hands a file to Pillow.

Pixels are converted in bands of rows, so that beside Pillow's image and the result there are no whole copies.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError, _imaging

from synthmed.data.decode.frame import BrokenImage, Frame, Grey, OtherImage

ImageArray = NDArray[np.uint8]

BAND_PIXELS = 1 << 20
# Blocks of an image above what the C library keeps for later (32 MB): they go back to the system when it is freed.
_imaging.set_block_size(64 << 20)

_ALPHA_MODES = ("RGBA", "LA", "PA", "La", "RGBa")


def decode_frame(frame: Frame, bits: int | None = None) -> tuple[ImageArray, int | None]:
    """Return the pixels, and the largest value of 16-bit grey whose header states no smaller depth.

    Args:
        frame: The image.
        bits: Depth of 16-bit grey values whose header states none; None takes the full range.

    Raises:
        BrokenImage: It has not all of its pixels.
        OtherImage: Of a kind that Pillow does not take, or values that need more than `bits`.
    """
    if not frame.endings:
        return _decode(frame, frame.data, bits)
    pixels, peak = _decode(frame, frame.data + frame.endings[0], bits)
    for ending in frame.endings[1:]:
        if not np.array_equal(_decode(frame, frame.data + ending, bits)[0], pixels):
            raise BrokenImage("image file is truncated")
    return pixels, peak


def _decode(frame: Frame, data: bytes, bits: int | None) -> tuple[ImageArray, int | None]:
    file = io.BytesIO(data)
    with _open(file, frame) as image:
        if image.size != frame.stored_size:
            raise BrokenImage("its header states two sizes")
        # Raises for a file cut short: Pillow fills the rest with grey only where LOAD_TRUNCATED_IMAGES is set.
        image.load()
        file.close()  # Pillow would keep the bytes, as long as the image
        pixels = np.empty((frame.height, frame.width, 3), dtype=np.uint8)
        peak = None
        if frame.grey is not None and frame.grey.bits > 8:
            peak = _fill_deep_grey(pixels, image, frame.grey, bits)
        else:
            _fill(pixels, image)
            if frame.grey is not None and frame.grey.inverted:
                np.subtract(255, pixels, out=pixels)
    return _turn_upright(pixels, frame.orientation), peak


def _open(file: io.BytesIO, frame: Frame) -> Image.Image:
    try:
        return Image.open(file, formats=(frame.format,))
    except UnidentifiedImageError as error:
        # Pillow's own words hold an address, which differs from run to run.
        if frame.values:
            raise OtherImage(f"has {frame.values}", "convert it to 8-bit grey or RGB") from error
        raise BrokenImage("its header is not valid") from error
    except Image.DecompressionBombError as error:
        raise BrokenImage("its header states two sizes") from error


def _bands(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """Yield (first row, rows of the image)."""
    rows = max(1, BAND_PIXELS // image.width)
    for top in range(0, image.height, rows):
        yield top, image.crop((0, top, image.width, min(top + rows, image.height)))


def _fill(pixels: ImageArray, image: Image.Image) -> None:
    """Write any of Pillow's modes with 8 bits as RGB, transparent pixels on black."""
    transparent = image.mode in _ALPHA_MODES or "transparency" in image.info
    # Some programs reserve the channel in a BMP and leave it empty.
    if image.format == "BMP" and image.mode == "RGBA" and image.getchannel("A").getextrema()[1] == 0:
        transparent = False
    for top, band in _bands(image):
        if transparent:
            black = Image.new("RGBA", band.size, (0, 0, 0, 255))
            band = Image.alpha_composite(black, band.convert("RGBA"))
        pixels[top : top + band.height] = np.asarray(band.convert("RGB"))


def _fill_deep_grey(pixels: ImageArray, image: Image.Image, grey: Grey, bits: int | None) -> int | None:
    """Write grey of more than 8 bits by a table; return its largest value where the header states no depth."""
    peak = max(int(_values(band, grey, pixels.shape[1]).max()) for _, band in _bands(image))
    full = 2**grey.bits - 1
    stated = grey.stated_top if grey.stated_top and peak <= grey.stated_top else None
    is_open = grey.bits == 16 and stated is None
    if is_open and bits is not None:
        if peak >= 2**bits:
            raise OtherImage(f"has values up to {peak}, more than {bits} bits hold", "--bits is for all images")
        stated = 2**bits - 1
    table = grey_table(grey, stated or full)
    for top, band in _bands(image):
        pixels[top : top + band.height] = table[_values(band, grey, pixels.shape[1])][:, :, None]
    return peak if is_open else None


def grey_table(grey: Grey, top: int) -> ImageArray:
    """Return the 8-bit grey of every value; `top` and what lies above it is white, or black where that is inverted."""
    values = np.minimum(np.arange(2**grey.bits), top)
    table = np.rint((top - values if grey.inverted else values) * 255 / top).astype(np.uint8)
    if grey.transparent is not None:
        table[grey.transparent] = 0
    return table


def _values(band: Image.Image, grey: Grey, width: int) -> NDArray[Any]:
    """Return the grey values of some rows as they are stored."""
    rows = np.asarray(band)
    if not grey.packed:
        return rows
    # Value i begins at bit i * bits, and with at most 15 bits lies in three bytes from there.
    first = np.arange(width) * grey.bits
    rows = np.pad(rows, ((0, 0), (0, 2))).astype(np.uint32)
    at = first // 8
    three = rows[:, at] << 16 | rows[:, at + 1] << 8 | rows[:, at + 2]
    values: NDArray[np.uint32] = three >> (24 - grey.bits - first % 8).astype(np.uint32) & (2**grey.bits - 1)
    return values


def _turn_upright(pixels: ImageArray, orientation: int) -> ImageArray:
    if orientation in (5, 6, 7, 8):
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)
