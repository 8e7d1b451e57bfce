"""Image bytes to pixels and back: safe decoding, resizing, encoding that says what is synthetic, contact sheets.

Images here are [H, W, 3] uint8 in [0, 255].
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image, PngImagePlugin

from synthmed.data.decode.frame import BrokenImage, OtherImage
from synthmed.data.decode.kinds import ALL_KINDS, Kind, find_kind, read_frame
from synthmed.data.decode.pixels import BAND_PIXELS, decode_frame
from synthmed.data.decode.pixels import ImageArray as ImageArray
from synthmed.data.decode.png import check_png
from synthmed.errors import DataError
from synthmed.runtime.memory import IMAGES

ImageFormat = Literal["png", "webp", "jpg"]
ResizeMethod = Literal["crop", "stretch"]
DigitalSource = Literal["trainedAlgorithmicMedia", "algorithmicMedia"]

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp"})
SHARD_KINDS: tuple[Kind, ...] = ("PNG", "WebP", "JPEG")
"""What shards may hold."""
MAX_PIXELS = 64_000_000  # 192 MB as RGB; the largest photographs of the supported releases have about 20 million

# What Pillow's decoders raise on broken files, found with cut and flipped bytes.
_BROKEN_IMAGE = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    OverflowError,
    ZeroDivisionError,
    struct.error,
    zlib.error,
)

_XMP = (
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description rdf:about="" xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"'
    ' Iptc4xmpExt:DigitalSourceType="http://cv.iptc.org/newscodes/digitalsourcetype/{source}"/>'
    '</rdf:RDF></x:xmpmeta><?xpacket end="r"?>'
)


@dataclass(frozen=True)
class Decoded:
    """An image, and what a set is judged by."""

    pixels: ImageArray
    peak: int | None
    """Largest value of 16-bit grey whose header states no smaller depth; None for all other images."""


def decode_image(
    data: bytes, name: str, *, kinds: Sequence[Kind] = ALL_KINDS, max_pixels: int = MAX_PIXELS, bits: int | None = None
) -> ImageArray:
    """Return an encoded image as RGB pixels, upright as its EXIF orientation says; see `decode`."""
    return decode(data, name, kinds=kinds, max_pixels=max_pixels, bits=bits).pixels


def decode(
    data: bytes, name: str, *, kinds: Sequence[Kind] = ALL_KINDS, max_pixels: int = MAX_PIXELS, bits: int | None = None
) -> Decoded:
    """Decode an image as its header means it.

    Grey is repeated to three channels. Grey of more than 8 bits is scaled from the full range of its depth, which a
    TIFF states (BitsPerSample, or MaxSampleValue where that is all ones in binary); colours of 16 bits keep the upper
    8. White is 255 also where the file has it as zero. Transparent pixels are laid on black, and of several frames or
    pages the first is taken. Metadata is never decoded, and a JPEG or PNG that lacks only its end has its pixels.

    Args:
        data: The file's bytes.
        name: What to call the image in an error.
        kinds: What the bytes may be, whatever the name says.
        max_pixels: Largest width times height; read from the header, before any pixel is decoded.
        bits: Depth of 16-bit grey values whose header states none; None takes the full range.

    Raises:
        DataError: The bytes are no such image, are cut short, hold too many pixels or values of another kind.
    """
    try:
        with IMAGES.task():
            frame = read_frame(data, kinds, max_pixels)
            IMAGES.need(frame.memory)
            return Decoded(*decode_frame(frame, bits))
    except OtherImage as error:
        raise DataError(f"{name} {error}", error.remedy) from error
    except _BROKEN_IMAGE as error:
        raise DataError(f"{name} is a broken image: {error}") from error


def check_checksums(data: bytes, name: str) -> None:
    """Check the CRC of every chunk of a PNG, which decoding does not; other formats have none.

    Raises:
        DataError: A checksum is wrong.
    """
    try:
        kind = find_kind(data)
        if kind is None:
            raise BrokenImage("nothing that is known")
        if kind == "PNG":
            check_png(data)
    except BrokenImage as error:
        raise DataError(f"{name} is a broken image: {error}") from error


def detect_format(data: bytes) -> ImageFormat | None:
    """Return what an encoded image is by its first bytes; None if it is no PNG, WebP or JPEG."""
    formats: dict[Kind | None, ImageFormat] = {"PNG": "png", "WebP": "webp", "JPEG": "jpg"}
    return formats.get(find_kind(data))


def resize_image(image: ImageArray, size: int | tuple[int, int], method: ResizeMethod) -> ImageArray:
    """Return an image as [size, size, 3], by Pillow's bilinear filter, which widens when it shrinks (antialiased).

    Args:
        image: [H, W, 3] uint8.
        size: New side, or height and width, in pixels.
        method: "crop" keeps the largest part around the centre that has the new proportions; "stretch" keeps all, and
            not the proportions.
    """
    height, width = image.shape[:2]
    new_height, new_width = (size, size) if isinstance(size, int) else size
    if (height, width) == (new_height, new_width):
        return image
    # The part of the source that is kept, in source pixels: Pillow resamples straight from that box.
    left = top = 0.0
    if method == "crop":
        left = (width - min(width, height * new_width / new_height)) / 2
        top = (height - min(height, width * new_height / new_width)) / 2
    box = (left, top, width - left, height - top)
    resized = Image.fromarray(image).resize((new_width, new_height), Image.Resampling.BILINEAR, box=box)
    return np.asarray(resized)


def is_grey(image: ImageArray, tolerance: int = 0) -> bool:
    """Say whether the channels of an image differ in no pixel by more than a tolerance, in grey levels."""
    rows = max(1, BAND_PIXELS // image.shape[1])
    for top in range(0, len(image), rows):
        red, green, blue = np.moveaxis(image[top : top + rows], 2, 0)
        most, least = np.maximum(np.maximum(red, green), blue), np.minimum(np.minimum(red, green), blue)
        if (most - least).max() > tolerance:
            return False
    return True


def to_grey(image: ImageArray) -> ImageArray:
    """Return an image's luma (ITU-R 601) repeated in three channels."""
    grey = np.asarray(Image.fromarray(image).convert("L"))
    return np.repeat(grey[:, :, None], 3, axis=2)


