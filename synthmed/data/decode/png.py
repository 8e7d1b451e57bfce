"""PNG: chunks, checksums, and the chunks that pixels need."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

from synthmed.data.decode.frame import MAX_XMP_BYTES, BrokenImage, Frame, Grey, read_orientation

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GREY, _RGB, _PALETTE = 0, 2, 3
_NEEDED = (b"IHDR", b"PLTE", b"tRNS")
_XMP, _EXIF = b"XML:com.adobe.xmp", b"Raw profile type exif"


class Chunk(NamedTuple):
    """One chunk; its parts are views of the file."""

    kind: bytes
    data: memoryview
    whole: memoryview
    """With length, kind and checksum."""

    @property
    def valid(self) -> bool:
        """Whether it is all there and its checksum is right."""
        return self.complete and zlib.crc32(self.whole[4:-4]) == int.from_bytes(self.whole[-4:])

    @property
    def complete(self) -> bool:
        """Whether the file does not end inside it."""
        return len(self.whole) == int.from_bytes(self.whole[:4]) + 12


def chunks(data: bytes) -> Iterator[Chunk]:
    """Yield the chunks of a PNG up to its end, or to where what follows is no chunk; the last one may be cut."""
    view, place = memoryview(data), len(SIGNATURE)
    while place + 8 <= len(data):
        length, kind = int.from_bytes(data[place : place + 4]), data[place + 4 : place + 8]
        if not kind.isalpha():
            return
        yield Chunk(kind, view[place + 8 : place + 8 + length], view[place : place + 12 + length])
        if kind == b"IEND":
            return
        place += 12 + length


def check_png(data: bytes) -> None:
    """Check the checksum of every chunk, and that there is an end.

    Raises:
        BrokenImage: One is wrong, or the end is missing.
    """
    kind = b""
    for chunk in chunks(data):
        kind = chunk.kind
        if not chunk.valid:
            raise BrokenImage(f"wrong checksum in {kind.decode()}")
    if kind != b"IEND":
        raise BrokenImage("it has no end")


def read_png(data: bytes) -> Frame:
    """Return the image of a PNG: of an animated one the default image.

    Values are taken as the PNG specification has them, scaled to the full range of their bits; sBIT, which tells how
    many bits they had before that, changes nothing.

    Raises:
        BrokenImage: It has no header, or a chunk that the pixels need is broken.
    """
    kept: list[bytes | memoryview] = [SIGNATURE]
    exif = xmp = header = transparent = b""
    palette = False
    for chunk in chunks(data):
        if chunk.kind in _NEEDED and not chunk.valid:
            raise BrokenImage(f"wrong checksum in {chunk.kind.decode()}")
        if chunk.kind == b"IHDR" and not header:
            header = bytes(chunk.data)
            kept.append(chunk.whole)
        elif chunk.kind == b"PLTE":
            palette = True
            kept.append(chunk.whole)
        elif chunk.kind == b"tRNS":
            transparent = bytes(chunk.data)
            kept.append(_pack(b"tRNS", _scale_transparent(header, transparent)))
        elif chunk.kind == b"IDAT":
            # Of a chunk that is cut the rest is used: whether that is all of the image, decoding tells.
            kept.append(chunk.whole if chunk.complete else _pack(b"IDAT", chunk.data))
        elif chunk.kind == b"eXIf":
            exif = bytes(chunk.data)
        elif chunk.kind in (b"tEXt", b"zTXt", b"iTXt"):
            text_exif, text_xmp = _orienting_text(chunk)
            exif, xmp = exif or text_exif, xmp or text_xmp
    if len(header) < 13:
        raise BrokenImage("it has no header")
    width, height, depth, colour = struct.unpack_from(">IIBB", header)
    if colour == _PALETTE and not palette:
        raise BrokenImage("it has no palette")
    grey = None
    if (depth, colour) == (16, _GREY):
        grey = Grey(16, transparent=int.from_bytes(transparent[:2]) if transparent else None)
    plain = b"".join([*kept, _pack(b"IEND", b"")])
    return Frame("PNG", plain, width, height, orientation=read_orientation(exif, xmp), grey=grey)


def _pack(kind: bytes, data: bytes | memoryview) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(data, zlib.crc32(kind)))


def _scale_transparent(header: bytes, value: bytes) -> bytes:
    """Return tRNS for pixels as Pillow decodes them, to 8 bits; it compares as if the file had that many."""
    depth, colour = header[8:10]
    if colour == _GREY and depth in (2, 4):
        return struct.pack(">H", int.from_bytes(value[:2]) * (255 // (2**depth - 1)))
    if colour == _RGB and depth == 16:
        return struct.pack(">HHH", *value[0:6:2])
    return value


def _orienting_text(chunk: Chunk) -> tuple[bytes, bytes]:
    """Return (EXIF, XMP) as text chunks may hold them; of compressed ones no more than is looked at."""
    keyword, _, text = bytes(chunk.data).partition(b"\0")
    if keyword not in (_XMP, _EXIF):
        return b"", b""
    if chunk.kind == b"iTXt":
        compressed, text = text[:1] == b"\1", text[2:].split(b"\0", 2)[-1]
    else:
        compressed, text = chunk.kind == b"zTXt", text[chunk.kind == b"zTXt" :]
    try:
        text = zlib.decompressobj().decompress(text, MAX_XMP_BYTES) if compressed else text
        if keyword == _XMP:
            return b"", text
        return bytes.fromhex("".join(text.decode("ascii").split("\n")[3:])), b""
    except (zlib.error, ValueError):
        return b"", b""
