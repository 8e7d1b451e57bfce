"""TIFF as its tags mean it: files are written here by hand, value by value."""

import itertools
import struct
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from synthmed.data.images import decode, decode_image
from synthmed.errors import DataError

Values = NDArray[Any]
Extra = Sequence[tuple[int, int, Sequence[int]]]

GREY, RGB, PALETTE, CMYK, YCBCR = 1, 2, 3, 5, 6
COMPRESSIONS: dict[int, Callable[[bytes], bytes]] = {
    1: bytes,
    8: zlib.compress,
    32773: lambda data: b"".join(bytes([len(part) - 1]) + part for part in _parts(data, 128)),
}
LETTERS = {3: "H", 4: "I"}


def _parts(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


def pack_values(values: Values, bits: int, order: str) -> bytes:
    """Return rows of values; those that are no whole bytes stand without gaps, and a row ends with its byte."""
    if bits in (8, 16, 32):
        return values.astype(f"{order}u{bits // 8}").tobytes()
    rows = values.reshape(len(values), -1)[..., None] >> np.arange(bits)[::-1] & 1
    return np.packbits(rows.reshape(len(values), -1).astype(np.uint8), axis=1).tobytes()


def tiff(
    values: Values,
    bits: int,
    photometric: int = GREY,
    *,
    order: str = "<",
    compression: int = 1,
    tile: tuple[int, int] | None = None,
    planes: int = 1,
    extra: Extra = (),
) -> bytes:
    """Return a TIFF of [H, W] or [H, W, channels], two strips or tiles of (height, width)."""
    (height, width), channels = values.shape[:2], values.shape[2] if values.ndim == 3 else 1
    size = tile or (max(1, height // 2), width)
    blocks = []
    for plane in [values] if planes == 1 else values.transpose(2, 0, 1):
        rows = range(0, height, size[0])
        places = [(top, left) for top in rows for left in range(0, width, size[1])]
        down, across = (-plane.shape[0] % size[0], -plane.shape[1] % size[1]) if tile else (0, 0)
        padded = np.pad(plane, [(0, down), (0, across), *[(0, 0)] * (plane.ndim - 2)])
        blocks += [padded[top : top + size[0], left : left + size[1]] for top, left in places]
    data = [COMPRESSIONS[compression](pack_values(block, bits, order)) for block in blocks]
    offsets = list(itertools.accumulate((len(each) for each in data), initial=8))
    tags: dict[int, tuple[int, Sequence[int]]] = {
        256: (4, [width]),
        257: (4, [height]),
        258: (3, [bits] * channels),
        259: (3, [compression]),
        262: (3, [photometric]),
        277: (3, [channels]),
        284: (3, [planes]),
        324 if tile else 273: (4, offsets[:-1]),
        325 if tile else 279: (4, [len(each) for each in data]),
        **({322: (4, [size[1]]), 323: (4, [size[0]])} if tile else {278: (4, [size[0]])}),
        **{number: (kind, numbers) for number, kind, numbers in extra},
    }
    start = offsets[-1] + offsets[-1] % 2
    entries, tail, place = b"", b"", start + 2 + 12 * len(tags) + 4
    for number, (kind, numbers) in sorted(tags.items()):
        raw = struct.pack(f"{order}{len(numbers)}{LETTERS[kind]}", *numbers)
        inline = raw if len(raw) <= 4 else struct.pack(f"{order}I", place + len(tail))
        tail += b"" if len(raw) <= 4 else raw + b"\0" * (len(raw) % 2)
        entries += struct.pack(f"{order}HHI", number, kind, len(numbers)) + inline.ljust(4, b"\0")
    header = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, start)
    directory = struct.pack(f"{order}H", len(tags)) + entries + bytes(4)
    return (header + b"".join(data)).ljust(start, b"\0") + directory + tail


YCC: Values = np.array([[1, 1, 1], [0, -0.344136, 1.772], [1.402, -0.714136, 0]])


def noise(bits: int, *shape: int) -> Values:
    return np.random.default_rng(bits).integers(0, 2**bits, shape)


def grey(values: Values, top: int) -> Values:
    return np.repeat(np.rint(values * 255 / top).astype(np.uint8)[:, :, None], 3, axis=2)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("photometric", [0, 1])
@pytest.mark.parametrize("bits", [1, 2, 4, 8, 9, 10, 12, 14, 15, 16])
def test_grey_has_the_depth_and_the_white_of_its_tags(bits: int, photometric: int, order: str) -> None:
    values, top = noise(bits, 23, 37), 2**bits - 1
    wanted = grey(values if photometric else top - values, top)
    for compression, tile in itertools.product(COMPRESSIONS, [None, (16, 16), (32, 16)]):
        data = tiff(values, bits, photometric, order=order, compression=compression, tile=tile)
        assert np.array_equal(decode_image(data, "x"), wanted), (compression, tile)


def test_all_16_bit_values_are_what_they_always_were() -> None:
    values = np.arange(65536).reshape(256, 256)
    wanted = np.rint(values / 257).astype(np.uint8)
    assert np.array_equal(decode_image(tiff(values, 16), "x")[:, :, 0], wanted)


@pytest.mark.parametrize(
    ("stated", "peak", "top"),
    [(4095, 4095, 4095), (4095, 4096, 65535), (1023, 900, 1023), (3817, 3817, 65535), (127, 100, 65535)],
)
@pytest.mark.parametrize("tag", [281, 341])
def test_largest_value_by_a_tag_counts_where_it_can_be_a_depth(tag: int, stated: int, peak: int, top: int) -> None:
    values = noise(16, 8, 9) % (peak + 1)
    values[0, 0] = peak
    image = decode(tiff(values, 16, extra=[(tag, 3, [stated])]), "x")
    assert np.array_equal(image.pixels, grey(values, top))
    assert image.peak == (peak if top == 65535 else None)


@pytest.mark.parametrize(
    ("photometric", "channels", "extra", "wanted"),
    [
        (RGB, 3, (), lambda v: v),
        (RGB, 4, [(338, 3, [0])], lambda v: v[..., :3]),
        (RGB, 4, [(338, 3, [2])], lambda v: v[..., :3] * v[..., 3:] / 255),
        (GREY, 2, [(338, 3, [0])], lambda v: v[..., [0, 0, 0]]),
        (GREY, 2, [(338, 3, [1])], lambda v: v[..., [0, 0, 0]]),
        (GREY, 2, [(338, 3, [2])], lambda v: v[..., [0, 0, 0]] * v[..., 1:] / 255),
        (CMYK, 4, (), lambda v: (255 - v[..., :3]) * (255 - v[..., 3:]) / 255),
        (YCBCR, 3, [(530, 3, [1, 1])], lambda v: v @ YCC + [-179.456, 135.459, -226.816]),
    ],
)
def test_colours(photometric: int, channels: int, extra: Extra, wanted: Callable[[Values], Values]) -> None:
    values = noise(8, 23, 37, channels)
    for order, compression, tile in itertools.product("<>", COMPRESSIONS, [None, (16, 16)]):
        data = tiff(values, 8, photometric, order=order, compression=compression, tile=tile, extra=extra)
        difference = decode_image(data, "x") - np.clip(wanted(values), 0, 255)
        assert np.abs(difference).max() <= 2, (order, compression, tile)


@pytest.mark.parametrize("order", ["<", ">"])
def test_colours_of_16_bits_keep_the_upper_half(order: str) -> None:
    values = noise(16, 12, 9, 3)
    assert np.array_equal(decode_image(tiff(values, 16, RGB, order=order), "x"), values >> 8)


@pytest.mark.parametrize("scale", [1, 257])
def test_palette_may_be_filled_in_8_or_16_bits(scale: int) -> None:
    colours = noise(8, 3, 16)
    index = noise(4, 9, 7)
    data = tiff(index, 4, PALETTE, extra=[(320, 3, (colours * scale).ravel().tolist())])
    assert np.array_equal(decode_image(data, "x"), colours[:, index].transpose(1, 2, 0))


@pytest.mark.parametrize(
    ("channels", "bits", "photometric", "extra", "reason"),
    [
        (1, 16, GREY, [(339, 3, [2])], r"signed 16-bit values, e\.g\. of CT \(window them to 8 bits first\)"),
        (1, 8, GREY, [(339, 3, [2])], "signed 8-bit values"),
        (1, 32, GREY, [(339, 3, [3])], "32-bit floating-point values"),
        (1, 32, GREY, (), "has 32 bits a pixel"),
        (3, 12, RGB, (), "3 channels of 12 bits"),
        (3, 16, RGB, [(281, 3, [4095] * 3)], "values up to 4095"),
        (2, 8, 0, [(338, 3, [2])], "2 channels of 8 bits with PhotometricInterpretation 0"),
        (3, 8, 8, (), r"CIE L\*a\*b\*"),
        (3, 8, YCBCR, (), "subsampled YCbCr"),
        (9, 8, GREY, (), "has 9 channels"),
        (1, 12, GREY, [(317, 3, [2])], "12-bit values, compressed as no reader"),
    ],
)
def test_other_values_are_refused_with_the_true_reason(
    channels: int, bits: int, photometric: int, extra: Extra, reason: str
) -> None:
    values = noise(8, 9, 8, channels) if channels > 1 else noise(8, 9, 8)
    with pytest.raises(DataError, match=reason):
        decode_image(tiff(values, bits, photometric, extra=extra), "x")


@pytest.mark.parametrize(("channels", "bits"), [(3, 16), (4, 16), (2, 8), (4, 8)])
def test_planes_that_pillow_mixes_up_are_refused(channels: int, bits: int) -> None:
    values = noise(bits, 9, 8, channels)
    with pytest.raises(DataError, match="PlanarConfiguration 2"):
        decode_image(tiff(values, bits, RGB if channels > 2 else GREY, planes=2), "x")


def test_planes_of_8_bits_are_read() -> None:
    values = noise(8, 9, 8, 3)
    assert np.array_equal(decode_image(tiff(values, 8, RGB, planes=2), "x"), values)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_followed_once(orientation: int) -> None:
    values = noise(8, 5, 7)
    turned = values.T if orientation > 4 else values
    turned = turned[:, ::-1] if orientation in (2, 3, 6, 7) else turned
    turned = turned[::-1] if orientation in (3, 4, 7, 8) else turned
    for compression in COMPRESSIONS:
        data = tiff(values, 8, extra=[(274, 3, [orientation])], compression=compression)
        assert np.array_equal(decode_image(data, "x")[:, :, 0], turned)


@pytest.mark.parametrize(
    "extra",
    [
        [(322, 4, [1 << 15]), (323, 4, [1 << 15])],
        [(322, 4, [1]), (323, 4, [0])],
        [(256, 4, [1 << 31]), (257, 4, [1 << 31])],
        [(278, 4, [0xFFFFFFFF]), (257, 4, [1 << 30])],
        [(277, 3, [60000])],
        [(256, 4, [0])],
    ],
)
def test_sizes_beyond_reason_are_refused(extra: Extra) -> None:
    with pytest.raises(DataError, match=r"^x (is a broken image: it|has too many|has \d+ channels)"):
        decode_image(tiff(noise(8, 16, 16), 8, tile=(16, 16), extra=extra), "x")
