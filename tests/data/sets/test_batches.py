"""The order in which training sees samples, float conversion, and images from shards."""

from pathlib import Path

import numpy as np
import pytest
import torch

from synthmed.data.images import ImageArray, encode_image, resize_image, to_grey
from synthmed.data.pixels import to_float, to_rgb_arrays, to_uint8
from synthmed.data.sets.batches import StepBatches, own_positions
from synthmed.data.sets.shard_images import ShardImages
from synthmed.data.shards.read import ShardFolder, open_folder
from synthmed.data.shards.write import Sample, write_shard
from synthmed.errors import DataError

LABELS = torch.tensor([0] * 10 + [1] * 3 + [2] * 7)


def flatten(batches: StepBatches) -> list[int]:
    return [position for batch in batches for position in batch]


@pytest.mark.parametrize("batch_size", [1, 3, 20, 50])
def test_every_epoch_is_a_permutation_of_all_samples(batch_size: int) -> None:
    steps = -(-4 * len(LABELS) // batch_size)
    order = flatten(StepBatches(LABELS, batch_size, steps, seed=1))
    epochs = [order[first : first + len(LABELS)] for first in range(0, 4 * len(LABELS), len(LABELS))]
    for epoch in epochs:
        assert sorted(epoch) == list(range(len(LABELS)))
    assert len({tuple(epoch) for epoch in epochs}) == 4


@pytest.mark.parametrize("balanced", [False, True])
@pytest.mark.parametrize("start", [0, 1, 7, 12])
def test_resume_goes_on_where_the_whole_run_would_be(start: int, balanced: bool) -> None:
    whole = list(StepBatches(LABELS, 6, 12, seed=5, balanced=balanced))
    rest = StepBatches(LABELS, 6, 12, seed=5, balanced=balanced, start=start)
    assert list(rest) == whole[start:]
    assert len(rest) == 12 - start


@pytest.mark.parametrize("balanced", [False, True])
@pytest.mark.parametrize("world", [2, 3, 4])
def test_processes_share_out_each_batch_without_rest(world: int, balanced: bool) -> None:
    # 7 does not divide by any of them: no sample may be lost or doubled for that.
    alone = list(StepBatches(LABELS, 7, 9, seed=2, balanced=balanced))
    ranks = [StepBatches(LABELS, 7, 9, seed=2, balanced=balanced, rank=rank, world=world) for rank in range(world)]
    for step, (batch, *parts) in enumerate(zip(alone, *ranks, strict=True)):
        own = [own_positions(2, step, 7, rank, world) for rank in range(world)]
        assert sorted(position for part in own for position in part) == list(range(7))
        assert parts == [[batch[position] for position in part] for part in own]


@pytest.mark.parametrize(("classes", "batch_size"), [(2, 8), (2, 2), (4, 2)])
def test_every_process_sees_every_class_of_balanced_batches(classes: int, batch_size: int) -> None:
    """Classes take turns, so every second position of a batch is of one class."""
    labels = torch.arange(40) % classes
    for rank in range(2):
        own = list(StepBatches(labels, batch_size, 32, seed=0, balanced=True, rank=rank, world=2))
        assert labels[[index for batch in own for index in batch]].unique().tolist() == list(range(classes))
        if batch_size >= 2 * classes:
            assert all(labels[batch].unique().tolist() == list(range(classes)) for batch in own)


@pytest.mark.parametrize(
    ("balanced", "wanted"),
    [(False, [[2, 5, 12], [18, 7, 6], [9, 16, 1]]), (True, [[5, 12, 13], [1, 10, 19], [8, 11, 14]])],
)
def test_order_of_one_process_is_that_of_every_version(balanced: bool, wanted: list[list[int]]) -> None:
    """Published classifiers were trained in it."""
    assert list(StepBatches(LABELS, 3, 3, seed=4, balanced=balanced)) == wanted


def test_balanced_batches_draw_each_class_equally_often() -> None:
    batches = list(StepBatches(LABELS, 6, 40, seed=3, balanced=True))
    for batch in batches:
        assert LABELS[batch].bincount().tolist() == [2, 2, 2]
    # Within each class every sample comes up before any comes up again.
    for label in range(3):
        members = [int(k) for k in LABELS.eq(label).nonzero()]
        seen = [position for batch in batches for position in batch if LABELS[position] == label]
        for first in range(0, len(seen) - len(members) + 1, len(members)):
            assert sorted(seen[first : first + len(members)]) == members


def test_balanced_classes_need_not_be_numbered_without_gaps() -> None:
    labels = torch.tensor([3, 3, 3, 8])
    counts = labels[flatten(StepBatches(labels, 2, 6, seed=0, balanced=True))].bincount()
    assert counts.nonzero().flatten().tolist() == [3, 8]
    assert counts[[3, 8]].tolist() == [6, 6]


def test_order_depends_on_the_seed_alone() -> None:
    orders = [flatten(StepBatches(LABELS, 4, 5, seed=seed)) for seed in (1, 1, 2)]
    assert orders[0] == orders[1] != orders[2]
    batches = StepBatches(LABELS, 4, 12, seed=1)
    assert list(batches) == list(batches)


def test_float_images_span_minus_one_to_one() -> None:
    values = to_float(torch.tensor([0, 255], dtype=torch.uint8))
    assert values.dtype == torch.float32
    assert values.tolist() == [-1.0, 1.0]


def test_round_trip_through_floats_loses_at_most_one_level() -> None:
    # `to_uint8` truncates as Medfusion does, so that values which float32 puts just below a level drop by one.
    levels = torch.arange(256, dtype=torch.uint8)
    loss = levels.int() - to_uint8(to_float(levels)).int()
    assert set(loss.tolist()) <= {0, 1}
    assert loss[[0, 255]].tolist() == [0, 0]
    assert int(loss.sum()) == 63


def test_uint8_clips_and_truncates() -> None:
    values = torch.tensor([-7.0, -1.0, -1 + 1.99 / 255, 0.0, 1 - 0.02 / 255, 1.0, 7.0])
    assert to_uint8(values).tolist() == [0, 0, 0, 127, 254, 255, 255]
    assert to_uint8(values).dtype == torch.uint8


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
    images = ShardImages(folder)
    assert (images.size, len(images)) == (16, 5)
    assert images.labels.tolist() == [0, 1, 0, 1, 0]
    assert images.labels.dtype == torch.int64
    assert (images.groups[3], images.keys[3]) == ("g3", "s-3")
    for number, image in enumerate(written):
        tensor, label = images[number]
        assert (tensor.dtype, tuple(tensor.shape), label) == (torch.uint8, (3, 16, 16), number % 2)
        assert (tensor.permute(1, 2, 0).numpy() == image).all()


@pytest.mark.parametrize("size", [None, 16, 24])
def test_cache_does_not_change_the_images(tmp_path: Path, size: int | None) -> None:
    folder, _ = write_folder(tmp_path, [(16, 16)] * 4)
    side = size or 16
    cached = ShardImages(folder, size=size, cache_bytes=4 * 3 * side**2)
    read = ShardImages(folder, size=size, cache_bytes=4 * 3 * side**2 - 1)
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
    images = ShardImages(folder, size=16)
    assert (images[0][0].permute(1, 2, 0).numpy() == written[0]).all()
    for number in (1, 2, 3):
        assert (images[number][0].permute(1, 2, 0).numpy() == resize_image(written[number], 16, "crop")).all()


def test_shard_that_became_shorter_is_named(tmp_path: Path) -> None:
    folder, _ = write_folder(tmp_path, [(16, 16)] * 4)
    images = ShardImages(folder, cache_bytes=0)
    (tmp_path / "train-000001.tar").write_bytes(b"")
    with pytest.raises(DataError, match=r"train-000001\.tar"):
        images[3]


def test_one_channel_is_the_luma_and_is_shown_as_grey(tmp_path: Path) -> None:
    folder, written = write_folder(tmp_path, [(16, 16)] * 3)
    images = ShardImages(folder, channels=1)
    assert images.load([0, 2]).shape == (2, 1, 16, 16)
    shown = to_rgb_arrays(images.load([0, 2]))
    assert (shown[1] == to_grey(written[2])).all()


def test_three_channels_are_shown_as_they_are(tmp_path: Path) -> None:
    folder, written = write_folder(tmp_path, [(16, 16)] * 2)
    assert (to_rgb_arrays(ShardImages(folder).load([1]))[0] == written[1]).all()
