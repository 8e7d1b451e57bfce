"""Sets in the order of their content, wherever they lie: shards, folders and archives."""

from __future__ import annotations

import json
import tarfile
import uuid
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from synthmed.data.images import decode_image, encode_image, resize_image
from synthmed.data.pack.unpack import LabelFile, unpack_folder
from synthmed.data.sets import sources
from synthmed.data.sets.image_set import ImageSet
from synthmed.data.sets.sources import list_images
from synthmed.data.shards.plan import RUN_FILE
from synthmed.data.shards.write import Sample, write_shard
from synthmed.errors import DataError, UsageError
from synthmed.evaluation.content import open_by_content
from synthmed.evaluation.sets import balance_classes
from synthmed.files.atomic import write_json
from synthmed.files.storage import location
from synthmed.runtime.seeds import numpy_generator

CLASSES = ("no-glaucoma", "glaucoma")


def pixels(number: int, height: int = 16, width: int = 16) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)


def write_split(
    folder: Path, split: str, count: int, *, first: int = 0, size: tuple[int, int] = (16, 16), groups: int = 5
) -> None:
    """Write two shards of alternating classes."""
    for shard in range(2):
        samples = [
            Sample(
                f"{split}-{number:04d}",
                encode_image(pixels(first + number, *size), "png"),
                "png",
                number % 2,
                {"label_name": CLASSES[number % 2], "group": f"patient{number % groups}", "synthetic": False},
            )
            for number in range(shard * count // 2, (shard + 1) * count // 2)
        ]
        write_shard(folder / f"{split}-{shard:06d}.tar", samples)


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    folder = tmp_path / "shards"
    write_split(folder, "train", 20)
    write_split(folder, "test", 10, first=100)
    described = {"kind": "real", "dataset": "airogs", "classes": list(CLASSES), "aliases": {"RG": "glaucoma"}}
    write_json(folder / RUN_FILE, {"folder": described})
    return folder


def test_shards_give_their_labels_groups_and_pixels(shards: Path) -> None:
    images = open_by_content(f"{shards}:train")
    assert (images.name, images.kind, images.dataset, images.split) == ("shards:train", "real", "airogs", "train")
    assert (images.classes.names, images.size, len(images)) == (CLASSES, (16, 16), 20)
    loaded = images.load(range(20))
    assert (tuple(loaded.shape), str(loaded.dtype)) == ((20, 3, 16, 16), "torch.uint8")
    for place, key in enumerate(images.keys):
        number = int(key.removeprefix("train-"))
        assert (loaded[place].permute(1, 2, 0).numpy() == pixels(number)).all()
        assert (images.labels[place], images.groups[place]) == (number % 2, f"patient{number % 5}")
    assert (images.load([7, 2]) == loaded[[7, 2]]).all()


def unpacked(shards: Path, target: Path, labels: LabelFile = "folders") -> Path:
    unpack_folder(shards, target, splits=["train"], labels=labels)
    return target / "train"


def as_tar(folder: Path, target: Path) -> Path:
    with tarfile.open(target, "w") as archive:
        archive.add(folder, "somewhere/deep")
    return target


def as_zip(folder: Path, target: Path) -> Path:
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.rglob("*"), reverse=True):
            archive.write(file, file.relative_to(folder))
    return target


@pytest.mark.parametrize("labels", ["folders", "stylegan"])
@pytest.mark.parametrize("pack", [lambda folder, _: folder, as_tar, as_zip])
def test_same_pixels_are_the_same_set_from_shards_folder_tar_and_zip(
    shards: Path, tmp_path: Path, labels: LabelFile, pack: Callable[[Path, Path], Path]
) -> None:
    wanted = open_by_content(f"{shards}:train")
    found = open_by_content(str(pack(unpacked(shards, tmp_path / "files", labels), tmp_path / "packed")))
    assert found.content_hash == wanted.content_hash
    assert found.classes == wanted.classes
    assert (found.labels == wanted.labels).all()
    # StyleGAN's file has no place for groups.
    assert labels == "stylegan" or found.groups == wanted.groups
    assert (found.load(range(20)) == wanted.load(range(20))).all()
    # What is drawn from both is the same as well.
    halves = [balance_classes(images, numpy_generator(3, "half"), images_per_class=4) for images in (found, wanted)]
    assert labels == "stylegan" or halves[0].content_hash == halves[1].content_hash


