"""A set of grey images: noticed, said and kept for those who train on it."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from synthmed.data.images import decode_image, is_grey
from synthmed.data.prepare.chexpert import read_chexpert
from synthmed.data.prepare.prepare import PrepareConfig, prepare_release
from synthmed.data.prepare.releases import read_image_folders
from synthmed.data.prepare.report import read_grey
from synthmed.data.shards.read import open_folder
from synthmed.data.shards.samples import read_image_bytes

IMAGES = 12
SAID = "note: all images are grey: models of one channel suit them\n"
Encode = Callable[[NDArray[np.uint8]], bytes]


def encoded(image: Image.Image, image_format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def png(grey: NDArray[np.uint8]) -> bytes:
    return encoded(Image.fromarray(grey), "PNG")


def rgb_png(grey: NDArray[np.uint8]) -> bytes:
    return encoded(Image.fromarray(np.repeat(grey[..., None], 3, axis=2)), "PNG")


def deep_png(grey: NDArray[np.uint8]) -> bytes:
    return encoded(Image.fromarray(grey.astype(np.uint16) * 257), "PNG")


def jpeg(grey: NDArray[np.uint8], chroma: int = 0) -> bytes:
    """Return a colour JPEG whose chroma planes lie `chroma` levels beside grey, in blocks of all four ways."""
    blue, red = np.full_like(grey, 128 + chroma), np.full_like(grey, 128 + chroma)
    blue[:, 8:], red[16:] = 128 - chroma, 128 - chroma
    picture = Image.merge("YCbCr", [Image.fromarray(plane) for plane in (grey, blue, red)])
    return encoded(picture, "JPEG", quality=95, subsampling=0)


def faint(grey: NDArray[np.uint8]) -> bytes:
    return jpeg(grey, 2)


def sepia(grey: NDArray[np.uint8]) -> bytes:
    """Return the least colour that counts."""
    return jpeg(grey, 3)


def tinted(grey: NDArray[np.uint8]) -> bytes:
    return jpeg(grey, 8)


def faint_png(grey: NDArray[np.uint8]) -> bytes:
    """Return the pixels of a grey JPEG with a little colour as a PNG: whatever wrote it meant the colours."""
    return encoded(Image.open(io.BytesIO(faint(grey))), "PNG")


def make_set(folder: Path, encode: Encode, *others: Encode) -> Path:
    """Write two classes of images; the last ones by the other encoders."""
    encoders = [*[encode] * (IMAGES - len(others)), *others]
    for number, one in enumerate(encoders):
        grey = np.random.default_rng(number).integers(0, 256, (24, 24), dtype=np.uint8)
        path = folder / "ab"[number % 2] / f"{number}.img"
        path = path.with_suffix(".png" if one(grey).startswith(b"\x89") else ".jpg")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(one(grey))
    return folder


def prepare(source: Path, output: Path) -> Any:
    return prepare_release(read_image_folders(source), output, PrepareConfig(size=16), workers=2)


@pytest.mark.parametrize("encode", [png, rgb_png, deep_png, jpeg, faint])
def test_grey_set_is_noticed_said_and_kept(encode: Encode, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = make_set(tmp_path / "source", encode)
    assert prepare(source, tmp_path / "out").grey is True
    assert SAID in capsys.readouterr().err
    assert read_grey(tmp_path / "out") is True
    again = prepare(source, tmp_path / "out")
    assert again.grey is True
    assert SAID in capsys.readouterr().err


def test_jpeg_with_a_little_colour_keeps_it_in_the_shards(tmp_path: Path) -> None:
    prepare(make_set(tmp_path / "source", faint), tmp_path / "out")
    entries = open_folder(tmp_path / "out", "train").entries
    assert not any(is_grey(decode_image(read_image_bytes(entry), entry.key)) for entry in entries)


@pytest.mark.parametrize(("encode", "other"), [(png, sepia), (jpeg, sepia), (png, faint_png)])
def test_one_coloured_image_makes_a_coloured_set(
    encode: Encode, other: Encode, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert prepare(make_set(tmp_path / "source", encode, other), tmp_path / "out").grey is False
    assert read_grey(tmp_path / "out") is False
    assert "grey" not in capsys.readouterr().err


def test_image_that_is_left_out_does_not_count(tmp_path: Path) -> None:
    source = make_set(tmp_path / "source", png)
    small = np.zeros((4, 4, 3), np.uint8)
    small[0, 0, 0] = 255
    (source / "a" / "small.png").write_bytes(encoded(Image.fromarray(small), "PNG"))
    report = prepare_release(read_image_folders(source), tmp_path / "out", PrepareConfig(size=16, max_bad=0.5))
    assert (report.left_out, report.grey) == ({"wrong size": 1}, True)


def test_images_that_are_made_grey_count_as_such(tmp_path: Path) -> None:
    rows = ["Path,Sex,Age,Frontal/Lateral,AP/PA,Cardiomegaly"]
    for number in range(IMAGES):
        name = f"CheXpert-v1.0-small/train/patient{number:05d}/study1/view1_frontal.jpg"
        path = tmp_path / "release" / name
        path.parent.mkdir(parents=True)
        grey = np.random.default_rng(number).integers(0, 256, (24, 24), dtype=np.uint8)
        path.write_bytes(tinted(grey))
        rows.append(f"{name},Male,60,Frontal,AP,{number % 2}.0")
    (tmp_path / "release" / "CheXpert-v1.0-small" / "train.csv").write_text("\n".join(rows) + "\n")
    release = read_chexpert(tmp_path / "release" / "CheXpert-v1.0-small")
    assert prepare_release(release, tmp_path / "out", PrepareConfig(size=16)).grey is True


def test_what_an_earlier_version_did_not_look_at_is_not_known(tmp_path: Path) -> None:
    source, report = make_set(tmp_path / "source", png), tmp_path / "out" / ".synthmed" / "report.json"
    assert read_grey(tmp_path / "out") is None
    prepare(source, tmp_path / "out")
    found = json.loads(report.read_text())
    del found["grey"]
    report.write_text(json.dumps(found))
    assert read_grey(tmp_path / "out") is None
    assert prepare(source, tmp_path / "out").grey is None
    # Stopped behind the check of one image of an earlier version, and gone on with by this one.
    report.unlink()
    scan = tmp_path / "out" / ".synthmed" / "scan" / "000000000.json"
    rows = json.loads(scan.read_text())
    del rows[3]["grey"]
    scan.write_text(json.dumps(rows))
    assert prepare(source, tmp_path / "out").grey is None


@pytest.mark.parametrize("text", ["[]", '{"grey": "yes"}', '{"grey": 1}', "{}"])
def test_report_that_says_nothing_of_it_is_as_none(text: str, tmp_path: Path) -> None:
    (tmp_path / ".synthmed").mkdir()
    (tmp_path / ".synthmed" / "report.json").write_text(text)
    assert read_grey(tmp_path) is None
