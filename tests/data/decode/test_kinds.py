"""What is decoded goes by the content; every other file is refused with what it is."""

import io
import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from synthmed.data.images import SHARD_KINDS, decode_image
from synthmed.errors import DataError


def saved(kind: str, image: Image.Image | None = None, **options: Any) -> bytes:
    buffer = io.BytesIO()
    (image or picture()).save(buffer, kind, **options)
    return buffer.getvalue()


def picture(mode: str = "RGB") -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (21, 17, len(mode)), dtype=np.uint8)
    return Image.fromarray(values.squeeze())


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "an empty file"),
        (bytes(1000), "a file of zeros"),
        (saved("GIF"), "a GIF"),
        (bytes(128) + b"DICM", "a DICOM file"),
        (b"<!DOCTYPE html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
        (b"\0\0\0\x20ftypavif", "an AVIF"),
    ],
)
def test_other_files_are_named(data: bytes, what: str) -> None:
    with pytest.raises(DataError, match=f"^x is not an image but {what}.* are read"):
        decode_image(data, "x")


@pytest.mark.parametrize("kind", ["TIFF", "BMP"])
def test_shards_hold_three_kinds_whatever_the_name(kind: str) -> None:
    with pytest.raises(DataError, match=rf"^a\.png is not an image but {kind} \(PNG, WebP and JPEG are read\)"):
        decode_image(saved(kind), "a.png", kinds=SHARD_KINDS)


@pytest.mark.parametrize("options", [{"lossless": True}, {"lossless": True, "exif": b"broken", "xmp": b"x" * 3000000}])
def test_webp_and_its_metadata(options: dict[str, Any]) -> None:
    data = saved("WEBP", **options)
    assert np.array_equal(decode_image(data, "x"), np.asarray(picture()))
    assert np.array_equal(decode_image(data + b"more", "x"), np.asarray(picture()))


def test_webp_cut_in_its_metadata_is_whole() -> None:
    data = saved("WEBP", lossless=True, xmp=b"x" * 1000)
    assert np.array_equal(decode_image(data[:-500], "x"), np.asarray(picture()))
    with pytest.raises(DataError, match="broken image"):
        decode_image(data[:-1200], "x")


def test_first_frame_of_an_animation_is_taken() -> None:
    others = [Image.new("RGB", (17, 21), "red")]
    for kind in ("WEBP", "PNG", "TIFF"):
        options: dict[str, Any] = {"lossless": True} if kind == "WEBP" else {}
        data = saved(kind, save_all=True, append_images=others, **options)
        assert np.array_equal(decode_image(data, "x"), np.asarray(picture())), kind


def test_size_of_a_webp_is_checked_before_anything_is_reserved() -> None:
    data = bytearray(saved("WEBP", lossless=True, exif=b"Exif\0\0II*\0"))
    data[24:30] = b"\xff\x3f\0\xff\x3f\0"
    with pytest.raises(DataError, match="too many pixels: 16384 x 16384"):
        decode_image(bytes(data), "x")


@pytest.mark.parametrize("alpha", [0, 128, 255])
def test_bmp_of_32_bits_is_opaque_unless_some_alpha_is_set(alpha: int) -> None:
    header = b"BM" + bytes(8) + (122).to_bytes(4, "little") + (108).to_bytes(4, "little")
    fields = [2, 1, 1 | 32 << 16, 3, 8, 0, 0, 0, 0, 0xFF0000, 0xFF00, 0xFF, 0xFF000000]
    info = b"".join(field.to_bytes(4, "little") for field in fields)
    pixels = bytes([30, 20, 10, alpha, 60, 50, 40, alpha])
    wanted = np.array([[[10, 20, 30], [40, 50, 60]]]) * (alpha or 255) / 255
    assert np.abs(decode_image((header + info).ljust(122, b"\0") + pixels, "x") - wanted).max() <= 1


def test_long_rows_are_refused() -> None:
    data = bytearray(saved("PNG", Image.new("L", (100_000, 1))))
    with pytest.raises(DataError, match="too many pixels on a side: 100000 x 1"):
        decode_image(bytes(data), "x")


SAMPLES = [
    saved("PNG"),
    saved("PNG", picture("L"), dpi=(72, 72)),
    saved("JPEG"),
    saved("JPEG", progressive=True),
    saved("WEBP"),
    saved("WEBP", lossless=True, xmp=b"x", exif=b"Exif\0\0"),
    saved("TIFF"),
    saved("TIFF", compression="tiff_lzw"),
    saved("TIFF", Image.fromarray(np.arange(40, dtype=np.uint16).reshape(5, 8)), compression="tiff_deflate"),
    saved("BMP"),
]


@settings(max_examples=400, deadline=None, derandomize=True)
@given(
    data=st.sampled_from(SAMPLES),
    changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=6),
    cut=st.floats(0.2, 1),
)
def test_any_file_is_an_image_or_a_data_error(data: bytes, changes: list[tuple[float, int]], cut: float) -> None:
    broken = bytearray(data[: int(len(data) * cut)])
    for place, value in changes:
        broken[int(place**3 * len(broken))] = value
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            image = decode_image(bytes(broken), "x", max_pixels=100_000)
        except DataError:
            return
    assert image.dtype == np.uint8
    assert image.shape[2:] == (3,)


def test_second_header_does_not_change_the_size() -> None:
    png = saved("PNG")
    other = bytearray(saved("PNG", Image.new("RGB", (60_000, 2)))[8:33])
    assert decode_image(png[:33] + bytes(other) + png[33:], "x").shape == (21, 17, 3)
    bmp = bytearray(saved("BMP"))
    bmp[18:22] = b"\xff\xff\xff\xff"
    with pytest.raises(DataError, match="its header states two sizes"):
        decode_image(bytes(bmp), "x")
    jpeg = saved("JPEG")
    frame = jpeg.index(b"\xff\xc0")
    with pytest.raises(DataError, match="broken image"):
        decode_image(jpeg[:frame] + jpeg[frame : frame + 19] + jpeg[frame:], "x")
    webp = saved("WEBP", lossless=True)
    small = b"VP8X" + (10).to_bytes(4, "little") + bytes(10)
    assert decode_image(webp + small, "x").shape == (21, 17, 3)
    with pytest.raises(DataError, match="broken image"):
        decode_image(webp[:12] + small + webp[12:], "x")
