"""The sampling options of `generate`: one per setting of any family, made from what the settings say of themselves."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping
from enum import Enum
from typing import Annotated, Any

import typer

from synthmed.errors import RecipeError, UsageError
from synthmed.formats.headers import Header
from synthmed.generators.families import FAMILIES


def given_settings(**options: Any) -> dict[str, Any]:
    """Return the settings that the user has given, by name; a group of options.

    Raises:
        UsageError: One that is turned off has a value too.
    """
    plain = {name: value.value if isinstance(value, Enum) else value for name, value in options.items()}
    given = {name: value for name, value in plain.items() if value is not None}
    for name, entry in _fields().items():
        if given.pop(_off(name), False) and given.setdefault(name, 0):
            raise UsageError(f"--{entry.metadata['off']} with --{_words(name)} {given[name]}", "give one of them")
    return given


def resolve_settings(header: Header[Any, Any], given: Mapping[str, Any]) -> Any:
    """Return the model's preset with the options in place of its values.

    Raises:
        UsageError: Options that the model's family does not have, or that the model cannot follow.
    """
    preset = header.preset
    known = {entry.name for entry in dataclasses.fields(preset)}
    if foreign := [name for name in given if name not in known]:
        raise UsageError(f"--{_words(foreign[0])} means nothing to a model of the family {header.family}")
    try:
        settings = preset.changed(given)
        settings.check(header)
    except RecipeError as error:
        # Here the values come from options, not from a recipe.
        raise UsageError(str(error)) from error
    return settings


def _fields() -> dict[str, dataclasses.Field[Any]]:
    """Return the settings of all families by name; one that several have is described by the first."""
    found: dict[str, dataclasses.Field[Any]] = {}
    for family in FAMILIES.values():
        for entry in dataclasses.fields(family.settings):
            found.setdefault(entry.name, entry)
    return found


def _option(name: str, entry: dataclasses.Field[Any]) -> inspect.Parameter:
    hints = entry.metadata
    words = {word: word for word in hints["choices"]}
    kind: Any = Enum("Choice", words) if words else type(entry.default)
    text: str = hints["meaning"]
    option = typer.Option(
        f"--{_words(hints['option'] or name)}",
        min=hints["minimum"],
        max=hints["maximum"],
        help=f"{text[0].upper()}{text[1:]}.",
        show_default="the model's preset",
    )
    annotation = Annotated[kind | None, option]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _off_option(name: str, entry: dataclasses.Field[Any]) -> inspect.Parameter:
    off = entry.metadata["off"]
    option = typer.Option(f"--{off}", help=f"As --{_words(name)} 0.", show_default=False)
    return inspect.Parameter(
        _off(name), inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Annotated[bool, option]
    )


def _off(name: str) -> str:
    """Return the name of the argument that turns a setting off."""
    return f"no_{name}"


def _words(name: str) -> str:
    return name.replace("_", "-")


given_settings.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
    [_option(name, entry) for name, entry in _fields().items()]
    + [_off_option(name, entry) for name, entry in _fields().items() if entry.metadata["off"]]
)
