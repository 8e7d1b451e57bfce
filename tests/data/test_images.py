"""Decoding, resizing and encoding of images."""

import io
import struct
import zlib
from typing import get_args

import numpy as np
import pytest
from PIL import Image

from synthmed.data.images import (
    ImageFormat,
    check_checksums,
    decode_image,
    detect_format,
    encode_image,
    is_grey,
    resize_image,
    stretch_range,
    to_grey,
)
from synthmed.data.sheets import contact_sheet
from synthmed.errors import DataError


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def saved(image: Image.Image, image_format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def huge_png(side: int) -> bytes:
    """Return a PNG whose header claims side x side pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    data = b"IDAT" + zlib.compress(bytes(1000))
    chunks = [struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in (header, data, b"IEND")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.mark.parametrize("image_format", ["PNG", "BMP", "TIFF"])
def test_rgb_comes_back_as_it_was(image_format: str) -> None:
    image = noise(12, 9)
    assert np.array_equal(decode_image(saved(Image.fromarray(image), image_format), "x"), image)


def test_grey_is_repeated() -> None:
    grey = noise(8, 8)[:, :, 0]
    decoded = decode_image(saved(Image.fromarray(grey), "PNG"), "x")
    assert all(np.array_equal(decoded[:, :, channel], grey) for channel in range(3))


@pytest.mark.parametrize("image_format", ["PNG", "TIFF"])
def test_16_bit_grey_keeps_its_full_range(image_format: str) -> None:
    values = np.array([[0, 257, 128 * 257, 65535]], dtype=np.uint16)
    decoded = decode_image(saved(Image.fromarray(values), image_format), "x")
    assert decoded[0, :, 0].tolist() == [0, 1, 128, 255]


def test_palette_gives_its_colours() -> None:
    image = Image.fromarray(np.array([[[255, 0, 0], [0, 0, 255]]], dtype=np.uint8)).convert("P")
    assert decode_image(saved(image, "PNG"), "x").tolist() == [[[255, 0, 0], [0, 0, 255]]]


def test_transparent_pixels_are_black_whatever_they_hide() -> None:
    hidden = np.array([[[200, 100, 50, 0], [200, 100, 50, 255]]], dtype=np.uint8)
    assert decode_image(saved(Image.fromarray(hidden), "PNG"), "x").tolist() == [[[0, 0, 0], [200, 100, 50]]]


def test_exif_orientation_is_followed() -> None:
    image = Image.fromarray(noise(8, 16))
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees to see it upright
    assert decode_image(saved(image, "JPEG", exif=exif), "x").shape == (16, 8, 3)


def test_image_bomb_is_refused_before_it_is_decoded() -> None:
    for side in (9000, 12000, 60000):
        with pytest.raises(DataError, match=r"bomb\.png has too many pixels"):
            decode_image(huge_png(side), "bomb.png")


def test_pixel_limit_can_be_lowered() -> None:
    with pytest.raises(DataError, match="too many pixels: 10 x 10"):
        decode_image(encode_image(noise(10, 10), "png"), "x", max_pixels=99)


@pytest.mark.parametrize("data", [b"", b"not an image", b"GIF89a" + bytes(100), huge_png(100)])
def test_unreadable_image_is_named(data: bytes) -> None:
    with pytest.raises(DataError, match=r"^folder/a\.png is"):
        decode_image(data, "folder/a.png")


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "WEBP", "TIFF", "BMP"])
def test_cut_or_broken_image_is_a_data_error_or_decodes(image_format: str) -> None:
    data = saved(Image.fromarray(noise(40, 40)), image_format)
    with pytest.raises(DataError):
        decode_image(data[: len(data) // 2], "x")
    rng = np.random.default_rng(0)
    for _ in range(60):
        broken = bytearray(data)
        for position in rng.integers(0, min(len(broken), 400), 8):
            broken[position] = rng.integers(0, 256)
        try:
            image = decode_image(bytes(broken), "x", max_pixels=10_000)
        except (DataError, Warning):  # Pillow warns of odd tags; the suite turns warnings into errors
            continue
        assert image.dtype == np.uint8
        assert image.shape[2] == 3


def test_error_of_an_unreadable_image_is_the_same_every_time() -> None:
    with pytest.raises(DataError) as error:
        decode_image(b"nothing", "x")
    assert "0x" not in str(error.value)


def test_crop_keeps_proportions_and_takes_the_centre() -> None:
    image = np.zeros((40, 80, 3), dtype=np.uint8)
    image[:, 20:60] = 200
    assert (resize_image(image, 20, "crop")[:, 1:-1] == 200).all()


def test_crop_is_resizing_and_then_cutting() -> None:
    image = noise(60, 100)
    whole = np.asarray(Image.fromarray(image).resize((50, 30), Image.Resampling.BILINEAR))
    assert np.abs(resize_image(image, 30, "crop").astype(int) - whole[:, 10:40]).max() <= 1


@pytest.mark.parametrize(("size", "whole"), [((20, 30), (20, 30)), ((40, 40), (40, 60)), ((10, 45), (30, 45))])
def test_crop_to_other_proportions_takes_the_largest_part(size: tuple[int, int], whole: tuple[int, int]) -> None:
    image = noise(60, 90)
    resized = np.asarray(Image.fromarray(image).resize(whole[::-1], Image.Resampling.BILINEAR))
    top, left = (whole[0] - size[0]) // 2, (whole[1] - size[1]) // 2
    cut = resized[top : top + size[0], left : left + size[1]]
    assert np.abs(resize_image(image, size, "crop").astype(int) - cut).max() <= 1


def test_stretch_keeps_everything() -> None:
    image = np.zeros((40, 80, 3), dtype=np.uint8)
    image[:, 40:] = 200
    resized = resize_image(image, 20, "stretch")
    assert (resized[:, :9] == 0).all()
    assert (resized[:, 11:] == 200).all()


def test_shrinking_is_antialiased() -> None:
    stripes = np.zeros((64, 64, 3), dtype=np.uint8)
    stripes[:, ::2] = 254
    resized = resize_image(stripes, 16, "stretch").astype(int)
    assert np.abs(resized[:, 2:-2] - 127).max() <= 2


def test_right_size_is_left_untouched() -> None:
    image = noise(16, 16)
    assert np.array_equal(resize_image(image, 16, "crop"), image)


def test_range_is_stretched_per_image_and_flat_images_stay() -> None:
    image = np.full((4, 4, 3), 60, dtype=np.uint8)
    assert np.array_equal(stretch_range(image), image)
    image[0, 0], image[1, 1] = 20, 100
    stretched = stretch_range(image)
    assert (stretched.min(), stretched.max(), stretched[2, 2, 0]) == (0, 255, 128)


@pytest.mark.parametrize("channel", [0, 1, 2])
@pytest.mark.parametrize("tint", [-3, 3])
def test_one_tinted_pixel_makes_an_image_coloured(channel: int, tint: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("synthmed.data.images.BAND_PIXELS", 20)  # four bands, the last of one row
    image = np.repeat(np.full((7, 10, 1), 100, np.uint8), 3, axis=2)
    assert is_grey(image)
    for row in (0, 6):
        tinted = image.copy()
        tinted[row, 9, channel] = 100 + tint
        assert (is_grey(tinted), is_grey(tinted, 2), is_grey(tinted, 3)) == (False, False, True)


def test_grey_has_equal_channels() -> None:
    grey = to_grey(noise(6, 6))
    assert np.array_equal(grey[:, :, 0], grey[:, :, 1])
    assert np.array_equal(grey[:, :, 0], grey[:, :, 2])


@pytest.mark.parametrize("image_format", get_args(ImageFormat))
def test_encoding_is_deterministic_and_decodes(image_format: ImageFormat) -> None:
    image = resize_image(noise(8, 8), 64, "stretch")
    data = encode_image(image, image_format, text={"b": "2", "a": "1"}, synthetic=True)
    assert data == encode_image(image, image_format, text={"a": "1", "b": "2"}, synthetic=True)
    difference = np.abs(decode_image(data, "x").astype(int) - image)
    assert difference.max() <= (12 if image_format == "jpg" else 0)


@pytest.mark.parametrize("image_format", get_args(ImageFormat))
def test_synthetic_images_say_so_inside_the_file(image_format: ImageFormat) -> None:
    image = noise(16, 16)
    said = b'Iptc4xmpExt:DigitalSourceType="http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"'
    assert said in encode_image(image, image_format, synthetic=True)
    assert b"digitalsourcetype" not in encode_image(image, image_format)
    drawn = encode_image(image, image_format, synthetic=True, digital_source="algorithmicMedia")
    assert b"digitalsourcetype/algorithmicMedia" in drawn
    with Image.open(io.BytesIO(encode_image(image, image_format, synthetic=True))) as picture:
        assert "DigitalSourceType" in str(picture.info.get("xmp", ""))


def test_png_text_is_written_for_synthetic_images() -> None:
    data = encode_image(noise(8, 8), "png", text={"label": "glaucoma"}, synthetic=True)
    with Image.open(io.BytesIO(data)) as picture:
        assert picture.text["label"] == "glaucoma"  # type: ignore[attr-defined]
        assert picture.text["synthetic"] == "true"  # type: ignore[attr-defined]


def test_contact_sheet_places_images_row_by_row() -> None:
    images = np.stack([np.full((4, 6, 3), value, dtype=np.uint8) for value in (50, 100, 150)])
    sheet = contact_sheet(images, 2, gap=1)
    assert sheet.shape == (11, 15, 3)
    assert (sheet[1:5, 1:7] == 50).all()
    assert (sheet[1:5, 8:14] == 100).all()
    assert (sheet[6:10, 1:7] == 150).all()
    assert (sheet[6:10, 8:14] == 32).all()


def test_contact_sheet_writes_row_titles_above_the_rows() -> None:
    images = np.zeros((2, 8, 40, 3), dtype=np.uint8)
    sheet = contact_sheet(images, 1, row_titles=["real"], gap=2)
    assert sheet.shape == (2 * (8 + 14 + 2) + 2, 44, 3)
    assert sheet[2:16].max() > 200
    assert sheet[26:40].max() == 32


@pytest.mark.parametrize("image_format", get_args(ImageFormat))
def test_format_is_told_by_the_bytes(image_format: ImageFormat) -> None:
    data = encode_image(noise(8, 8), image_format)
    assert detect_format(data) == image_format
    check_checksums(data, "image")


def test_other_formats_are_not_taken_for_ours() -> None:
    for data in (b"", b"RIFF", b"RIFF1234WAVE", saved(Image.new("RGB", (4, 4)), "BMP")):
        assert detect_format(data) is None


def test_every_flipped_byte_of_a_png_is_found() -> None:
    data = encode_image(noise(8, 8), "png", text={"a": "b"}, synthetic=True)
    missed = []
    for place in range(len(data)):
        spoilt = bytearray(data)
        spoilt[place] ^= 1
        try:
            check_checksums(bytes(spoilt), "spoilt")
            missed.append(place)
        except DataError as error:
            assert "spoilt" in str(error)
    # The last chunk holds nothing, and nobody reads it.
    assert all(place >= len(data) - 12 for place in missed)
