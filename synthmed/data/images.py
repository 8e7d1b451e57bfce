"""Image bytes to pixels and back: safe decoding, resizing, encoding that says what is synthetic, contact sheets.

Images here are [H, W, 3] uint8 in [0, 255].
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Mapping
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, PngImagePlugin, UnidentifiedImageError

from synthmed.errors import DataError

ImageArray = NDArray[np.uint8]
ImageFormat = Literal["png", "webp", "jpg"]
ResizeMethod = Literal["crop", "stretch"]
DigitalSource = Literal["trainedAlgorithmicMedia", "algorithmicMedia"]

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp"})
DECODED_FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP")
MAX_PIXELS = 64_000_000  # 192 MB as RGB; the largest photographs of the supported releases have about 20 million

# What Pillow's decoders raise on broken files, found with cut and flipped bytes; UnidentifiedImageError is an OSError.
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
_BOMB = (Image.DecompressionBombError, Image.DecompressionBombWarning)

_XMP = (
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description rdf:about="" xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"'
    ' Iptc4xmpExt:DigitalSourceType="http://cv.iptc.org/newscodes/digitalsourcetype/{source}"/>'
    '</rdf:RDF></x:xmpmeta><?xpacket end="r"?>'
)


def decode_image(data: bytes, name: str, *, max_pixels: int = MAX_PIXELS) -> ImageArray:
    """Return an encoded image as RGB pixels, upright as its EXIF orientation says.

    Grey is repeated to three channels, 16-bit grey is scaled from its full range (65535 becomes 255), transparent
    pixels are laid on black, and of several frames the first is taken.

    Args:
        data: PNG, JPEG, WebP, TIFF or BMP.
        name: What to call the image in an error.
        max_pixels: Largest width times height; read from the header, before any pixel is decoded.

    Raises:
        DataError: The bytes are no such image, are cut short or hold too many pixels.
    """
    try:
        with Image.open(io.BytesIO(data), formats=DECODED_FORMATS) as image:
            if image.width * image.height > max_pixels:
                raise DataError(f"{name} has too many pixels: {image.width} x {image.height}", f"at most {max_pixels}")
            # Raises for a file cut short: Pillow fills the rest with grey only where LOAD_TRUNCATED_IMAGES is set.
            image.load()
            return np.ascontiguousarray(_to_rgb(ImageOps.exif_transpose(image), name))
    except _BOMB as error:
        raise DataError(f"{name} has too many pixels", f"at most {max_pixels}") from error
    except UnidentifiedImageError as error:
        # Pillow's own words hold an address, which differs from run to run.
        raise DataError(f"{name} is not an image", "PNG, JPEG, WebP, TIFF and BMP are read") from error
    except _BROKEN_IMAGE as error:
        raise DataError(f"{name} is a broken image: {error}") from error


def check_checksums(data: bytes, name: str) -> None:
    """Check the CRC of every chunk of a PNG, which decoding does not; other formats have none.

    Raises:
        DataError: A checksum is wrong.
    """
    try:
        with Image.open(io.BytesIO(data), formats=DECODED_FORMATS) as image:
            image.verify()
    except _BROKEN_IMAGE as error:
        raise DataError(f"{name} is a broken image: {error}") from error


def detect_format(data: bytes) -> ImageFormat | None:
    """Return what an encoded image is by its first bytes; None if it is no PNG, WebP or JPEG."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "webp"
    return "jpg" if data.startswith(b"\xff\xd8\xff") else None


def _to_rgb(image: Image.Image, name: str) -> ImageArray:
    """Return any of Pillow's modes as [H, W, 3] uint8."""
    # Older Pillow opens 16-bit PNG as 32-bit "I".
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):
        values = np.asarray(image).astype(np.float64)
        grey = np.rint(np.clip(values, 0, 65535) / 257).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.mode in ("I", "F"):
        raise DataError(f"{name} has 32 bits a pixel", "convert it to 8 or 16 bits")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        black = Image.new("RGBA", image.size, (0, 0, 0, 255))
        image = Image.alpha_composite(black, image.convert("RGBA"))
    return np.asarray(image.convert("RGB"))


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