def test_content_hash_is_that_of_the_pixels_in_order(shards: Path, tmp_path: Path) -> None:
    whole = open_by_content(f"{shards}:train")
    assert len({whole.content_hash, open_by_content(f"{shards}:test").content_hash}) == 2
    assert open_by_content(f"{shards}:train", size=20).content_hash != whole.content_hash
    assert whole.subset(range(20)).content_hash == whole.content_hash
    assert whole.subset(range(19, -1, -1)).content_hash != whole.content_hash
    # Other bytes, same pixels; then one value of one pixel.
    for name, change in (("same", 0), ("other", 1)):
        files = unpacked(shards, tmp_path / name)
        file = sorted(files.rglob("*.png"))[0]
        image = pixels(int(file.stem.removeprefix("train-")))
        image[3, 4, 0] ^= change
        file.write_bytes(encode_image(image, "webp"))
        assert (open_by_content(str(files)).content_hash == whole.content_hash) == (not change)


def test_images_that_do_not_fit_into_the_cache_are_the_same(shards: Path) -> None:
    for cache_bytes in (0, 5 * 3 * 16 * 16):
        images = open_by_content(f"{shards}:train", cache_bytes=cache_bytes)
        assert images._reader._is_kept.sum() == cache_bytes // (3 * 16 * 16)
        assert not images.cached
        assert (images.load(range(20)) == open_by_content(f"{shards}:train").load(range(20))).all()


def test_other_sizes_are_resized_as_for_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_split(tmp_path, "train", 6, size=(40, 24))
    images = open_by_content(str(tmp_path), size=16)
    assert images.size == (16, 16)
    for key, image in zip(images.keys, images.load(range(6)), strict=True):
        original = pixels(int(key.removeprefix("train-")), 40, 24)
        assert (image.permute(1, 2, 0).numpy() == resize_image(original, 16, "crop")).all()
    assert "6 of 6 images of other sizes are resized to 16 x 16" in capsys.readouterr().err
    assert open_by_content(str(tmp_path)).size == (40, 24)
    assert capsys.readouterr().err == ""
    assert open_by_content(str(tmp_path), size=(20, 32)).load([0]).shape == (1, 3, 20, 32)


def test_folder_of_images_says_what_it_takes_and_what_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "s"
    for number in range(8):
        folder = tmp_path / "disk" / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        size = (16, 16) if number < 5 else (20, 20)
        (folder / f"{number}.png").write_bytes(encode_image(pixels(number, *size), "png"))
    (tmp_path / "disk/a/0_mask.png").write_bytes(b"")
    (tmp_path / "disk/a/0.dcm").write_bytes(b"")
    source.mkdir()
    for name in "ab":
        (source / name).symlink_to(tmp_path / "disk" / name)
    said = [
        f"{source}: 1 file is not read: 1 .dcm, e.g. a/0.dcm",
        f"{source}: 1 file is passed over: 1 --exclude *_mask.png, e.g. a/0_mask.png",
        "s: 3 of 8 images of other sizes are resized to 16 x 16 pixels",
    ]
    for _ in ("decoded", "remembered"):
        assert len(open_by_content(list_images(str(source), exclude=["*_mask.png"]), cache=tmp_path / "cache")) == 8
        assert capsys.readouterr().err.splitlines() == said


def test_grey_images_become_three_channels(tmp_path: Path) -> None:
    from PIL import Image

    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    for name in "ab":
        Image.fromarray(pixels(ord(name))[:, :, 0]).save(tmp_path / name / "x.png")
    loaded = open_by_content(str(tmp_path)).load([0, 1])
    assert (loaded == loaded[:, :1]).all()


def test_split_is_the_only_one_the_named_one_or_the_default(shards: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"several splits: train, test \(name one, e\.g\. .*shards:train\)"):
        open_by_content(str(shards))
    assert open_by_content(list_images(str(shards), split="test")).split == "test"
    assert open_by_content(list_images(f"{shards}:train", split="test")).split == "train"
    write_split(tmp_path / "one", "validation", 4)
    only = open_by_content(list_images(str(tmp_path / "one"), split="test"))
    assert (only.split, only.name) == ("validation", "one")
    with pytest.raises(DataError, match="has no split 'tset'"):
        open_by_content(f"{shards}:tset")


def test_shards_are_read_from_a_store(shards: Path) -> None:
    pytest.importorskip("upath")
    store = location(f"memory://{uuid.uuid4().hex}/shards")
    for file in (path for path in shards.rglob("*") if path.is_file()):
        (store / file.relative_to(shards).as_posix()).write_bytes(file.read_bytes())
    images = open_by_content(f"{store}:train")
    assert images.content_hash == open_by_content(f"{shards}:train").content_hash
    with pytest.raises(DataError, match="no such folder of shards"):
        open_by_content(f"memory://{uuid.uuid4().hex}/nothing:train")


