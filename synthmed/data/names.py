"""Names of files and folders: which are images, which nobody means to be read, and which can be classes.

A name is the path inside its source, with '/', whether that is a folder, a zip or a tar.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from synthmed.data.images import IMAGE_SUFFIXES
from synthmed.data.labels import normalise
from synthmed.errors import DataError

# Copies of whole volumes: not even their files are counted.
SNAPSHOTS = (".snapshot", ".snapshots", "#snapshot", "~snapshot", "@Recently-Snapshot")
# What file servers, operating systems and programs put beside a user's own files, in upper or lower case.
LEFTOVERS = (
    *SNAPSHOTS,
    *("@eaDir", "@tmp", "@Recycle", "#recycle", "*@SynoEAStream", "*@SynoResource", ".@__thumb", ".thumbnails"),
    *("Thumbs.db", "ehthumbs.db", "desktop.ini", "$RECYCLE.BIN", "RECYCLER", "System Volume Information", "~$*"),
    *(".DS_Store", "._*", "__MACOSX", ".AppleDouble", "Network Trash Folder", "Temporary Items"),
    *("lost+found", ".ipynb_checkpoints", "__pycache__"),
)
_LEFTOVER = "|".join(f"({re.escape(word)})".replace(r"\*", "[^/]*") for word in LEFTOVERS)
_PASSED_OVER = re.compile(rf"(?:^|/)(?:{_LEFTOVER}|\.(?!\.?(?:/|$))[^/]*)(?=/|$)", re.IGNORECASE)

_SPLIT_WORDS = frozenset(
    (
        *("train", "training", "trainset", "trn", "test", "testing", "testset", "tst", "eval", "evaluation"),
        *("val", "valid", "validation", "validate", "valset", "dev", "devset", "development", "holdout"),
    )
)
_PARTS = re.compile(r"(?<![^\W_])(?:(?:hold|held)[-_ .]?out|(?:fold|split|cv)[-_ .]?[0-9]+)(?![^\W_])")
_VAGUE_WORDS = frozenset(("set", "data", "dataset", "split", "image", "images", "img", "imgs"))
_ENDING = re.compile(r"\.[a-z][a-z0-9]{0,11}(\.gz)?")


def plain_path(name: str) -> str:
    """Return a path in an archive or a table with '/' alone between its parts, as programs on Windows do not write it.

    One that begins with '/' or holds '..' is left so: it leads out of the source.
    """
    name = name.replace("\\", "/")
    plain = "/".join(part for part in name.split("/") if part not in ("", "."))
    return f"/{plain}" if name.startswith("/") else plain


def is_image(name: str) -> bool:
    """Say whether a file is an image by its ending."""
    return PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES


def ending(name: str) -> str:
    """Return how a name ends, in lower case; numbers, such as those in the names of DICOM files, are no ending."""
    suffixes = PurePosixPath(name.lower()).suffixes
    last = "".join(suffixes[-2:] if suffixes[-1:] == [".gz"] else suffixes[-1:])
    return last if _ENDING.fullmatch(last) else "without ending"


def is_text(name: str) -> bool:
    """Say whether a name is UTF-8 without control characters."""
    return not any(unicodedata.category(sign) in ("Cc", "Cs") for sign in name)


def find_rule(name: str, exclude: Iterable[str]) -> str:
    """Return why a file or folder, or one that it lies in, is passed over; empty where it is not."""
    if pattern := excluded_by(name, exclude):
        return f"--exclude {pattern}"
    if found := _PASSED_OVER.search(name):
        return LEFTOVERS[found.lastindex - 1] if found.lastindex else "hidden"
    return ""


def excluded_by(name: str, patterns: Iterable[str]) -> str:
    """Return the first shell pattern that fits a path, one of its parts or a folder it lies in; empty where none."""
    parts = name.split("/")
    for pattern in patterns:
        wanted = pattern.removeprefix("./").rstrip("/")
        if any(
            fnmatchcase(part, wanted) or fnmatchcase("/".join(parts[:n]), wanted) for n, part in enumerate(parts, 1)
        ):
            return pattern
    return ""


def split_names(names: Iterable[str]) -> list[str]:
    """Return the names that are those of splits: `Train`, `test_images`, `fold-1`, or `a_train` where `a_test` is."""
    found: dict[str, tuple[str, ...]] = {}
    splits_of: dict[tuple[str, ...], set[str]] = {}
    for name in names:
        words = re.findall(r"[^\W\d_]+", _PARTS.sub("test", name.casefold()))
        rest = tuple(word for word in words if word not in _SPLIT_WORDS)
        if len(rest) < len(words):
            found[name] = rest
            splits_of.setdefault(rest, set()).update(_SPLIT_WORDS.intersection(words))
    return [name for name, rest in found.items() if _VAGUE_WORDS.issuperset(rest) or len(splits_of[rest]) > 1]


def check_splits(names: Sequence[str], place: Path) -> None:
    """Check that no class folder is a split by its name.

    Raises:
        DataError: One is.
    """
    if splits := split_names(names):
        remedy = f"give one split, e.g. {place / splits[-1]}, or move the class folders up"
        if len(splits) < len(names):
            remedy = f"rename it if it is a class, else --exclude {splits[0]!r}"
        raise DataError(f"{place} has folders that are splits by their name, not classes: {', '.join(splits)}", remedy)


def check_class_names(names: Sequence[str], place: Path) -> None:
    """Check that the names of class folders can be written, and told apart as words are on the command line.

    Raises:
        DataError: One cannot be printed, or two mean the same.
    """
    meant: dict[str, str] = {}
    for name in names:
        if not name.isprintable():
            raise DataError(
                f"the name of a class folder is not UTF-8 or cannot be printed: {place / name}", "rename it"
            )
        other = meant.setdefault(normalise(name), name)
        if other != name:
            raise DataError(
                f"{place} has two class folders whose names mean the same: {other!a} and {name!a}",
                "rename one, or put their images together",
            )
