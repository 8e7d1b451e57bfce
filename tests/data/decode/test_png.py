"""PNG as its header means it; files are written here by hand, chunk by chunk."""

import struct
import zlib
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from synthmed.data.images import decode, decode_image
from synthmed.errors import DataError

GREY, RGB, PALETTE, GREY_ALPHA, RGBA = 0, 2, 3, 4, 6
Values = NDArray[Any]


def chunk(kind: bytes, data: bytes = b"") -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(values: Values, bits: int, colour: int = GREY, before: bytes = b"", end: bytes = chunk(b"IEND")) -> bytes:
    """Return a PNG of [H, W] or [H, W, channels], with other chunks before its pixels."""
    height, width = values.shape[:2]
    digits = values.reshape(height, -1)[..., None] >> np.arange(bits)[::-1] & 1
    rows = np.packbits(digits.reshape(height, -1).astype(np.uint8), axis=1)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    pixels = zlib.compress(np.pad(rows, ((0, 0), (1, 0))).tobytes())
    return b"\x89PNG\r\n\x1a\n" + header + before + chunk(b"IDAT", pixels) + end


def noise(bits: int, *shape: int) -> Values:
    return np.random.default_rng(bits).integers(0, 2**bits, shape)


def grey(values: Values, bits: int) -> Values:
    return np.repeat(np.rint(values * 255 / (2**bits - 1))[:, :, None], 3, axis=2)


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_grey_of_all_depths_and_its_transparent_value(bits: int) -> None:
    values = noise(bits, 13, 19)
    assert np.array_equal(decode_image(png(values, bits), "x"), grey(values, bits))
    transparent = chunk(b"tRNS", struct.pack(">H", values[0, 0]))
    hidden = np.where(values == values[0, 0], 0, values)
    assert np.array_equal(decode_image(png(values, bits, before=transparent), "x"), grey(hidden, bits))


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("colour", [RGB, GREY_ALPHA, RGBA])
def test_colours_and_alpha(bits: int, colour: int) -> None:
    values = noise(bits, 13, 19, {RGB: 3, GREY_ALPHA: 2, RGBA: 4}[colour])
    upper = values >> (bits - 8)
    shown = upper if colour == RGB else upper[..., :-1] * upper[..., -1:] / 255
    assert np.abs(decode_image(png(values, bits, colour), "x") - shown).max() <= 1


@pytest.mark.parametrize("bits", [8, 16])
def test_transparent_colour(bits: int) -> None:
    values = noise(bits, 13, 19, 3)
    transparent = chunk(b"tRNS", struct.pack(">3H", *values[0, 0].tolist()))
    shown = np.where((values == values[0, 0]).all(axis=2, keepdims=True), 0, values >> (bits - 8))
    assert np.array_equal(decode_image(png(values, bits, RGB, transparent), "x"), shown)


BOMB = zlib.compress(bytes(80 << 20))


@pytest.mark.parametrize(
    "before",
    [
        chunk(b"zTXt", b"a\0\0" + BOMB),
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + BOMB),
        chunk(b"zTXt", b"Raw profile type exif\0\0" + BOMB),
        chunk(b"iCCP", b"a\0\0" + BOMB),
        chunk(b"iCCP", b"no profile"),
        chunk(b"iCCP", b"a\0\7method"),
        chunk(b"eXIf", b"MM\0*\0\0\0\x08\xff\xff"),
        chunk(b"tEXt", b"a\0b")[:-1] + b"?",
        chunk(b"gAMA", b"1"),
        chunk(b"acTL", bytes(8)) + chunk(b"fcTL", bytes(26)),
        chunk(b"tEXt", b"a\0" + bytes(1 << 20)) * 70,
        chunk(b"sBIT", b"\4"),
    ],
)
def test_metadata_never_rejects_whole_pixels(before: bytes) -> None:
    values = noise(8, 13, 19)
    assert np.array_equal(decode_image(png(values, 8, before=before), "x"), grey(values, 8))


@pytest.mark.parametrize("orientation", [3, 6])
def test_orientation_in_every_place(orientation: int) -> None:
    values = noise(8, 5, 7)
    exif = b"MM\0*\0\0\0\x08\0\1" + struct.pack(">HHIHH", 274, 3, 1, orientation, 0) + bytes(4)
    xmp = f'<rdf tiff:Orientation="{orientation}"/>'.encode()
    turned = grey(values[::-1, ::-1] if orientation == 3 else values.T[:, ::-1], 8)
    for before in (
        chunk(b"eXIf", exif),
        chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(b"\nexif\n 34\n" + exif.hex().encode())),
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp),
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(xmp)),
    ):
        assert np.array_equal(decode_image(png(values, 8, before=before), "x"), turned)


@pytest.mark.parametrize("end", [b"", bytes(100), chunk(b"IEND")[:5], chunk(b"IEND") + b"more" * 9])
def test_end_is_not_needed(end: bytes) -> None:
    values = noise(8, 13, 19)
    assert np.array_equal(decode_image(png(values, 8, end=end), "x"), grey(values, 8))


def test_every_cut_gives_the_whole_image_or_an_error() -> None:
    values = noise(8, 13, 19)
    data, wanted = png(values, 8), grey(values, 8)
    whole = 0
    for length in range(len(data)):
        try:
            assert np.array_equal(decode_image(data[:length], "x"), wanted), length
            whole += 1
        except DataError:
            pass
    assert 16 <= whole <= 24  # the end, the checksums


def test_missing_palette_and_odd_depths_are_broken() -> None:
    with pytest.raises(DataError, match="it has no palette"):
        decode_image(png(noise(4, 5, 5), 4, PALETTE), "x")
    with pytest.raises(DataError, match="its header is not valid"):
        decode_image(png(noise(16, 5, 5), 16, PALETTE, chunk(b"PLTE", bytes(9))), "x")
    with pytest.raises(DataError, match="wrong checksum in PLTE"):
        decode_image(png(noise(1, 5, 5), 1, PALETTE, chunk(b"PLTE", bytes(6))[:-1] + b"?"), "x")


def test_depth_can_be_given_for_grey_of_16_bits() -> None:
    values = noise(12, 13, 19)
    image = decode(png(values, 16), "x", bits=12)
    assert np.array_equal(image.pixels, grey(values, 12))
    assert image.peak == values.max()
    with pytest.raises(DataError, match="more than 11 bits hold"):
        decode(png(values, 16), "x", bits=11)
    other = noise(8, 13, 19)
    assert np.array_equal(decode(png(other, 8), "x", bits=12).pixels, grey(other, 8))
