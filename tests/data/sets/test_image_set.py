"""Where an evaluation's images come from: shards, folders and archives, and the parts of them that are compared."""

from __future__ import annotations

import json
import tarfile
import uuid
import zipfile
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from synthmed.data.images import decode_image, encode_image, resize_image
from synthmed.data.labels import Classes
from synthmed.data.pack.unpack import LabelFile, unpack_folder
from synthmed.data.sets import image_set as sources
from synthmed.data.sets.image_set import ImageSet, open_image_set, split_place
from synthmed.data.shards.plan import RUN_FILE
from synthmed.data.shards.write import Sample, write_shard
from synthmed.errors import DataError, UsageError
from synthmed.evaluation.selection import balance_classes, match_classes
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
    images = open_image_set(f"{shards}:train")
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
    wanted = open_image_set(f"{shards}:train")
    found = open_image_set(str(pack(unpacked(shards, tmp_path / "files", labels), tmp_path / "packed")))
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
    whole = open_image_set(f"{shards}:train")
    assert len({whole.content_hash, open_image_set(f"{shards}:test").content_hash}) == 2
    assert open_image_set(f"{shards}:train", size=20).content_hash != whole.content_hash
    assert whole.subset(range(20)).content_hash == whole.content_hash
    assert whole.subset(range(19, -1, -1)).content_hash != whole.content_hash
    # Other bytes, same pixels; then one value of one pixel.
    for name, change in (("same", 0), ("other", 1)):
        files = unpacked(shards, tmp_path / name)
        file = sorted(files.rglob("*.png"))[0]
        image = pixels(int(file.stem.removeprefix("train-")))
        image[3, 4, 0] ^= change
        file.write_bytes(encode_image(image, "webp"))
        assert (open_image_set(str(files)).content_hash == whole.content_hash) == (not change)


def test_subset_keeps_what_belongs_to_its_images(shards: Path) -> None:
    images = open_image_set(f"{shards}:train")
    part = images.subset([11, 3, 5])
    assert part.keys == (images.keys[11], images.keys[3], images.keys[5])
    assert part.labels.tolist() == images.labels[[11, 3, 5]].tolist()
    assert part.subset([2]).groups == (images.groups[5],)
    assert (part.subset([2, 0]).load([0, 1]) == images.load([5, 11])).all()
    assert part.subset([-1]).keys == part.subset([2]).keys
    with pytest.raises(ValueError, match="twice"):
        images.subset([1, 1])


def test_images_that_do_not_fit_into_the_cache_are_the_same(shards: Path) -> None:
    for cache_bytes in (0, 5 * 3 * 16 * 16):
        images = open_image_set(f"{shards}:train", cache_bytes=cache_bytes)
        assert len(images._reader._kept) == cache_bytes // (3 * 16 * 16)
        assert (images.load(range(20)) == open_image_set(f"{shards}:train").load(range(20))).all()


def test_other_sizes_are_resized_as_for_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_split(tmp_path, "train", 6, size=(40, 24))
    images = open_image_set(str(tmp_path), size=16)
    assert images.size == (16, 16)
    for key, image in zip(images.keys, images.load(range(6)), strict=True):
        original = pixels(int(key.removeprefix("train-")), 40, 24)
        assert (image.permute(1, 2, 0).numpy() == resize_image(original, 16, "crop")).all()
    assert "images of 40 x 24 pixels are resized to 16 x 16" in capsys.readouterr().err
    assert open_image_set(str(tmp_path)).size == (40, 24)
    assert capsys.readouterr().err == ""
    assert open_image_set(str(tmp_path), size=(20, 32)).load([0]).shape == (1, 3, 20, 32)


def test_grey_images_become_three_channels(tmp_path: Path) -> None:
    from PIL import Image

    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    for name in "ab":
        Image.fromarray(pixels(ord(name))[:, :, 0]).save(tmp_path / name / "x.png")
    loaded = open_image_set(str(tmp_path)).load([0, 1])
    assert (loaded == loaded[:, :1]).all()


