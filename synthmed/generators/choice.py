"""Which recipe suits a folder of shards where the user names none, and what fits a named one to it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from synthmed.config.recipes import recipe_names
from synthmed.data.images import SHARD_KINDS, decode_image, is_grey
from synthmed.data.prepare.report import read_grey
from synthmed.data.shards.read import ShardFolder, open_folder
from synthmed.data.shards.samples import read_image_bytes
from synthmed.errors import RecipeError
from synthmed.files.content import read_json
from synthmed.generators.families import FAMILIES, load_recipe
from synthmed.generators.family import CONFIG_NAME, Recipe

LOOKED_AT = 32


@dataclass(frozen=True)
class Choice:
    """A recipe, the changes that fit it to the data, and why."""

    name: str
    changes: tuple[str, ...]
    reason: str


@dataclass(frozen=True)
class _Looks:
    """What some of the images are like."""

    side: int
    """The shorter one in pixels."""
    channels: int


def choose_recipe(data: Path, device: str, run: Path | None = None) -> Choice:
    """Return the recipe that suits a training split: by size, channels, data set and device.

    Args:
        data: Folder of shards.
        device: `cpu` or `cuda`: a recipe for a GPU is never chosen for a CPU.
        run: Folder of a run to go on with, which keeps the channels that it has.

    Raises:
        DataError: No such folder or split.
        RecipeError: There is no recipe for this device.
    """
    train = open_folder(data, "train")
    looks = _look_at(train)
    named = [load_recipe(name) for name in recipe_names()]
    able = [each for each in named if each.dataset in ("", train.dataset) and _runs_on(each, device)]
    if not able:
        raise RecipeError(f"there is no recipe for {device}", "name one: --recipe, see `synthmed recipes list`")
    recipe = min(able, key=lambda each: _distance(each, train, looks, device))
    changes = _not_begun_without(recipe.with_channels(looks.channels), recipe, run)
    return Choice(recipe.name, tuple(changes), _reason(recipe, train, looks, device, changes))


def fit_channels(recipe: Recipe, data: Path, run: Path | None = None) -> list[str]:
    """Return the changes, as `table.key=value`, that fit a named recipe to grey images; none where it suits them.

    A preset stays as it was published, and a run as it was begun.

    Args:
        recipe: With the user's changes.
        data: Folder of shards.
        run: Folder of a run to go on with.

    Raises:
        DataError: No such folder or split.
    """
    changes = [] if recipe.preset else _not_begun_without(recipe.with_channels(1), recipe, run)
    if not changes:
        return []
    grey = read_grey(data)
    return changes if (_look_at(open_folder(data, "train")).channels == 1 if grey is None else grey) else []


def _not_begun_without(changes: list[str], recipe: Recipe, run: Path | None) -> list[str]:
    """Return changes of a recipe, or none where a stage in the run folder has been begun with other values."""
    paths = [] if run is None else [run / stage.name / CONFIG_NAME for stage in FAMILIES[recipe.family].stages]
    for begun in (read_json(path) for path in paths if path.is_file()):
        for change in changes:
            key, _, value = change.partition("=")
            found = begun
            for name in key.split("."):
                found = found.get(name) if isinstance(found, dict) else None
            if found is not None and json.dumps(found) != value:
                return []
    return changes


def _look_at(train: ShardFolder) -> _Looks:
    step = max(1, len(train.entries) // LOOKED_AT)
    images = [decode_image(read_image_bytes(entry), entry.key, kinds=SHARD_KINDS) for entry in train.entries[::step]]
    grey = read_grey(train.folder)
    if grey is None:
        grey = all(map(is_grey, images))
    return _Looks(min(min(image.shape[:2]) for image in images), 1 if grey else 3)


def _runs_on(recipe: Recipe, device: str) -> bool:
    return bool(recipe.device) and (recipe.device == "cpu" or device != "cpu")


def _distance(recipe: Recipe, train: ShardFolder, looks: _Looks, device: str) -> tuple[object, ...]:
    """Return what makes a recipe worse than another, the worst first."""
    size = recipe.data.size
    return (
        size > looks.side,  # nothing is gained by enlarged images
        abs(size - looks.side),
        recipe.dataset != train.dataset,
        (recipe.device == "cpu") != (device == "cpu"),
        recipe.name,
    )


def _reason(recipe: Recipe, train: ShardFolder, looks: _Looks, device: str, changes: Sequence[str]) -> str:
    what: Iterable[str] = (
        f"made for {recipe.dataset}" if recipe.dataset else "made for any data set",
        f"runs on {'a CPU' if device == 'cpu' else 'this GPU'}",
        f"{recipe.data.size} px, the shards have {looks.side}",
        *(["the images are grey: one channel"] if changes and looks.channels == 1 else []),
    )
    return "; ".join(what)
