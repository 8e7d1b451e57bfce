"""Which kind of file bytes are, by their content alone, and the image in each kind that is read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from synthmed.data.decode.frame import MAX_SIDE, BrokenImage, Frame, OtherImage
from synthmed.data.decode.jpeg import read_jpeg
from synthmed.data.decode.png import SIGNATURE, read_png
from synthmed.data.decode.tiff import read_tiff
from synthmed.data.decode.webp import MAX_WEBP_PIXELS, read_webp

Kind = Literal["PNG", "JPEG", "WebP", "TIFF", "BMP"]
ALL_KINDS: tuple[Kind, ...] = ("PNG", "JPEG", "WebP", "TIFF", "BMP")

_TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
# What is often found under an image's name; (start, place, what it is).
_OTHERS = (
    (b"GIF8", 0, "a GIF"),
    (b"DICM", 128, "a DICOM file"),
    (b"\0\0\0\x0cjP  ", 0, "a JPEG 2000"),
    (b"\xff\x4f\xff\x51", 0, "a JPEG 2000"),
    (b"\0\0\0\x0cJXL ", 0, "a JPEG XL"),
    (b"ftypavi", 4, "an AVIF"),
    (b"ftyphei", 4, "a HEIC"),
    (b"8BPS", 0, "a Photoshop file"),
    (b"%PDF", 0, "a PDF"),
    (b"PK\3\4", 0, "a zip"),
    (b"\x1f\x8b", 0, "compressed with gzip"),
    (b"version https://git-lfs", 0, "a Git LFS pointer, not the file it stands for"),
    (b"<", 0, "a web page or XML"),
)


def find_kind(data: bytes) -> Kind | None:
    """Return what an encoded image is by its first bytes."""
    if data.startswith(SIGNATURE):
        return "PNG"
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "WebP"
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if data.startswith(_TIFF_STARTS):
        return "TIFF"
    return "BMP" if data.startswith(b"BM") else None


def name_kind(data: bytes) -> str:
    """Return in words what a file is that is no image; empty where nobody knows."""
    if not data:
        return "an empty file"
    if not data.strip(b"\0"):
        return "a file of zeros"
    return next((what for start, place, what in _OTHERS if data.startswith(start, place)), "")


def read_frame(data: bytes, kinds: Sequence[Kind], max_pixels: int) -> Frame:
    """Return the image of a file, not yet decoded.

    Raises:
        BrokenImage: Its header contradicts itself or the file's length.
        OtherImage: It is of a kind that is not read here, or too large.
    """
    kind, listed = find_kind(data), ", ".join(kinds[:-1]) + f" and {kinds[-1]}"
    if kind is None or kind not in kinds:
        what = kind or name_kind(data)
        raise OtherImage(f"is not an image{f' but {what}' if what else ''}", f"{listed} are read")
    frame = _READERS[kind](data)
    most = min(max_pixels, MAX_WEBP_PIXELS) if kind == "WebP" else max_pixels
    if frame.width * frame.height > most:
        raise OtherImage(f"has too many pixels: {frame.width} x {frame.height}", f"at most {most}")
    if max(frame.width, frame.height) > MAX_SIDE:
        raise OtherImage(f"has too many pixels on a side: {frame.width} x {frame.height}", f"at most {MAX_SIDE}")
    return frame


def _read_bmp(data: bytes) -> Frame:
    """Return the image of a BMP, which has no metadata."""
    if len(data) < 26:
        raise BrokenImage("cut short in its header")
    if int.from_bytes(data[14:18], "little") == 12:
        width, height = int.from_bytes(data[18:20], "little"), int.from_bytes(data[20:22], "little")
    else:
        width, height = (abs(int.from_bytes(data[at : at + 4], "little", signed=True)) for at in (18, 22))
    return Frame("BMP", data, width, height, bytes_a_pixel=10)


_READERS: dict[Kind, Callable[[bytes], Frame]] = {
    "PNG": read_png,
    "JPEG": read_jpeg,
    "WebP": read_webp,
    "TIFF": read_tiff,
    "BMP": _read_bmp,
}
