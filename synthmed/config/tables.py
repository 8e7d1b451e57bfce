"""Plain tables, as TOML and JSON have them, to configuration dataclasses and back: strictly, naming what is wrong."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import reprlib
import typing
from collections.abc import Mapping, Sequence
from types import UnionType
from typing import Any, Literal, TypeVar

from synthmed.errors import RecipeError, nearest
from synthmed.runtime.progress import printable

T = TypeVar("T")
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 100


def shown(value: Any) -> str:
    """Return a short text for any value, for a message; a file's own may be of any length and depth."""
    return _SHORT.repr(value)[:200]


def _word(value: Any) -> str:
    """Return a value that should be a word as one: short, and on one line."""
    return printable(value[:100]) if isinstance(value, str) else shown(value)


def from_dict(cls: type[T], table: Mapping[str, Any], where: str) -> T:
    """Build a configuration dataclass from plain values, strictly.

    Raises:
        RecipeError: An unknown key or a value of the wrong type; `where` says in what.
    """
    if not isinstance(table, Mapping):
        raise RecipeError(f"{where} is {shown(table)}", "a section is wanted")
    hints = typing.get_type_hints(cls)
    values = {}
    for key, value in table.items():
        if key not in hints:
            raise RecipeError(f"unknown key in {where}: {_word(key)}", nearest(_word(key), hints))
        values[key] = _convert(hints[key], value, f"{where}: {key}")
    return cls(**values)


def _convert(hint: Any, value: Any, where: str) -> Any:
    """Return `value` as the type of a field; integers pass for floats, nothing else is bent."""
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return from_dict(hint, value, where)
    origin = typing.get_origin(hint)
    if origin is Literal:
        choices = typing.get_args(hint)
        if value not in choices:
            raise RecipeError(f"{where} is {shown(value)}", nearest(_word(value), map(str, choices)))
        return value
    if origin is tuple:
        item, *others = typing.get_args(hint)
        if not isinstance(value, list | tuple):
            raise RecipeError(f"{where} is {shown(value)}", "a list is wanted")
        if Ellipsis not in others and len(value) != 1 + len(others):
            raise RecipeError(f"{where} is {shown(value)}", f"{1 + len(others)} values are wanted")
        return tuple(_convert(item, entry, where) for entry in value)
    if origin is dict:
        item = typing.get_args(hint)[1]
        if not isinstance(value, Mapping):
            raise RecipeError(f"{where} is {shown(value)}", "a table is wanted")
        return {str(key): entry if item is Any else _convert(item, entry, where) for key, entry in value.items()}
    if isinstance(hint, UnionType) and value is None and type(None) in typing.get_args(hint):
        return None
    if isinstance(hint, UnionType) and dataclasses.is_dataclass(typing.get_args(hint)[0]):
        return from_dict(_class_of_build(typing.get_args(hint), value, where), value, where)
    if isinstance(hint, UnionType):
        for choice in typing.get_args(hint):
            with contextlib.suppress(RecipeError):
                return _convert(choice, value, where)
        raise RecipeError(f"{where} is {shown(value)}", f"{hint} is wanted")
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        with contextlib.suppress(OverflowError):  # is then of the wrong type
            return float(value)
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise RecipeError(f"{where} is {shown(value)}", f"{hint.__name__} is wanted")
    return value


def _class_of_build(classes: Sequence[type[T]], table: Any, where: str) -> type[T]:
    """Return the one of several dataclasses that a table's `build` names; the first where there is no `build`."""
    if not isinstance(table, Mapping) or "build" not in table:
        return classes[0]
    builds = {build: cls for cls in classes for build in typing.get_args(typing.get_type_hints(cls).get("build"))}
    if (build := _word(table["build"])) not in builds:
        raise RecipeError(f"{where}: build is {build!r}", nearest(build, builds))
    return builds[build]


def to_dict(config: Any) -> dict[str, Any]:
    """Return a configuration as plain JSON values."""
    return {key: _plain(value) for key, value in dataclasses.asdict(config).items()}


def to_marks(settings: Any) -> dict[str, Any]:
    """Return settings as samples and folders keep them: without what can be off and is.

    So what was made without it says the same as before there was such a thing.
    """
    fields = {entry.name: entry.metadata for entry in dataclasses.fields(settings)}
    return {key: value for key, value in to_dict(settings).items() if value or not fields[key].get("off")}


def from_marks(cls: type[T], table: Mapping[str, Any], where: str) -> T:
    """Return the settings that `to_marks` gave, among whatever else a table says.

    Raises:
        RecipeError: One is missing or of the wrong type.
    """
    marks = {}
    for entry in dataclasses.fields(cls):  # type: ignore[arg-type]
        if entry.name in table:
            marks[entry.name] = table[entry.name]
        elif not entry.metadata.get("off"):
            raise RecipeError(f"{where} has no {entry.name}")
    return from_dict(cls, marks, where)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(entry) for key, entry in value.items()}
    return list(value) if isinstance(value, tuple) else value


def to_toml(config: Any, *, left_out: Sequence[str] = ()) -> str:
    """Return a configuration as TOML: each value with its meaning as a comment, the nested ones as tables.

    Args:
        config: A dataclass of plain values and of such dataclasses.
        left_out: Top-level names that are not written; empty words and lists are not either.
    """
    plain, tables = [], []
    for entry in dataclasses.fields(config):
        value = getattr(config, entry.name)
        if entry.name in left_out:
            continue
        if dataclasses.is_dataclass(value):
            tables.append(f"\n[{entry.name}]\n{to_toml(value)}")
        elif value not in ("", ()):
            meaning = entry.metadata.get("meaning")
            plain.append(f"{entry.name} = {_toml_value(value)}" + (f" # {meaning}" if meaning else "") + "\n")
    return "".join([*plain, *tables])


def _toml_value(value: Any) -> str:
    # JSON's words, numbers and lists are TOML's too.
    return json.dumps(_plain(value), ensure_ascii=False)
