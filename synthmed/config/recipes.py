"""Recipe files: finding them, and laying presets and overrides over what they say.

A recipe file sets what differs from the defaults of its family; what its tables may hold is the family's business.
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from synthmed.errors import RecipeError, nearest

MAX_RECIPE_BYTES = 1 << 20
RECIPE_FOLDERS = (Path(__file__).parents[1] / "recipes", Path(__file__).parents[2] / "recipes")


def recipe_names() -> list[str]:
    """Return the names of the recipes that synthmed brings."""
    return sorted({path.stem for folder in RECIPE_FOLDERS for path in folder.glob("*.toml")})


def read_recipe(name_or_file: str, overrides: Sequence[str] = ()) -> tuple[dict[str, Any], Path]:
    """Return the table of a recipe by name or file, with `table.key=value` overrides applied, and its file.

    Raises:
        RecipeError: No such recipe, not TOML, no such preset, or an override that cannot be read.
    """
    path = _find_recipe(name_or_file)
    try:
        with path.open("rb") as file:
            text = file.read(MAX_RECIPE_BYTES + 1)
        if len(text) > MAX_RECIPE_BYTES:
            raise RecipeError(f"{path} is no recipe: it is larger than {MAX_RECIPE_BYTES >> 20} MiB")
        table = tomllib.loads(text.decode())
    except (OSError, ValueError, RecursionError) as error:
        raise RecipeError(f"cannot read recipe {path}: {error}") from error
    presets = table.pop("presets", {})
    chosen = [override.partition("=")[2].strip() for override in overrides if override.startswith("preset=")]
    _apply_preset(table, presets, chosen[-1] if chosen else table.get("preset", ""), path)
    for override in overrides:
        _apply_override(table, override)
    table.setdefault("name", path.stem)
    return table, path


def _find_recipe(name_or_file: str) -> Path:
    if name_or_file.endswith(".toml"):
        if not Path(name_or_file).is_file():
            raise RecipeError(f"no such recipe file: {name_or_file}")
        return Path(name_or_file)
    for folder in RECIPE_FOLDERS:
        if (path := folder / f"{name_or_file}.toml").is_file():
            return path
    raise RecipeError(f"unknown recipe: {name_or_file}", nearest(name_or_file, recipe_names()) + ", or a .toml file")


def _apply_preset(table: dict[str, Any], presets: Any, name: str, path: Path) -> None:
    """Lay the values of `[presets.NAME]` and of its sections over those of the recipe itself."""
    if not name:
        return
    if not isinstance(presets, dict) or not isinstance(presets.get(name), dict):
        raise RecipeError(f"recipe {path.name} has no preset {name}", nearest(name, presets) if presets else None)
    for section, values in presets[name].items():
        table[section] = {**table.get(section, {}), **values} if isinstance(values, dict) else values


def _apply_override(table: dict[str, Any], override: str) -> None:
    dotted, separator, text = override.partition("=")
    if not separator or not dotted.strip():
        raise RecipeError(f"cannot read --set {override}", "write section.key=value, e.g. diffusion.lr=1e-4")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except ValueError:
        value = text
    *sections, key = dotted.strip().split(".")
    for section in sections:
        table = table.setdefault(section, {})
        if not isinstance(table, dict):
            raise RecipeError(f"cannot set {dotted}: {section} is not a section")
    table[key] = value
