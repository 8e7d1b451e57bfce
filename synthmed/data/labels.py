"""The classes of a data set: their names in label order, other words for them, and which of them AUROC ranks."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, overload

from synthmed.errors import DataError, UsageError, nearest

MAX_CLASSES = 10_000
MAX_CLASS_NAME = 200


@dataclass(frozen=True)
class Classes(Sequence[str]):
    """Class names in label order, as a sequence that also knows other words for them.

    Two are equal where their names are: aliases and the positive class are only said beside them.

    Raises:
        DataError: They are too many, a name stands twice, or an alias or the positive class means none of them.
    """

    names: tuple[str, ...] = ()
    """The position is the label."""
    aliases: Mapping[str, str] = field(default_factory=dict, compare=False)
    """Other words for a class -> the class."""
    positive: str | None = field(default=None, compare=False)
    """The class whose score AUROC ranks; `None` where nobody named one."""

    def __post_init__(self) -> None:
        if (number := max(len(self.names), len(self.aliases))) > MAX_CLASSES:
            raise DataError(f"there are {number} names of classes", f"at most {MAX_CLASSES}")
        if len(set(self.names)) != len(self.names):
            raise DataError(f"classes are {list(self.names)}", "no name may stand twice")
        for alias, name in self.aliases.items():
            if name not in self.names:
                raise DataError(f"alias {alias} stands for {name}", f"classes are {list(self.names)}")
        if self.positive is not None and self.positive not in self.names:
            raise DataError(f"the positive class is {self.positive}", f"classes are {list(self.names)}")

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    @overload
    def __getitem__(self, label: int) -> str: ...
    @overload
    def __getitem__(self, label: slice) -> tuple[str, ...]: ...
    def __getitem__(self, label: int | slice) -> str | tuple[str, ...]:
        return self.names[label]

    @property
    def positive_label(self) -> int:
        """Label of the class whose probability is the score: the positive class, else the last."""
        return len(self.names) - 1 if self.positive is None else self.names.index(self.positive)

    def resolve(self, word: str) -> int:
        """Return the label that a word means; case does not matter, and '-', '_' and a space are the same.

        Raises:
            UsageError: No class and no alias is called so; the valid words are listed.
        """
        if (label := self.find(word)) is not None:
            return label
        choices = []
        for name in self.names:
            others = [alias for alias, meant in self.aliases.items() if meant == name]
            choices.append(f"{name} (or {', '.join(others)})" if others else name)
        guess = nearest(word, [*self.names, *self.aliases]).partition(" valid: ")
        hint = f"{guess[0]} " if guess[1] else ""
        raise UsageError(f"unknown label: {word!r}", f"{hint}valid: {', '.join(choices)}")

    def find(self, word: str) -> int | None:
        """Return the label that a word means, `None` where it means none."""
        meant = {normalise(alias): self.names.index(name) for alias, name in self.aliases.items()}
        return (meant | {normalise(name): label for label, name in enumerate(self.names)}).get(normalise(word))

    def labels_of(self, other: Classes) -> tuple[int | None, ...]:
        """Return for each class of another source the label that it has here, by name or alias of either side."""
        return tuple(
            next((label for word in (name, *other.words_for(name)) if (label := self.find(word)) is not None), None)
            for name in other
        )

    def match(self, other: Classes, used: Collection[int], *, here: str, there: str) -> tuple[int | None, ...]:
        """Return for each class of another source the label that it has here; `None` for an unknown one without images.

        Args:
            other: Classes of the other source, in any order and by any name that either side knows.
            used: Labels of the other source that have images: a class that is only named there need not be known here.
            here: What errors call the source of these classes.
            there: What errors call the other one.

        Raises:
            DataError: A class with images is none of these, or several mean the same.
        """
        found = self.labels_of(other)
        if unknown := [word for label, word in enumerate(other) if found[label] is None and label in used]:
            raise DataError(
                f"the classes differ: {', '.join(unknown)} of {there} is none of {', '.join(self)} of {here}",
                "give both the same names, e.g. with synthmed pack --class",
            )
        if repeated := [label for label, count in Counter(found).items() if label is not None and count > 1]:
            raise DataError(f"several classes of {there} mean {self[repeated[0]]}")
        return found

    def words_for(self, name: str) -> tuple[str, ...]:
        """Return the aliases of a class."""
        return tuple(alias for alias, meant in self.aliases.items() if meant == name)

    def part(self, labels: Iterable[int]) -> Classes:
        """Return some of the classes, whose labels are then 0, 1, ..."""
        names = tuple(self.names[label] for label in labels)
        aliases = {alias: name for alias, name in self.aliases.items() if name in names}
        return Classes(names, aliases, self.positive if self.positive in names else None)

    def with_positive(self) -> Classes:
        """Return the classes with one of them positive: the last, where nobody named one."""
        return replace(self, positive=self.names[self.positive_label])

    def as_table(self) -> dict[str, Any]:
        """Return the fields `classes`, `aliases` and `positive` as JSON has them."""
        return {"classes": list(self.names), "aliases": dict(self.aliases), "positive": self.positive}


def normalise(word: str) -> str:
    """Return a word as it is compared with others: without case, and with spaces for '-' and '_'."""
    return re.sub(r"[-_ ]+", " ", word.strip()).casefold()
