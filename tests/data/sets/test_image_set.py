"""Labelled images by index: pixels, order, memory, views, and what hashes cost."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from synthmed.data.images import ImageArray, ResizeMethod, encode_image, resize_image, to_grey
from synthmed.data.pixels import to_rgb_arrays
from synthmed.data.prepare.scan import hash_pixels
from synthmed.data.sets import reader
from synthmed.data.sets.image_set import open_images
from synthmed.data.shards.read import ShardFolder, open_folder
from synthmed.data.shards.write import Sample, write_shard
from synthmed.errors import DataError


def write_folder(folder: Path, shapes: list[tuple[int, int]]) -> tuple[ShardFolder, list[ImageArray]]:
    generator = np.random.default_rng(0)
    images = [generator.integers(0, 256, (*shape, 3), dtype=np.uint8) for shape in shapes]
    samples = [
        Sample(f"s-{k}", encode_image(image, "png"), "png", k % 2, {"group": f"g{k}", "label": k % 2})
        for k, image in enumerate(images)
    ]
    half = len(samples) // 2
    write_shard(folder / "train-000000.tar", samples[:half])
    write_shard(folder / "train-000001.tar", samples[half:])
    return open_folder(folder, "train"), images


def test_images_come_as_written_with_labels_and_groups(tmp_path: Path) -> None:
    folder, written = write_folder(tmp_path, [(16, 16)] * 5)
    images = open_images(folder)
    assert (images.size, images.native_size, images.channels, len(images)) == ((16, 16), (16, 16), 3, 5)
    assert images.labels.tolist() == [0, 1, 0, 1, 0]
    assert images.labels.dtype == np.int64
    assert (images.groups[3], images.keys[3]) == ("g3", "s-3")
    for number, image in enumerate(written):
        tensor, label = images[number]
        assert (tensor.dtype, tuple(tensor.shape), label) == (torch.uint8, (3, 16, 16), number % 2)
        assert (tensor.permute(1, 2, 0).numpy() == image).all()


@pytest.mark.parametrize("size", [None, 16, 24])
def test_cache_does_not_change_the_images(tmp_path: Path, size: int | None) -> None:
    folder, _ = write_folder(tmp_path, [(16, 16)] * 4)
    side = size or 16
    cached = open_images(folder, size=size, cache_bytes=4 * 3 * side**2)
    read = open_images(folder, size=size, cache_bytes=4 * 3 * side**2 - 1)
    assert (cached.cached, read.cached) == (True, False)
    numbers = [3, 0, 0, 2]
    assert torch.equal(cached.load(numbers), read.load(numbers))
    assert torch.equal(cached.load(torch.tensor(numbers)), read.load(torch.tensor(numbers)))
    assert cached.load(numbers).shape == (4, 3, side, side)
    for number in range(4):
        assert torch.equal(cached[number][0], read[number][0])
        assert cached[number][1] == read[number][1]


def test_images_of_other_sizes_are_resized(tmp_path: Path) -> None:
    folder, written = write_folder(tmp_path, [(16, 16), (32, 48), (8, 8), (16, 24)])
    images = open_images(folder, size=16)
    assert (images[0][0].permute(1, 2, 0).numpy() == written[0]).all()
    for number in (1, 2, 3):
        assert (images[number][0].permute(1, 2, 0).numpy() == resize_image(written[number], 16, "crop")).all()


@pytest.mark.parametrize(
    ("shapes", "size", "cache_bytes", "said"),
    [
        ([(16, 16)] * 4, None, 1 << 20, ""),
        (
            [(16, 16), (32, 48), (8, 8), (16, 24)],
            None,
            1 << 20,
            "x:train: 3 of 4 images of other sizes are resized to 16",
        ),
        ([(16, 16)] * 4, 24, 1 << 20, "x:train: 4 of 4 images of other sizes are resized to 24 x 24 pixels\n"),
        ([(16, 16)] * 4, 24, 0, "x:train: all of 4 images of other sizes are resized to 24 x 24 pixels\n"),
    ],
)
def test_number_of_resized_images_is_said(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    shapes: list[tuple[int, int]],
    size: int | None,
    cache_bytes: int,
    said: str,
) -> None:
    folder, _ = write_folder(tmp_path / "x", shapes)
    open_images(folder, size=size, cache_bytes=cache_bytes).log_resized()
    found = capsys.readouterr().err
    assert found.startswith(said) if said else found == ""


def test_shard_that_became_shorter_is_named(tmp_path: Path) -> None:
    folder, _ = write_folder(tmp_path, [(16, 16)] * 4)
    images = open_images(folder, cache_bytes=0)
    (tmp_path / "train-000001.tar").write_bytes(b"")
    with pytest.raises(DataError, match=r"train-000001\.tar"):
        images[3]


def test_one_channel_is_the_luma_and_is_shown_as_grey(tmp_path: Path) -> None:
    folder, written = write_folder(tmp_path, [(16, 16)] * 3)
    images = open_images(folder, channels=1)
    assert images.load([0, 2]).shape == (2, 1, 16, 16)
    shown = to_rgb_arrays(images.load([0, 2]))
    assert (shown[1] == to_grey(written[2])).all()


def test_three_channels_are_shown_as_they_are(tmp_path: Path) -> None:
    folder, written = write_folder(tmp_path, [(16, 16)] * 2)
    assert (to_rgb_arrays(open_images(folder).load([1]))[0] == written[1]).all()


def test_subset_keeps_what_belongs_to_its_images(tmp_path: Path) -> None:
    folder, _ = write_folder(tmp_path, [(16, 16)] * 10)
    images = open_images(folder)
    part = images.subset([9, 3, 5])
    assert part.keys == (images.keys[9], images.keys[3], images.keys[5])
    assert part.labels.tolist() == images.labels[[9, 3, 5]].tolist()
    assert part.subset([2]).groups == (images.groups[5],)
    assert (part.subset([2, 0]).load([0, 1]) == images.load([5, 9])).all()
    assert part.subset([-1]).keys == part.subset([2]).keys
    with pytest.raises(ValueError, match="twice"):
        images.subset([1, 1])


def test_size_is_the_height_of_the_first_image_unless_named(tmp_path: Path) -> None:
    folder, written = write_folder(tmp_path, [(16, 24), (32, 32)])
    images = open_images(folder)
    assert (images.size, images.native_size) == ((16, 16), (16, 24))
    assert (images.pixels(0) == resize_image(written[0], 16, "crop")).all()
    assert open_images(folder, size=20).native_size == (16, 24)


@pytest.mark.parametrize("workers", [0, 2])
def test_loader_workers_read_what_does_not_fit_in_memory(tmp_path: Path, workers: int) -> None:
    folder, _ = write_folder(tmp_path, [(16, 16)] * 6)
    images = open_images(folder, cache_bytes=0)
    batches = list(DataLoader(images, batch_size=4, num_workers=workers))
    assert torch.equal(torch.cat([batch for batch, _ in batches]), open_images(folder).load(range(6)))
    assert torch.cat([labels for _, labels in batches]).tolist() == [0, 1, 0, 1, 0, 1]
    # Where processes are not forked, each is sent the set.
    sent = pickle.loads(pickle.dumps(images))
    assert torch.equal(sent.load([5, 1]), images.load([5, 1]))


def test_hashes_are_taken_only_where_they_are_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, written = write_folder(tmp_path, [(16, 16)] * 4)
    hashed: list[ImageArray] = []

    def remember(image: ImageArray) -> str:
        hashed.append(image)
        return hash_pixels(image)

    monkeypatch.setattr(reader, "hash_pixels", remember)
    images = open_images(folder, cache_bytes=0)
    images.load(range(4))
    images.resized(20).load(range(4))
    assert hashed == []
    assert images.pixel_hashes == tuple(map(hash_pixels, written))
    assert len(hashed) == 4


@pytest.mark.parametrize("cache_bytes", [0, 1 << 20])
@pytest.mark.parametrize(("method", "channels"), [("stretch", 3), ("crop", 3), ("crop", 1)])
def test_resized_view_shows_the_same_images_at_another_size(
    tmp_path: Path, method: ResizeMethod, channels: int, cache_bytes: int
) -> None:
    folder, written = write_folder(tmp_path, [(24, 24)] * 6)
    part = open_images(folder).subset([4, 1, 3])
    view = part.resized(16, method, channels=channels, cache_bytes=cache_bytes)
    assert (view.size, view.channels, view.cached) == ((16, 16), channels, cache_bytes > 0)
    assert (view.keys, view.labels.tolist()) == (part.keys, part.labels.tolist())
    for place, number in enumerate([4, 1, 3]):
        wanted = resize_image(written[number], 16, method)
        wanted = to_grey(wanted) if channels == 1 else wanted
        assert (view.pixels(place) == wanted).all()
    assert torch.equal(torch.cat(list(view.blocks(2))), view.load(range(3)))
    assert part.subset([]).resized(16).load([]).shape == (0, 3, 16, 16)
