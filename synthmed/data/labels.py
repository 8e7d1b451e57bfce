"""The classes of a data set: their names in label order, other words for them, and which of them AUROC ranks.

What a name may be is decided here, whoever says it: a model file, a folder, a table or the command line.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, overload

from synthmed.errors import DataError, UsageError, nearest

MAX_CLASSES = 10_000
MAX_ALIASES = 10_000
MAX_NAME = 200
"""Characters of a name."""
# The separators of Unicode's kind Zs; tabs, ends of lines and what has no width are in no name.
SPACES = re.compile("[ \u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]+")


def check_name(word: object, what: str = "the name of a class") -> str:
    """Return a name as it is kept: composed (NFC), with single plain spaces inside and none around.

    Args:
        word: The name as somebody has written it.
        what: What it would be the name of, for the message.

    Raises:
        DataError: It is no text, empty or too long, or holds what is not seen: control signs, changes of the writing
            direction, ends of lines, spaces without a width, halves of letters.
    """
    name = SPACES.sub(" ", unicodedata.normalize("NFC", word)).strip(" ") if isinstance(word, str) else ""
    if not name or len(name) > MAX_NAME or not name.isprintable():
        raise DataError(f"{ascii(word)[:100]} cannot be {what}", f"1 to {MAX_NAME} characters that can be seen")
    return name


@dataclass(frozen=True)
class Classes(Sequence[str]):
    """Class names in label order, as a sequence that also knows other words for them.

    Two are equal where their names are: aliases and the positive class are only said beside them.

    Raises:
        DataError: Something is no name, there are too many, a name stands twice, or an alias or the positive class
            means none of them.
    """

    names: tuple[str, ...] = ()
    """The position is the label."""
    aliases: Mapping[str, str] = field(default_factory=dict, compare=False)
    """Other words for a class -> the class."""
    positive: str | None = field(default=None, compare=False)
    """The class whose score AUROC ranks; `None` where nobody named one."""

    def __post_init__(self) -> None:
        for what, count, most in (("classes", self.names, MAX_CLASSES), ("aliases", self.aliases, MAX_ALIASES)):
            if len(count) > most:
                raise DataError(f"there are {len(count)} {what}", f"at most {most}")
        names = tuple(map(check_name, self.names))
        aliases = {check_name(alias): check_name(name) for alias, name in self.aliases.items()}
        positive = None if self.positive is None else check_name(self.positive)
        if twice := [name for name, count in Counter(names).items() if count > 1]:
            raise DataError(f"two classes have the same name: {twice[0]}", "no name may stand twice")
        known = set(names)
        for alias, name in aliases.items():
            if name not in known:
                raise DataError(f"alias {alias} stands for {name}", f"classes are {_few(names)}")
        if positive is not None and positive not in known:
            raise DataError(f"the positive class is {positive}", f"classes are {_few(names)}")
        for field_name, value in (("names", names), ("aliases", aliases), ("positive", positive)):
            object.__setattr__(self, field_name, value)

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
        """Return the label that a word means, see `find`.

        Raises:
            UsageError: No class and no alias is called so, or several; the valid words are listed.
        """
        try:
            label = self.find(word)
        except DataError as error:
            raise UsageError(str(error)) from error
        if label is not None:
            return label
        choices = []
        for name in self.names:
            others = self.words_for(name)
            choices.append(f"{name} (or {', '.join(others)})" if others else name)
        guess = nearest(word, [*self.names, *self.aliases]).partition(" valid: ")
        hint = f"{guess[0]} " if guess[1] else ""
        raise UsageError(f"unknown label: {word!r}", f"{hint}valid: {', '.join(choices)}")

    def find(self, word: str) -> int | None:
        """Return the label that a word means, `None` where it means none.

        A class or alias that is written just so counts first; else case does not matter, and '-', '_' and a space are
        the same.

        Raises:
            DataError: The word means several classes that differ in their writing alone.
        """
        written, alike = self._words
        if (label := written.get(unicodedata.normalize("NFC", word))) is not None:
            return label
        labels = alike.get(normalise(word), set())
        if len(labels) > 1:
            meant = " or ".join(self.names[label] for label in sorted(labels))
            raise DataError(f"{word!r} may mean {meant}", "write the one that is meant just so")
        return next(iter(labels), None)

    @cached_property
    def _words(self) -> tuple[dict[str, int], dict[str, set[int]]]:
        """Words as they are written -> label, a name before an alias; as they are compared -> all labels."""
        labels = {name: label for label, name in enumerate(self.names)}
        written = {alias: labels[name] for alias, name in self.aliases.items()} | labels
        alike: defaultdict[str, set[int]] = defaultdict(set)
        for word, label in written.items():
            alike[normalise(word)].add(label)
        return written, dict(alike)

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
    """Return a word as it is compared with others: composed, without case, and with spaces for '-' and '_'."""
    return re.sub(r"[-_\s]+", " ", unicodedata.normalize("NFC", word).strip()).casefold()


def _few(names: Sequence[str]) -> str:
    """Return some names as a list; a model file may hold ten thousand."""
    return ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