def stretch_range(image: ImageArray) -> ImageArray:
    """Return an image with its own darkest and brightest value moved to 0 and 255; a flat image as it is."""
    low, high = int(image.min()), int(image.max())
    if high == low:
        return image
    return np.rint((image.astype(np.float64) - low) * (255 / (high - low))).astype(np.uint8)


def encode_image(
    image: ImageArray,
    image_format: ImageFormat,
    *,
    text: Mapping[str, str] | None = None,
    synthetic: bool = False,
    digital_source: DigitalSource = "trainedAlgorithmicMedia",
) -> bytes:
    """Return an image as bytes that are the same for the same pixels and text.

    Args:
        image: [H, W, 3] uint8.
        image_format: png (level 1: twice as fast as 6, a tenth larger), webp (lossless) or jpg (95, 4:4:4).
        text: PNG text chunks, written in the order of their keys; the other formats have no place for them.
        synthetic: Say inside the file that no patient was imaged: in an XMP packet, and in PNG text as well.
        digital_source: IPTC's word for how a synthetic image came to be; `algorithmicMedia` is one that was drawn.
    """
    xmp = _XMP.format(source=digital_source).encode() if synthetic else b""
    buffer = io.BytesIO()
    picture = Image.fromarray(image)
    if image_format == "png":
        picture.save(buffer, "PNG", compress_level=1, pnginfo=_png_text(text or {}, xmp))
    elif image_format == "webp":
        # Method 0 is eight times as fast as the default and a little larger.
        picture.save(buffer, "WEBP", lossless=True, quality=0, method=0, xmp=xmp)
    else:
        picture.save(buffer, "JPEG", quality=95, subsampling=0, **({"xmp": xmp} if xmp else {}))
    return buffer.getvalue()


def _png_text(text: Mapping[str, str], xmp: bytes) -> PngImagePlugin.PngInfo:
    chunks = PngImagePlugin.PngInfo()
    for key, value in sorted({**text, **({"synthetic": "true"} if xmp else {})}.items()):
        chunks.add_text(key, value)
    if xmp:
        chunks.add_itxt("XML:com.adobe.xmp", xmp.decode())
    return chunks
