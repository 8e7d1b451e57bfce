"""Splits by group, with the classes of the whole."""

from collections import Counter, defaultdict

import numpy as np
import pytest

from synthmed.data.prepare.raw import RawItem
from synthmed.data.prepare.splits import assign_splits
from synthmed.errors import DataError

CLASSES = ("no", "yes")
FRACTIONS = {"validation": 0.1, "test": 0.3}


def make_items(sizes: list[tuple[int, int]], split: str | None = None) -> list[RawItem]:
    """Return items of groups, each given as (images of class 0, images of class 1)."""
    items = []
    for number, counts in enumerate(sizes):
        for label, count in enumerate(counts):
            items += [
                RawItem(None, f"{split}{number}-{label}-{k}", "k", label, f"{split}{number}", split)
                for k in range(count)
            ]
    return items


def shares(items: list[RawItem], splits: list[str]) -> dict[tuple[str, int], float]:
    counts = Counter((split, item.label) for item, split in zip(items, splits, strict=True))
    totals = Counter(item.label for item in items)
    return {(split, label): count / totals[label] for (split, label), count in counts.items()}


def test_no_group_is_in_two_splits() -> None:
    rng = np.random.default_rng(0)
    items = make_items([tuple(rng.integers(0, 4, 2)) for _ in range(300)])
    of_group = defaultdict(set)
    for item, split in zip(items, assign_splits(items, CLASSES, FRACTIONS, 0), strict=True):
        of_group[item.group].add(split)
    assert all(len(splits) == 1 for splits in of_group.values())


@pytest.mark.parametrize("seed", range(5))
def test_classes_keep_their_proportions(seed: int) -> None:
    rng = np.random.default_rng(seed)
    items = make_items(
        [(int(rng.integers(1, 5)), 0) for _ in range(400)] + [(0, int(rng.integers(1, 4))) for _ in range(40)]
    )
    found = shares(items, assign_splits(items, CLASSES, FRACTIONS, seed))
    for label, tolerance in ((0, 0.005), (1, 0.03)):
        assert found["train", label] == pytest.approx(0.6, abs=tolerance)
        assert found["validation", label] == pytest.approx(0.1, abs=tolerance)
        assert found["test", label] == pytest.approx(0.3, abs=tolerance)


def test_single_images_are_split_to_the_image() -> None:
    items = make_items([(1, 0)] * 200 + [(0, 1)] * 50)
    counts = Counter(zip(assign_splits(items, CLASSES, FRACTIONS, 1), (item.label for item in items), strict=True))
    assert counts == {
        ("train", 0): 120,
        ("validation", 0): 20,
        ("test", 0): 60,
        ("train", 1): 30,
        ("validation", 1): 5,
        ("test", 1): 15,
    }


def test_large_and_small_groups_are_in_every_split() -> None:
    items = make_items([(8, 0)] * 50 + [(1, 0)] * 200 + [(0, 1)] * 100)
    sizes: dict[str, Counter[int]] = defaultdict(Counter)
    of_group = dict(zip((item.group for item in items), assign_splits(items, CLASSES, FRACTIONS, 0), strict=True))
    for group, count in Counter(item.group for item in items).items():
        sizes[of_group[group]][count] += 1
    assert [sizes[split][8] for split in ("train", "validation", "test")] == [30, 5, 15]


@pytest.mark.parametrize("seed", range(5))
def test_small_groups_make_up_for_large_ones(seed: int) -> None:
    items = make_items([(40, 0), (30, 0)] + [(1, 0)] * 130 + [(0, 1)] * 100)
    counts = Counter(zip(assign_splits(items, CLASSES, FRACTIONS, seed), (item.label for item in items), strict=True))
    assert [counts[split, 0] for split in ("train", "validation", "test")] == [120, 20, 60]


def test_splits_depend_on_the_seed_and_not_on_the_order() -> None:
    items = make_items([(2, 1)] * 60)
    splits = assign_splits(items, CLASSES, FRACTIONS, 0)
    backwards = assign_splits(items[::-1], CLASSES, FRACTIONS, 0)
    assert splits == backwards[::-1]
    assert splits == assign_splits(items, CLASSES, FRACTIONS, 0)
    assert splits != assign_splits(items, CLASSES, FRACTIONS, 1)


def test_three_groups_fill_three_splits() -> None:
    items = make_items([(50, 50), (50, 50), (50, 50)])
    assert set(assign_splits(items, CLASSES, FRACTIONS, 0)) == {"train", "validation", "test"}


def test_rare_class_reaches_every_split() -> None:
    items = make_items([(1, 0)] * 100 + [(0, 1)] * 3)
    splits = assign_splits(items, CLASSES, FRACTIONS, 0)
    assert {split for item, split in zip(items, splits, strict=True) if item.label == 1} == {
        "train",
        "validation",
        "test",
    }


def test_class_with_too_few_groups_is_named_with_the_split() -> None:
    items = make_items([(1, 0)] * 100 + [(0, 9)] * 2)
    with pytest.raises(DataError, match="class 'yes' has too few images for the validation split: 18 in 2 groups"):
        assign_splits(items, CLASSES, FRACTIONS, 0)


def test_class_that_does_not_occur_is_named() -> None:
    with pytest.raises(DataError, match="no usable image of class 'yes'"):
        assign_splits(make_items([(1, 0)] * 100), CLASSES, FRACTIONS, 0)


def test_train_and_test_of_the_release_are_kept() -> None:
    items = make_items([(3, 3)] * 40, "train") + make_items([(2, 2)] * 7, "test")
    splits = assign_splits(items, CLASSES, FRACTIONS, 0)
    assert all((split == "test") == (item.split == "test") for item, split in zip(items, splits, strict=True))
    assert splits.count("validation") == 24


def test_release_with_train_alone_is_split_in_three() -> None:
    items = make_items([(1, 1)] * 50, "train")
    assert Counter(assign_splits(items, CLASSES, FRACTIONS, 0)) == {"train": 60, "validation": 10, "test": 30}
