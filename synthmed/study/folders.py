"""What classifiers are trained and tested on: which folders of shards go together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from synthmed.data.labels import Classes
from synthmed.data.shards.read import ShardFolder, open_folder
from synthmed.errors import DataError
from synthmed.files.outputs import STATE_FOLDER

CONFIG_FILE = f"{STATE_FOLDER}/train-classifier.json"


@dataclass(frozen=True)
class ComparisonFolders:
    """The shards of one comparison, checked to fit each other."""

    train: Mapping[str, ShardFolder]
    """The `train` split of each source, `real` and `synthetic`."""
    test: ShardFolder
    """The real `test` split."""
    notes: tuple[str, ...]
    """What the user should know, although it is no error."""

    @property
    def classes(self) -> Classes:
        """Those of the test split."""
        return self.test.classes


def open_comparison(real: Path, synthetic: Path | None) -> ComparisonFolders:
    """Open the folders of a comparison and check that they fit each other.

    Args:
        real: Has the splits `train` and `test`; its `validation` split is not used.
        synthetic: Has the split `train`; may be missing where no arm needs it.

    Classes are matched by name or alias of either side, in any order, and all sources get the labels of the test split.

    Raises:
        DataError: A class is none of the test split's or stands twice, a class has no images, train and test share a
            key or a group, or a folder is not of the kind it is given as.
    """
    if synthetic is not None and synthetic.resolve() == real.resolve():
        raise DataError(f"the real and the synthetic folder are the same: {real}")
    train = {"real": open_folder(real, "train")}
    if synthetic is not None:
        train["synthetic"] = open_folder(synthetic, "train")
    test = open_folder(real, "test")
    train = {name: _match_classes(source, test) for name, source in train.items()}
    for source in train.values():
        _check_separate(source, test)
    for folder in (*train.values(), test):
        _check_every_class(folder)
    return ComparisonFolders(train, test, _check_kinds(train))


def _match_classes(source: ShardFolder, test: ShardFolder) -> ShardFolder:
    """Return a source under the class names and labels of the test split."""
    used = {entry.label for entry in source.entries}
    labels = test.classes.match(source.classes, used, here=str(test.folder), there=str(source.folder))
    return source.relabelled(test.classes, labels)


def _check_every_class(folder: ShardFolder) -> None:
    present = {entry.label for entry in folder.entries}
    missing = [name for label, name in enumerate(folder.classes) if label not in present]
    if missing:
        raise DataError(f"the {folder.split} split of {folder.folder} has no image of class {', '.join(missing)}")
    if len(folder.classes) < 2:
        raise DataError(f"{folder.folder} has only the class {folder.classes[0]}", "two are needed to tell apart")


def _check_separate(source: ShardFolder, test: ShardFolder) -> None:
    remedy = "a score on images or patients seen in training means nothing; split by patient with synthmed prepare"
    for what, field in (("image", "key"), ("group", "group")):
        in_train, in_test = ({getattr(entry, field) for entry in side.entries} for side in (source, test))
        # An empty name is an image that belongs to no group.
        if shared := sorted((in_train & in_test) - {""}):
            named = ", ".join(shared[:3]) + (", ..." if len(shared) > 3 else "")
            raise DataError(
                f"{source.folder} (train) and {test.folder} (test) share {len(shared)} {what}(s): {named}", remedy
            )


def _check_kinds(train: Mapping[str, ShardFolder]) -> tuple[str, ...]:
    real, synthetic = train["real"], train.get("synthetic")
    if real.kind == "synthetic":
        raise DataError(f"--real {real.folder} says that its images are synthetic", "the test must be on real images")
    if synthetic is not None and synthetic.kind == "real":
        raise DataError(f"--synthetic {synthetic.folder} says that its images are real")
    notes = []
    if real.kind == "phantom":
        notes.append(f"{real.folder} holds drawn phantoms: they stand for the real images here")
    if synthetic is not None and synthetic.kind == "phantom":
        notes.append(f"{synthetic.folder} holds drawn phantoms, not images of a trained model")
    return tuple(notes)