def test_split_is_the_only_one_the_named_one_or_the_default(shards: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"several splits: train, test \(name one, e\.g\. .*shards:train\)"):
        open_image_set(str(shards))
    assert open_image_set(str(shards), split="test").split == "test"
    assert open_image_set(f"{shards}:train", split="test").split == "train"
    write_split(tmp_path / "one", "validation", 4)
    only = open_image_set(str(tmp_path / "one"), split="test")
    assert (only.split, only.name) == ("validation", "one")
    with pytest.raises(DataError, match="has no split 'tset'"):
        open_image_set(f"{shards}:tset")


@pytest.mark.parametrize(
    ("where", "place", "split"),
    [
        ("shards", "shards", None),
        ("/a/shards:test", "/a/shards", "test"),
        ("../a:b/shards", "../a:b/shards", None),
        ("a:b:test", "a:b", "test"),
    ],
)
def test_split_stands_behind_the_last_colon(where: str, place: str, split: str | None) -> None:
    assert split_place(where) == (Path(place), split)


def test_colon_in_the_name_of_a_folder_is_no_split(tmp_path: Path) -> None:
    (tmp_path / "2024:11").mkdir()
    assert split_place(f"{tmp_path}/2024:11") == (tmp_path / "2024:11", None)
    assert split_place(f"{tmp_path}/2024:11:test") == (tmp_path / "2024:11", "test")
    assert split_place("x" * 5000 + ":test")[1] == "test"
    with pytest.raises(UsageError, match="no split is named"):
        split_place("shards:")


@pytest.mark.parametrize(
    ("where", "place", "split"),
    [
        ("memory://bucket/x:test", "memory://bucket/x", "test"),
        ("memory://bucket/x", "memory://bucket/x", None),
        ("memory://host:9000", "memory://host:9000", None),
        ("memory://host:9000/x:test", "memory://host:9000/x", "test"),
    ],
)
def test_colons_of_addresses_are_no_splits(where: str, place: str, split: str | None) -> None:
    pytest.importorskip("upath")
    assert split_place(where) == (location(place), split)


def test_shards_are_read_from_a_store(shards: Path) -> None:
    pytest.importorskip("upath")
    store = location(f"memory://{uuid.uuid4().hex}/shards")
    for file in (path for path in shards.rglob("*") if path.is_file()):
        (store / file.relative_to(shards).as_posix()).write_bytes(file.read_bytes())
    images = open_image_set(f"{store}:train")
    assert images.content_hash == open_image_set(f"{shards}:train").content_hash
    with pytest.raises(DataError, match="no such folder of shards"):
        open_image_set(f"memory://{uuid.uuid4().hex}/nothing:train")


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
            open_image_set(str(where))
    with pytest.raises(UsageError, match="at a size of 8 pixels"):
        open_image_set(f"{shards}:train", size=8)
    broken = next(files.rglob("*.png"))
    broken.write_bytes(broken.read_bytes()[:100])
    with pytest.raises(DataError, match=rf"{broken.name} is a broken image"):
        open_image_set(str(files))
    broken.unlink()
    capsys.readouterr()
    assert len(open_image_set(str(files))) == 19
    assert "1 images are not used" in capsys.readouterr().err


def test_image_that_changes_while_it_is_used_is_noticed(shards: Path, tmp_path: Path) -> None:
    files = unpacked(shards, tmp_path / "files")
    images = open_image_set(str(files), cache_bytes=0)
    (files / images.keys[4]).write_bytes(encode_image(pixels(999), "png"))
    images.load([3, 5])
    with pytest.raises(DataError, match="has changed"):
        images.load([4])


