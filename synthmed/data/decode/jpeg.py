"""JPEG: the segments that pixels need, and whether a file without its end marker has all of them."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator

from synthmed.data.decode.frame import BrokenImage, Frame, OtherImage, read_orientation

MAX_SCANS = 100  # progressive files have about ten; each scan is a pass over all pixels
END = b"\xff\xd9"

_SOS, _DRI = 0xDA, 0xDD
_SCAN = b"\xff\xda"
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE = frozenset({0xC2, 0xC6, 0xCA, 0xCE})
# Frames and tables; APP0 and APP14 tell which colours the components are.
_NEEDED = _FRAMES | {0xC4, 0xCC, 0xDB, _DRI, 0xDC, 0xE0, 0xEE}
_ALONE = frozenset({0x01, *range(0xD0, 0xDA)})
# Each makes other pixels of those that are missing: their first bits differ, and they are longer than any block.
_FILLERS = tuple(pattern * 2048 for pattern in (b"\0", b"\x55", b"\xaa", b"\x5a\x3c", b"\xc3\x96", b"\xfe"))


def _segments(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Yield (marker, place, payload) up to the first scan."""
    place = 2
    while (place := data.find(b"\xff", place)) >= 0 and place + 4 <= len(data):
        marker = data[place + 1]
        if marker in (0x00, 0xFF) or marker in _ALONE:
            place += 1 if marker == 0xFF else 2
            continue
        length = int.from_bytes(data[place + 2 : place + 4])
        yield marker, place, data[place + 4 : place + 2 + length]
        if marker == _SOS:
            return
        place += 2 + length


def read_jpeg(data: bytes) -> Frame:
    """Return the image of a JPEG, the first one where the file holds several.

    Raises:
        BrokenImage: It ends before its pixels begin, or lacks its last scans.
        OtherImage: A kind of JPEG that is not read.
    """
    kept, exif, xmp = [data[:2]], b"", b""
    process, frame, restarts, start = 0, b"", False, len(data)
    for marker, place, payload in _segments(data):
        if marker == 0xE1 and payload.startswith(b"Exif\0\0"):
            exif = exif or payload
        elif marker == 0xE1 and payload.startswith(b"http://ns.adobe.com/xap/1.0/\0"):
            xmp = xmp or payload
        elif marker == _SOS:
            start = place
        elif marker in _NEEDED:
            kept.append(data[place : place + 4] + payload)
            process, frame = (marker, payload) if marker in _FRAMES else (process, frame)
            restarts = payload > b"\0\0" if marker == _DRI else restarts
    if start == len(data) or len(frame) < 6:
        raise BrokenImage("cut short before its pixels")
    _, height, width, components = struct.unpack_from(">BHHB", frame)
    end = data.find(END, start)
    pixels = data[start:] if end < 0 else data[start : end + 2]
    num_scans = _check_kind(frame, pixels)
    endings: tuple[bytes, ...] = ()
    if end < 0:
        pixels = _without_padding(pixels)
        endings = _endings(frame, pixels, restarts)
    return Frame(
        "JPEG",
        b"".join([*kept, pixels]),
        width,
        height,
        orientation=read_orientation(exif, xmp),
        # All coefficients are kept, 2 bytes each, where more than one scan makes the image.
        bytes_a_pixel=max(8, 4 + 2 * components) if process in _PROGRESSIVE or num_scans > 1 else 8,
        endings=endings,
    )


def _check_kind(frame: bytes, pixels: bytes) -> int:
    """Return the number of scans, or raise for an image that the decoder does not take."""
    bits, components, num_scans = frame[0], frame[5], pixels.count(_SCAN)
    if bits != 8:
        raise OtherImage(f"is a JPEG of {bits} bits", "convert it to 8 bits")
    if components not in (1, 3, 4):
        raise OtherImage(f"is a JPEG of {components} channels", "convert it to grey or RGB")
    if num_scans > MAX_SCANS:
        raise OtherImage(f"is a JPEG of {num_scans} scans", f"at most {MAX_SCANS} are read")
    return num_scans


def _without_padding(pixels: bytes) -> bytes:
    """Return a scan that ends with the file without half a marker, and without zeros that a broken copy left."""
    plain = pixels.rstrip(b"\0")
    # Few zeros may be pixels, and one behind 0xFF is.
    return (pixels if len(pixels) - len(plain) < 4 else plain).rstrip(b"\xff")


def _endings(frame: bytes, pixels: bytes, restarts: bool) -> tuple[bytes, ...]:
    """Return ways to go on where the end is missing.

    Behind the last pixel a decoder passes over whatever comes before the end marker. Where pixels are missing, it takes
    the fillers for them, and no two give the same ones.
    """
    missing = {(component, place) for component in frame[6::3] for place in range(64)}
    for scan in re.finditer(_SCAN, pixels):
        count = pixels[scan.end() + 2 : scan.end() + 3][0]
        components = pixels[scan.end() + 3 : scan.end() + 3 + 2 * count : 2]
        first, last, bits = pixels[scan.end() + 3 + 2 * count :][:3]
        if bits & 15 == 0:
            missing -= {(component, place) for component in components for place in range(first, last + 1)}
    if missing:
        raise BrokenImage("cut short: it lacks scans")
    if not restarts:
        return tuple(filler + END for filler in _FILLERS)
    # A decoder that waits for a restart passes over everything else.
    last_scan = pixels[pixels.rfind(_SCAN) :]
    number = len(re.findall(rb"\xff[\xd0-\xd7]", last_scan))
    marks = [bytes([0xFF, 0xD0 + (number + step) % 8]) for step in range(8)]
    return tuple(b"".join([filler, *(mark + filler for mark in marks), END]) for filler in _FILLERS)
