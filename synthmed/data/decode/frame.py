"""What the header of a file says of its image, and the file without all that its pixels do not need."""

from __future__ import annotations

import contextlib
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass

MAX_SIDE = 65_535  # JPEG's own; decoders keep whole rows beside the image
MAX_XMP_BYTES = 1 << 20

# Bytes of one value by its type; the others are not needed here.
TYPE_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_INTEGERS = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}
_ORIENTATION = 274


class BrokenImage(ValueError):
    """A header contradicts itself or the file's length."""


class OtherImage(ValueError):
    """The image is whole, but of a kind that is not read; says of which, and what to do."""

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(problem)
        self.remedy = remedy


@dataclass(frozen=True)
class Grey:
    """How stored grey values are meant."""

    bits: int
    """Of a value as it is stored."""
    inverted: bool = False
    """White is zero."""
    stated_top: int | None = None
    """Largest value by the header, where that is less than the bits can hold."""
    transparent: int | None = None
    """Value that is laid on black."""
    packed: bool = False
    """Values of 9 to 15 bits stand without gaps; Pillow sees their bytes as 8-bit grey."""


@dataclass(frozen=True)
class Frame:
    """One image, ready to be decoded."""

    format: str
    """Pillow's word."""
    data: bytes
    """A file with the pixels and what they need, without metadata."""
    width: int
    height: int
    orientation: int = 1
    """As EXIF counts: 1 is upright."""
    bytes_a_pixel: int = 8
    """That decoding takes at its peak: most often 4 in Pillow, then 3 as RGB, and as much again to resize or encode."""
    buffers: int = 0
    """Bytes that the decoder takes beside."""
    values: str = ""
    """What kind of values it holds, in words; for formats of which Pillow takes only some."""
    grey: Grey | None = None
    """For grey that Pillow would not give as it is meant."""
    endings: tuple[bytes, ...] = ()
    """Ways in which a file without its end could go on; the image is whole if they make no difference."""

    @property
    def stored_size(self) -> tuple[int, int]:
        """Width and height as Pillow is to see them."""
        packed = self.grey is not None and self.grey.packed
        return (-(-self.width * self.grey.bits // 8) if packed and self.grey else self.width), self.height

    @property
    def memory(self) -> int:
        """Bytes that decoding takes, and what is done with the pixels after it."""
        compared = 3 if self.endings else 0
        return self.width * self.height * (self.bytes_a_pixel + compared) + self.buffers + 2 * len(self.data)


def read_orientation(exif: bytes, xmp: bytes) -> int:
    """Return the orientation that EXIF states, else the one of XMP; 1, upright, where they are absent or broken."""
    tags: dict[int, Tag] = {}
    with contextlib.suppress(BrokenImage):
        tags = dict(read_tags(exif.removeprefix(b"Exif\0\0"), {_ORIENTATION}))
    if _ORIENTATION not in tags:
        found = re.search(rb'tiff:Orientation(?:="|>)([1-8])', xmp[:MAX_XMP_BYTES])
        return int(found[1]) if found else 1
    values = tags[_ORIENTATION].values
    return values[0] if len(values) == 1 and 1 <= values[0] <= 8 else 1


@dataclass(frozen=True)
class Tag:
    """One entry of a TIFF directory."""

    kind: int
    raw: bytes
    """Its values as the file has them."""
    order: str
    """Byte order as `struct` has it."""

    @property
    def values(self) -> tuple[int, ...]:
        """The whole numbers it holds; none for other kinds."""
        if self.kind not in _INTEGERS:
            return ()
        count = len(self.raw) // TYPE_SIZES[self.kind]
        return struct.unpack(f"{self.order}{count}{_INTEGERS[self.kind]}", self.raw)


def read_tags(data: bytes, wanted: set[int]) -> Iterator[tuple[int, Tag]]:
    """Yield the wanted tags of the first directory of a TIFF or BigTIFF, which EXIF is too.

    Raises:
        BrokenImage: The directory is none, reaches beyond the file, or claims more than the file has.
    """
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if order is None or len(data) < 8:
        raise BrokenImage("no TIFF header")
    big = 43 in data[2:4]
    count_size, word, entry_size = (8, "Q", 20) if big else (2, "I", 12)
    left = len(data)
    try:
        (start,) = struct.unpack_from(f"{order}{word}", data, 8 if big else 4)
        (count,) = struct.unpack_from(f"{order}{'Q' if big else 'H'}", data, start)
        for index in range(min(count, 4096)):
            place = start + count_size + entry_size * index
            number, kind, length = struct.unpack_from(f"{order}HH{word}", data, place)
            if number not in wanted or kind not in TYPE_SIZES:
                continue
            size, inline = length * TYPE_SIZES[kind], struct.calcsize(word)
            first = place + 4 + inline
            if size > inline:
                (first,) = struct.unpack_from(f"{order}{word}", data, first)
            left -= size
            if left < 0 or first + size > len(data):
                raise BrokenImage(f"its tag {number} reaches beyond the file")
            yield number, Tag(kind, data[first : first + size], order)
    except (struct.error, OverflowError) as error:
        raise BrokenImage("its directory reaches beyond the file") from error
