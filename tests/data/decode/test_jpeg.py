"""JPEG without its end, with odd segments, and kinds that are not read."""

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from synthmed.data.images import decode_image
from synthmed.errors import DataError

OPTIONS: list[dict[str, Any]] = [
    {},
    {"progressive": True},
    {"restart_marker_blocks": 2},
    {"restart_marker_rows": 1, "optimize": True},
    {"subsampling": 0, "quality": 100},
]


def jpeg(image: Image.Image, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **options)
    return buffer.getvalue()


def pictures() -> list[Image.Image]:
    rng = np.random.default_rng(0)
    rough = Image.fromarray(rng.integers(0, 256, (20, 28, 3), dtype=np.uint8))
    late = np.full((40, 32), 90, dtype=np.uint8)
    late[-3:] = rng.integers(0, 256, (3, 32))
    return [
        rough,
        rough.convert("L"),
        rough.resize((50, 40)),
        Image.fromarray(late),
        Image.new("RGB", (40, 40), "teal"),
    ]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_every_cut_gives_the_whole_image_or_an_error(options: dict[str, Any]) -> None:
    for image in pictures():
        data = jpeg(image, **options)
        wanted = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
        whole = set()
        for cut in [*range(1, 24), *range(24, len(data), len(data) // 40)]:
            for padding in (b"", bytes(512)):
                try:
                    assert np.array_equal(decode_image(data[:-cut] + padding, "x"), wanted), (cut, padding)
                    whole.add((cut, len(padding)))
                except DataError:
                    pass
        assert {(1, 0), (2, 0)} <= whole


def segment(marker: int, data: bytes) -> bytes:
    return bytes([0xFF, marker]) + (len(data) + 2).to_bytes(2) + data


@pytest.mark.parametrize(
    "segments",
    [
        b"".join(segment(0xE2, b"ICC_PROFILE\0" + bytes([k, 40]) + bytes(65000)) for k in range(1, 41)),
        segment(0xE1, b"Exif\0\0II*\0\xff\xff\xff\xff"),
        segment(0xE1, b"Exif\0\0" + b"\xff\xd9" * 30000),
        segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + b"<" * 65000),
        segment(0xE2, b"MPF\0II*\0\x08\0\0\0"),
        segment(0xED, b"Photoshop 3.0\0" + b"8BIM" * 1000),
        segment(0xFE, b"comment" * 1000) * 100,
    ],
)
def test_metadata_never_rejects_whole_pixels(segments: bytes) -> None:
    data = jpeg(pictures()[0])
    assert np.array_equal(decode_image(data[:2] + segments + data[2:], "x"), decode_image(data, "x"))


def test_first_of_several_images_is_taken() -> None:
    first, second = (jpeg(image) for image in pictures()[:2])
    assert np.array_equal(decode_image(first + second, "x"), decode_image(first, "x"))
    assert np.array_equal(decode_image(first + bytes(1000), "x"), decode_image(first, "x"))


def test_kinds_that_are_not_read_are_named() -> None:
    data = jpeg(pictures()[0])
    frame = data.index(b"\xff\xc0")
    with pytest.raises(DataError, match="is a JPEG of 12 bits"):
        decode_image(data[: frame + 4] + b"\x0c" + data[frame + 5 :], "x")
    scan = data.index(b"\xff\xda")
    with pytest.raises(DataError, match="is a JPEG of 302 scans"):
        decode_image(data[:scan] + b"\xff\xda" * 301 + data[scan:], "x")
