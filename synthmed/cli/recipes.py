"""`synthmed recipes`: what there is to train with."""

from __future__ import annotations

import dataclasses
import sys
from typing import Annotated, Any

import typer

from synthmed.cli.common import JsonOption, print_json, print_table
from synthmed.config.recipes import recipe_names
from synthmed.config.tables import to_dict, to_toml
from synthmed.errors import UsageError
from synthmed.generators.families import load_recipe

recipes = typer.Typer(help="List and show recipes.")


@recipes.command("list")
def list_recipes(as_json: JsonOption = False) -> None:
    """List the recipes that synthmed brings. Example: synthmed recipes list"""
    loaded = [load_recipe(name) for name in recipe_names()]
    names = ("name", "family", "dataset", "device", "description")
    if as_json:
        print_json([{name: getattr(recipe, name) for name in names} for recipe in loaded])
        return
    rows = [
        [recipe.name, recipe.family, recipe.dataset or "any", recipe.data.size, recipe.device, recipe.description]
        for recipe in loaded
    ]
    print_table("recipes", ["name", "family", "data set", "px", "made for", "description"], rows)


@recipes.command("show")
def show_recipe(
    name: Annotated[str, typer.Argument(help="Name of a recipe or a .toml file.")],
    changes: Annotated[list[str] | None, typer.Option("--set", help="table.key=value, as in the trainings.")] = None,
    as_toml: Annotated[
        bool, typer.Option("--toml", help="Print a recipe file with every value and its meaning, to start from.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Show all values of a recipe with their meaning.

    Examples:

      synthmed recipes show airogs-64-cpu

      synthmed recipes show small-64 --toml > mine.toml
    """
    if as_toml and as_json:
        raise UsageError("--toml and --json", "choose one of them")
    recipe = load_recipe(name, changes or [])
    if as_json:
        print_json(to_dict(recipe))
    elif as_toml:
        # The file's own name is the new recipe's.
        sys.stdout.write(f"# From recipe {recipe.name}.\n{to_toml(recipe, left_out=('name', 'preset'))}")
    else:
        print_table(f"recipe {recipe.name}", ["key", "value", "meaning"], _rows(recipe))


def _rows(config: Any, prefix: str = "") -> list[list[str]]:
    rows = []
    for entry in dataclasses.fields(config):
        value = getattr(config, entry.name)
        if dataclasses.is_dataclass(value):
            rows += _rows(value, f"{entry.name}.")
            continue
        shown = list(value) if isinstance(value, tuple) else value
        rows.append([prefix + entry.name, str(shown), entry.metadata.get("meaning", "")])
    return rows
