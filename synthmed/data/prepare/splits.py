"""Splitting by group: no patient is in two splits, and every split has nearly the classes of the whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from synthmed.data.prepare.raw import RawItem
from synthmed.data.shards.plan import SPLITS
from synthmed.errors import DataError
from synthmed.runtime.seeds import derive_seed

Counts = dict[int, int]


def assign_splits(
    items: Sequence[RawItem], classes: Sequence[str], fractions: Mapping[str, float], seed: int
) -> list[str]:
    """Return the split of every item, the same for the same items in any order.

    Where the release itself gives train and test, they are kept: validation is taken from train, as a fraction of it.

    Args:
        items: Of all classes.
        classes: Class names in label order.
        fractions: validation and test -> share of the images, above 0 and below 1 together.
        seed: Of the order in which groups are dealt out.

    Raises:
        DataError: A class does not occur, or has too few groups for its splits.
    """
    keeps_own = {"train", "test"} <= {item.split for item in items}
    if keeps_own:
        free = [item for item in items if item.split in (None, "train")]
        shares = {"train": 1 - fractions["validation"], "validation": fractions["validation"]}
    else:
        free = list(items)
        shares = {"train": 1 - fractions["validation"] - fractions["test"], **fractions}
    of_group = _deal_groups(_group_counts(free), shares, seed)
    splits = ["test" if keeps_own and item.split == "test" else of_group[item.group] for item in items]
    _check_classes(items, splits, classes)
    return splits


def _group_counts(items: Sequence[RawItem]) -> dict[str, Counts]:
    counts: dict[str, Counts] = {}
    for item in items:
        group = counts.setdefault(item.group, {})
        group[item.label] = group.get(item.label, 0) + 1
    return counts


def _deal_groups(groups: Mapping[str, Counts], shares: Mapping[str, float], seed: int) -> dict[str, str]:
    """Return the split of every group.

    Large groups go first, equal ones in an order drawn from the seed. Of the splits that still lack as many images as
    the group has, it goes to the one that lacks most relative to its target, so that groups of every size are spread
    over all splits; one that fits nowhere goes where it brings the counts closest to the targets.
    """
    totals: Counts = {}
    for counts in groups.values():
        for label, count in counts.items():
            totals[label] = totals.get(label, 0) + count
    lacking = {split: {label: total * share for label, total in totals.items()} for split, share in shares.items()}
    splits = {}
    for group in sorted(groups, key=lambda name: (-sum(groups[name].values()), derive_seed(seed, "split", name))):
        counts = groups[group]
        fitting = [split for split in shares if all(lacking[split][k] > c - 0.5 for k, c in counts.items())]
        # Classes weigh the same, however rare they are.
        need = {s: sum(c * lacking[s][k] / totals[k] ** 2 for k, c in counts.items()) / shares[s] for s in fitting}
        gain = {s: sum(c * (lacking[s][k] - c / 2) / totals[k] ** 2 for k, c in counts.items()) for s in shares}
        chosen = max(fitting, key=lambda s: (need[s], shares[s])) if fitting else max(shares, key=lambda s: gain[s])
        splits[group] = chosen
        for label, count in counts.items():
            lacking[chosen][label] -= count
    return _fill_empty(groups, splits, shares)


def _fill_empty(groups: Mapping[str, Counts], splits: dict[str, str], shares: Mapping[str, float]) -> dict[str, str]:
    """Give a split without a class the smallest group of it from the split that has most such groups, if it can."""
    for label in sorted({label for counts in groups.values() for label in counts}):
        holders = sorted((name for name in groups if label in groups[name]), key=lambda n: (sum(groups[n].values()), n))
        for split in shares:
            have = {name: [group for group in holders if splits[group] == name] for name in shares}
            richest = max(shares, key=lambda name: len(have[name]))
            if not have[split] and len(have[richest]) > 1:
                splits[have[richest][0]] = split
    return splits


def _check_classes(items: Sequence[RawItem], splits: Sequence[str], classes: Sequence[str]) -> None:
    for label, name in enumerate(classes):
        members = [(item.group, split) for item, split in zip(items, splits, strict=True) if item.label == label]
        if not members:
            raise DataError(f"no usable image of class {name!r}", "every class must occur")
        for wanted in SPLITS:
            if not any(split == wanted for _, split in members):
                num_groups = len({group for group, _ in members})
                raise DataError(
                    f"class {name!r} has too few images for the {wanted} split: {len(members)} in {num_groups} groups",
                    "every split needs at least one group of every class",
                )
