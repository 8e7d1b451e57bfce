"""The order in which training sees samples, and float conversion."""

import pytest
import torch

from synthmed.data.pixels import to_float, to_uint8
from synthmed.data.sets.batches import StepBatches, own_positions

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