def test_what_cannot_be_used_is_named(shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    small = tmp_path / "small"
    for name, size in (("a", (16, 16)), ("b", (15, 40))):
        (small / name).mkdir(parents=True)
        (small / name / "0.png").write_bytes(encode_image(pixels(1, *size), "png"))
    files = unpacked(shards, tmp_path / "files")
    for where, message in [
        (tmp_path / "nowhere", "no such folder, zip or tar"),
        (tmp_path / "empty", "holds no images"),
        (small, r"b/0\.png has 40 x 15 pixels \(at least 16"),
        (f"{files}:test", "holds no shards, so no split 'test'"),
        (shards / "train-000000.tar", r"is one shard \(give the folder it lies in: .*shards:train\)"),
    ]:
        with pytest.raises(DataError, match=message):
            open_by_content(str(where))
    with pytest.raises(UsageError, match="at a size of 8 pixels"):
        open_by_content(f"{shards}:train", size=8)
    broken = next(files.rglob("*.png"))
    broken.write_bytes(broken.read_bytes()[:100])
    with pytest.raises(DataError, match=rf"{broken.name} is a broken image"):
        open_by_content(str(files))
    broken.unlink()
    capsys.readouterr()
    assert len(open_by_content(str(files))) == 19
    assert "1 images are not used" in capsys.readouterr().err


def test_image_that_changes_while_it_is_used_is_noticed(shards: Path, tmp_path: Path) -> None:
    files = unpacked(shards, tmp_path / "files")
    images = open_by_content(str(files), cache_bytes=0)
    (files / images.keys[4]).write_bytes(encode_image(pixels(999), "png"))
    images.load([3, 5])
    with pytest.raises(DataError, match="has changed"):
        images.load([4])


def test_same_bytes_are_not_decoded_again(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[str] = []

    def decode(data: bytes, name: str, **options: Any) -> Any:
        decoded.append(name)
        return decode_image(data, name, **options)

    monkeypatch.setattr(sources, "decode_image", decode)
    cache = tmp_path / "cache"

    def opened(where: object, size: int | None = None) -> tuple[ImageSet, int]:
        decoded.clear()
        return open_by_content(str(where), size=size, cache=cache), len(decoded)

    # The first image is always decoded, for its size.
    wanted, count = opened(f"{shards}:train")
    assert count == 21
    again, count = opened(f"{shards}:train")
    assert (count, again.content_hash, again.keys) == (1, wanted.content_hash, wanted.keys)
    assert (again.load(range(20)) == wanted.load(range(20))).all()
    assert opened(f"{shards}:train", size=20)[1] == 21
    # Files with other bytes are decoded, and what the cache holds is not trusted.
    files = unpacked(shards, tmp_path / "files")
    assert opened(files)[1] == 21
    assert opened(files)[1] == 1
    next(files.rglob("*.png")).write_bytes(encode_image(pixels(999), "png"))
    changed, count = opened(files)
    assert count == 21
    assert changed.content_hash != wanted.content_hash
    for broken in (b"", b"{}", b"[1]", json.dumps(["x"] * 20).encode()):
        for file in cache.iterdir():
            file.write_bytes(broken)
        assert opened(files)[1] == 21
        assert opened(files)[0].content_hash == changed.content_hash


def test_names_of_classes_may_be_given_for_files_without(shards: Path, tmp_path: Path) -> None:
    files = unpacked(shards, tmp_path / "files", "stylegan")
    listed = json.loads((files / "dataset.json").read_text())
    (files / "dataset.json").write_text(json.dumps({"labels": listed["labels"]}))
    assert open_by_content(str(files)).classes.names == ("class0", "class1")
    assert sources.list_images(str(files), classes=CLASSES).classes.names == CLASSES


def test_archive_is_closed_with_its_last_set(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[zipfile.ZipFile] = []
    original = zipfile.ZipFile.__init__

    def remember(self: zipfile.ZipFile, *args: Any, **words: Any) -> None:
        original(self, *args, **words)
        opened.append(self)

    archive = as_zip(unpacked(shards, tmp_path / "files"), tmp_path / "images.zip")
    monkeypatch.setattr(zipfile.ZipFile, "__init__", remember)
    images = open_by_content(str(archive), cache_bytes=0)
    part = images.subset([1, 2])
    del images
    assert part.load([0]).shape == (1, 3, 16, 16)
    assert opened[0].fp is not None
    del part
    assert opened[0].fp is None
