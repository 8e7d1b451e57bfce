"""TIFF: what the tags say of the values, and a directory with the tags that pixels need.

Tag numbers are named as in TIFF 6.0. Of several pages the first is taken.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass

from synthmed.data.decode.frame import (
    TYPE_SIZES,
    BrokenImage,
    Frame,
    Grey,
    OtherImage,
    Tag,
    read_orientation,
    read_tags,
)

MAX_CHANNELS = 6  # Pillow's own
MAX_TILES = 1 << 20
MAX_TILE_PIXELS = 1 << 24

_WIDTH, _LENGTH, _BITS, _COMPRESSION, _PHOTOMETRIC = 256, 257, 258, 259, 262
_STRIP_OFFSETS, _SAMPLES, _ROWS_PER_STRIP, _STRIP_SIZES = 273, 277, 278, 279
_MAX_VALUE, _PLANAR, _PREDICTOR, _COLOUR_MAP = 281, 284, 317, 320
_TILE_WIDTH, _TILE_LENGTH, _TILE_OFFSETS, _TILE_SIZES = 322, 323, 324, 325
_EXTRA, _SAMPLE_FORMAT, _SIGNED_MAX_VALUE, _SUBSAMPLING, _XMP = 338, 339, 341, 530, 700
# Fill order, fax options, JPEG tables, the old JPEG's own, and what YCbCr needs.
_OF_CODECS = {266, 292, 293, 326, 327, 328, 347, *range(512, 522), 529, 530, 531, 532, 50674}
_NEEDED = _OF_CODECS | {
    *(_WIDTH, _LENGTH, _BITS, _COMPRESSION, _PHOTOMETRIC, _STRIP_OFFSETS, _SAMPLES, _ROWS_PER_STRIP, _STRIP_SIZES),
    *(_PLANAR, _PREDICTOR, _COLOUR_MAP, _TILE_WIDTH, _TILE_LENGTH, _TILE_OFFSETS, _TILE_SIZES, _EXTRA, _SAMPLE_FORMAT),
}
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _CMYK, _YCBCR = 0, 1, 2, 3, 5, 6
_COLOURS = {_RGB: 3, _YCBCR: 3, _CMYK: 4}
_KINDS = {4: "a mask", 8: "CIE L*a*b*", 9: "ICC L*a*b*", 10: "ITU L*a*b*", 32803: "a colour filter array"}
_JPEG = (6, 7)
_PREMULTIPLIED = 1


@dataclass(frozen=True)
class _Layout:
    """The tags that decide how a file is read."""

    width: int
    height: int
    bits: tuple[int, ...]
    """Of each sample."""
    photometric: int
    compression: int
    planes: int
    block: tuple[int, int]
    """Width and height of a tile or strip."""
    tiled: bool
    sample_format: int

    @classmethod
    def from_tags(cls, tags: Mapping[int, Tag]) -> _Layout:
        def first(number: int, default: int) -> int:
            return (tags[number].values[:1] or (default,))[0] if number in tags else default

        width, height, samples = first(_WIDTH, 0), first(_LENGTH, 0), first(_SAMPLES, 1)
        bits = tags[_BITS].values if _BITS in tags else (1,)
        tiled = _TILE_WIDTH in tags
        block = first(_TILE_WIDTH, 0), first(_TILE_LENGTH, 0)
        return cls(
            width=width,
            height=height,
            bits=(bits if len(bits) > 1 else bits * min(samples, 16))[:samples],
            photometric=first(_PHOTOMETRIC, _WHITE_IS_ZERO),
            compression=first(_COMPRESSION, 1),
            planes=samples if first(_PLANAR, 1) == 2 else 1,
            block=block if tiled else (width, min(first(_ROWS_PER_STRIP, height) or height, height)),
            tiled=tiled,
            sample_format=first(_SAMPLE_FORMAT, 1),
        )

    @property
    def num_blocks(self) -> int:
        """Tiles or strips in the file."""
        width, height = self.block
        return math.ceil(self.width / width) * math.ceil(self.height / height) * self.planes

    @property
    def block_bytes(self) -> int:
        """Of one tile or strip in memory."""
        return self.block[0] * self.block[1] * max(1, sum(self.bits) // 8)

    def describe(self) -> str:
        """Return what kind of values there are, for those that are not read."""
        bits = " and ".join(map(str, sorted(set(self.bits))))
        return f"{len(self.bits)} channels of {bits} bits with PhotometricInterpretation {self.photometric}"

    @property
    def packed(self) -> bool:
        """Whether grey values of 9 to 15 bits stand without gaps."""
        return self.is_grey and 8 < self.bits[0] < 16

    @property
    def is_grey(self) -> bool:
        """Whether there is one sample of grey and nothing else."""
        return len(self.bits) == 1 and self.photometric in (_WHITE_IS_ZERO, _BLACK_IS_ZERO)


def read_tiff(data: bytes) -> Frame:
    """Return the first image of a TIFF or BigTIFF.

    Raises:
        BrokenImage: Its tags contradict each other or the length of the file.
        OtherImage: A kind of TIFF that is not read.
    """
    tags = dict(read_tags(data, _NEEDED | {_MAX_VALUE, _SIGNED_MAX_VALUE, _XMP, 274}))
    layout = _Layout.from_tags(tags)
    _check_sizes(layout)
    _check_kind(layout, tags)
    new = {number: tag for number, tag in tags.items() if number in _NEEDED}
    grey = None
    if layout.is_grey:
        inverted = layout.photometric == _WHITE_IS_ZERO
        grey = Grey(layout.bits[0], inverted, _stated_top(layout, tags), packed=layout.packed)
        new[_PHOTOMETRIC] = _number(_BLACK_IS_ZERO, new[_WIDTH].order)
    if layout.packed:
        new |= _as_bytes(layout, new[_WIDTH].order)
    if len(layout.bits) == 2 and tags.get(_EXTRA) and tags[_EXTRA].values == (_PREMULTIPLIED,):
        # On black such values are what they are.
        new[_EXTRA] = _number(0, new[_WIDTH].order)
    if layout.photometric == _PALETTE and _COLOUR_MAP in new:
        new[_COLOUR_MAP] = _wide_palette(new[_COLOUR_MAP])
    new.pop(_SAMPLE_FORMAT, None)
    xmp = tags[_XMP].raw if _XMP in tags else b""
    return Frame(
        "TIFF",
        _rewrite(data, new, layout),
        layout.width,
        layout.height,
        orientation=read_orientation(data, xmp),
        bytes_a_pixel=12 if layout.photometric == _YCBCR or layout.packed else 8,
        buffers=2 * layout.block_bytes,
        values=layout.describe(),
        grey=grey,
    )


def _check_sizes(layout: _Layout) -> None:
    if not layout.width or not layout.height or not layout.bits or not all(layout.block):
        raise BrokenImage("it has no size")
    if (layout.tiled and layout.block[0] * layout.block[1] > MAX_TILE_PIXELS) or layout.num_blocks > MAX_TILES:
        width, height = layout.block
        raise BrokenImage(f"its tiles of {width} x {height} pixels do not suit {layout.width} x {layout.height}")


def _check_kind(layout: _Layout, tags: Mapping[int, Tag]) -> None:
    """Raise for values that are not meant as grey levels or colours of 1 to 16 bits."""
    bits = max(layout.bits)
    if layout.sample_format == 2:
        raise OtherImage(f"has signed {bits}-bit values, e.g. of CT", "window them to 8 bits first")
    if layout.sample_format == 3:
        raise OtherImage(f"has {bits}-bit floating-point values", "scale them to 8 or 16 bits first")
    if layout.sample_format not in (1, 4):
        raise OtherImage("has complex values", "convert them to 8 or 16 bits first")
    if len(layout.bits) > MAX_CHANNELS:
        raise OtherImage(f"has {len(layout.bits)} channels", "convert it to grey or RGB")
    if bits > 16:
        raise OtherImage(f"has {bits} bits a pixel", "convert it to 8 or 16 bits")
    if layout.photometric in _KINDS:
        raise OtherImage(f"is a TIFF of {_KINDS[layout.photometric]}", "convert it to grey or RGB")
    if layout.packed and (layout.compression in _JPEG or tags.get(_PREDICTOR, _number(1, "<")).values != (1,)):
        raise OtherImage(f"has {bits}-bit values, compressed as no reader takes them", "convert it to 8 or 16 bits")
    # Of channels that stand apart Pillow takes these wrongly, or not at all.
    unclear = len(layout.bits) == 2 or (len(layout.bits) > _COLOURS.get(layout.photometric, 1) and _EXTRA not in tags)
    if layout.planes > 1 and (unclear or (layout.compression == 1 and (bits > 8 or layout.photometric == _YCBCR))):
        raise OtherImage("has its channels in planes, PlanarConfiguration 2", "save it with PlanarConfiguration 1")
    subsampling = tags[_SUBSAMPLING].values if _SUBSAMPLING in tags else (2, 2)
    if layout.photometric == _YCBCR and layout.compression == 1 and subsampling != (1, 1):
        raise OtherImage("is a TIFF of subsampled YCbCr without compression", "convert it to RGB")
    top = _stated_top(layout, tags)
    if not layout.is_grey and bits == 16 and top:
        raise OtherImage(f"has colours of 16 bits with values up to {top}", "convert it to 8 bits")


def _stated_top(layout: _Layout, tags: Mapping[int, Tag]) -> int | None:
    """Return the largest value that a tag states for more than 8 bits; None where it cannot be meant as their depth.

    The tags are statistics by TIFF 6.0, so a value that is not all ones in binary says nothing about the scale.
    """
    bits = max(layout.bits)
    for number in (_MAX_VALUE, _SIGNED_MAX_VALUE):
        values = set(tags[number].values) if number in tags else set()
        if len(values) == 1 and 8 <= (top := values.pop()).bit_length() < bits and top & (top + 1) == 0:
            return top
    return None


def _number(value: int, order: str) -> Tag:
    return Tag(4, struct.pack(f"{order}I", value), order)


def _as_bytes(layout: _Layout, order: str) -> dict[int, Tag]:
    """Return the tags under which a reader gives the bytes of packed values as pixels of 8-bit grey."""

    def wide(pixels: int) -> Tag:
        return _number(math.ceil(pixels * layout.bits[0] / 8), order)

    tile = {_TILE_WIDTH: wide(layout.block[0])} if layout.tiled else {}
    return {_WIDTH: wide(layout.width), _BITS: _number(8, order), **tile}


def _wide_palette(tag: Tag) -> Tag:
    """Return a palette in 16 bits: some writers fill in 8."""
    values = tag.values
    scale = 257 if max(values, default=0) < 256 else 1
    return Tag(3, struct.pack(f"{tag.order}{len(values)}H", *(value * scale for value in values)), tag.order)


def _rewrite(data: bytes, tags: Mapping[int, Tag], layout: _Layout) -> bytes:
    """Return the file with a directory of these tags alone, behind its end."""
    order = tags[_WIDTH].order
    start = len(data) + len(data) % 2
    entries, values = [], b""
    place = start + 2 + 12 * len(tags) + 4
    for number, tag in sorted(tags.items()):
        kind, raw = tag.kind, tag.raw
        if number in (_STRIP_OFFSETS, _STRIP_SIZES, _TILE_OFFSETS, _TILE_SIZES):
            numbers = tag.values[: layout.num_blocks]
            if max(numbers, default=0) >= 1 << 32:
                raise BrokenImage("its pixels lie beyond the file")
            kind, raw = 4, struct.pack(f"{order}{len(numbers)}I", *numbers)
        count, field = len(raw) // TYPE_SIZES[kind], raw.ljust(4, b"\0")
        if len(raw) > 4:
            field = struct.pack(f"{order}I", place + len(values))
            values += raw + b"\0" * (len(raw) % 2)
        entries.append(struct.pack(f"{order}HHI", number, kind, count) + field)
    header = data[:2] + struct.pack(f"{order}HI", 42, start)
    directory = struct.pack(f"{order}H", len(entries)) + b"".join(entries) + bytes(4)
    return b"".join([header, memoryview(data)[8:], b"\0" * (len(data) % 2), directory, values])
