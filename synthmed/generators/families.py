"""The families that there are, and what is looked up by them: headers, recipes, loaded models."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from synthmed.config.recipes import read_recipe
from synthmed.config.tables import from_dict
from synthmed.errors import CheckpointError, RecipeError, nearest
from synthmed.formats.headers import DEFAULT_FAMILY, GENERATOR, Header, parse_header
from synthmed.formats.model_files import read_table
from synthmed.generators.diffusion.family import DIFFUSION
from synthmed.generators.family import Family, Generator, Recipe

FAMILIES: dict[str, Family] = {family.name: family for family in (DIFFUSION,)}


def read_header(path: Path) -> Header[Any, Any]:
    """Return what a model file says of itself, without reading its weights or importing torch.

    Raises:
        CheckpointError: Not a model file, or of a family that there is not.
    """
    table = read_table(path)
    family = FAMILIES.get(table["family"])
    if family is None:
        raise CheckpointError(
            f"{path} holds a model of the family {str(table['family'])[:60]!r}", nearest(table["family"], FAMILIES)
        )
    return parse_header(table, family.build, family.settings, path)


def load_generator(path: Path | str, device: Any = "cpu") -> Generator:
    """Return the model in a file, ready to sample.

    Raises:
        CheckpointError: The file is missing, broken, holds a part of a generator alone, or its weights do not fit.
    """
    path = Path(path)
    header = read_header(path)
    if header.kind != GENERATOR:
        raise CheckpointError(f"{path} cannot make images: it holds an {header.kind} only", "give a whole model")
    return FAMILIES[header.family].load(path, header, device)


def load_recipe(name_or_file: str, overrides: Sequence[str] = ()) -> Recipe:
    """Return a recipe by name or file, with `table.key=value` overrides applied.

    Raises:
        RecipeError: No such recipe, not TOML, an unknown family or key, a value of the wrong type or out of range.
    """
    table, path = read_recipe(name_or_file, overrides)
    name = table.setdefault("family", DEFAULT_FAMILY)
    if not isinstance(name, str) or name not in FAMILIES:
        raise RecipeError(f"{path.name}: family is {name!r}", nearest(str(name), FAMILIES))
    family = FAMILIES[name]
    recipe = from_dict(family.recipe, table, path.name)
    family.stages_of(recipe)
    return recipe