def test_same_bytes_are_not_decoded_again(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[str] = []

    def decode(data: bytes, name: str) -> Any:
        decoded.append(name)
        return decode_image(data, name)

    monkeypatch.setattr(sources, "decode_image", decode)
    cache = tmp_path / "cache"

    def opened(where: object, size: int | None = None) -> tuple[ImageSet, int]:
        decoded.clear()
        return open_image_set(str(where), size=size, cache=cache), len(decoded)

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
    assert open_image_set(str(files)).classes.names == ("class0", "class1")
    assert open_image_set(str(files), classes=CLASSES).classes.names == CLASSES


def renamed(images: ImageSet, classes: tuple[str, ...], **changes: Any) -> ImageSet:
    return replace(images, name="gan", classes=Classes(classes), **changes)


def test_classes_are_matched_by_name_and_alias_in_any_order(shards: Path) -> None:
    real = open_image_set(f"{shards}:train")
    generated = renamed(real, ("RG", "No Glaucoma"))
    matched = match_classes(real=real, generated=generated)
    assert matched.classes.names == CLASSES
    assert matched.labels.tolist() == (1 - real.labels).tolist()
    # An alias that only the generated side knows.
    words = Classes(("healthy", "sick"), {"no-glaucoma": "healthy", "RG": "sick"})
    foreign = replace(generated, classes=words)
    assert match_classes(real=real, generated=foreign).labels.tolist() == real.labels.tolist()
    # A class that was not generated, and one that is only named.
    only = generated.subset(np.flatnonzero(generated.labels == 0))
    for classes in (("glaucoma",), ("glaucoma", "class1")):
        assert set(match_classes(real=real, generated=replace(only, classes=Classes(classes))).labels) == {1}


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (("no-glaucoma", "cataract"), r"cataract of gan is none of no-glaucoma, glaucoma of shards:train"),
        (("class0", "class1"), r"class0, class1 of gan"),
        (("glaucoma", "RG"), "several classes of gan mean glaucoma"),
    ],
)
def test_classes_that_disagree_are_refused(shards: Path, classes: tuple[str, ...], message: str) -> None:
    real = open_image_set(f"{shards}:train")
    with pytest.raises(DataError, match=message):
        match_classes(real=real, generated=renamed(real, classes))


def test_balanced_set_has_equal_classes_and_lets_patients_take_turns(shards: Path) -> None:
    whole = open_image_set(f"{shards}:train")
    images = whole.subset([k for k in range(20) if whole.labels[k] or int(whole.keys[k][-2:]) < 14])
    assert Counter(images.labels.tolist()) == {0: 7, 1: 10}
    balanced = balance_classes(images, numpy_generator(0, "balance"))
    assert Counter(balanced.labels.tolist()) == {0: 7, 1: 7}
    # Five patients of two images a class: each gives one before any gives a second.
    for seed in range(5):
        once = balance_classes(whole, numpy_generator(seed, "balance"), images_per_class=5)
        for label in (0, 1):
            assert len({once.groups[number] for number in np.flatnonzero(once.labels == label)}) == 5
    again, other = (balance_classes(images, numpy_generator(seed, "balance")) for seed in (0, 1))
    assert again.keys == balanced.keys
    assert other.keys != balanced.keys
    assert list(balanced.keys) == [key for key in images.keys if key in balanced.keys]


def test_images_of_unknown_patients_are_drawn_one_by_one(shards: Path) -> None:
    images = replace(open_image_set(f"{shards}:train"), groups=("",) * 20)
    drawn = Counter(
        key for seed in range(200) for key in balance_classes(images, numpy_generator(seed), images_per_class=2).keys
    )
    # 200 draws of 2 in 10: each image about 40 times, with a standard deviation of 5.7.
    assert len(drawn) == 20
    assert 15 < min(drawn.values()) <= max(drawn.values()) < 65


def test_more_images_than_there_are_cannot_be_drawn(shards: Path) -> None:
    images = open_image_set(f"{shards}:train")
    with pytest.raises(DataError, match="has 10 images of class no-glaucoma, 11 are needed"):
        balance_classes(images, numpy_generator(0), images_per_class=11)
    with pytest.raises(DataError, match="has 0 images of class glaucoma, 1 are needed"):
        balance_classes(images.subset(np.flatnonzero(images.labels == 0)), numpy_generator(0))


def test_archive_is_closed_with_its_last_set(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[zipfile.ZipFile] = []
    original = zipfile.ZipFile.__init__

    def remember(self: zipfile.ZipFile, *args: Any, **words: Any) -> None:
        original(self, *args, **words)
        opened.append(self)

    archive = as_zip(unpacked(shards, tmp_path / "files"), tmp_path / "images.zip")
    monkeypatch.setattr(zipfile.ZipFile, "__init__", remember)
    images = sources.open_image_set(str(archive), cache_bytes=0)
    part = images.subset([1, 2])
    del images
    assert part.load([0]).shape == (1, 3, 16, 16)
    assert opened[0].fp is not None
    del part
    assert opened[0].fp is None
