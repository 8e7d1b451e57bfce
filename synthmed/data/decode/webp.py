"""WebP: the chunks that pixels need, and the size, which Pillow's decoder reserves memory for as it opens a file."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from synthmed.data.decode.frame import BrokenImage, Frame, read_orientation

MAX_WEBP_PIXELS = 40_000_000
"""The decoder keeps three images beside the one it gives."""

_STILL = (b"VP8 ", b"VP8L")
_PLAIN_FLAGS = 0b00010010  # of alpha and of animation; the others tell of metadata


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    place = 12
    while place + 8 <= len(data):
        kind, length = data[place : place + 4], int.from_bytes(data[place + 4 : place + 8], "little")
        yield kind, data[place + 8 : place + 8 + length]
        place += 8 + length + length % 2


def read_webp(data: bytes) -> Frame:
    """Return the image of a WebP: of an animated one the first frame.

    Raises:
        BrokenImage: It has no image.
    """
    kept: list[tuple[bytes, bytes]] = []
    exif, xmp, size, seen = b"", b"", (0, 0), False
    for kind, payload in _chunks(data):
        if kind == b"EXIF":
            exif = payload
        elif kind == b"XMP ":
            xmp = payload
        elif kind == b"VP8X" and len(payload) >= 10 and not kept:
            size = _canvas(payload)
            kept.append((kind, bytes([payload[0] & _PLAIN_FLAGS]) + payload[1:]))
        elif kind in (b"ANIM", b"ALPH") or (kind in (*_STILL, b"ANMF") and not seen):
            kept.append((kind, payload))
            seen = seen or kind in (*_STILL, b"ANMF")
            size = size if size[0] or kind not in _STILL else _bitstream_size(kind, payload)
    if not seen:
        raise BrokenImage("it has no image")
    chunks = [kind + struct.pack("<I", len(each)) + each + b"\0" * (len(each) % 2) for kind, each in kept]
    plain = b"".join([b"RIFF", struct.pack("<I", 4 + sum(map(len, chunks))), b"WEBP", *chunks])
    return Frame("WEBP", plain, *size, orientation=read_orientation(exif, xmp), bytes_a_pixel=16)


def _canvas(payload: bytes) -> tuple[int, int]:
    return int.from_bytes(payload[4:7], "little") + 1, int.from_bytes(payload[7:10], "little") + 1


def _bitstream_size(kind: bytes, payload: bytes) -> tuple[int, int]:
    if len(payload) < 10:
        raise BrokenImage("cut short before its pixels")
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", payload, 6)
        return width & 0x3FFF, height & 0x3FFF
    bits = int.from_bytes(payload[1:5], "little")
    return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
