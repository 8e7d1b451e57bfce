"""`synthmed checkpoints`: what there is to generate with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from synthmed.cli.common import (
    JsonOption,
    dataset_word,
    file_output,
    models_home,
    parse_number,
    print_json,
    print_table,
)
from synthmed.config.fields import MAX_SIDE
from synthmed.data.datasets import find_dataset, folder_info
from synthmed.data.labels import Classes
from synthmed.errors import DataError, UsageError, nearest
from synthmed.files.content import hash_file
from synthmed.formats.headers import DEFAULT_FAMILY, Header
from synthmed.formats.model_files import count_parameters, load_tensors, save_model, write_tensors
from synthmed.generators import registry
from synthmed.generators.families import FAMILIES, read_header
from synthmed.generators.family import Family

checkpoints = typer.Typer(help="List, show and register model files.")


@checkpoints.command("list")
def list_checkpoints(as_json: JsonOption = False) -> None:
    """List the models that `generate --dataset` can find, the latest first."""

    entries = registry.list_entries(models_home())
    if as_json:
        print_json([{"path": str(entry.path), "sha256": entry.sha256, **entry.header.as_table()} for entry in entries])
        return
    rows = [
        [
            *(entry.header.dataset, entry.header.family, entry.header.kind, format_size(entry.header.size)),
            *(", ".join(entry.header.classes), str(entry.path)),
        ]
        for entry in entries
    ]
    print_table("models", ["data set", "family", "kind", "px", "labels", "file"], rows)


@checkpoints.command("info")
def show_checkpoint(
    path: Annotated[Path, typer.Argument(help="Model file or run folder.")], as_json: JsonOption = False
) -> None:
    """Show what a model file holds: architecture, classes, parameters, training, hash."""

    path = registry.resolve_path(path)
    header = read_header(path)
    facts = {"path": str(path), "sha256": hash_file(path), "parameters": _parameters(path, header), **header.as_table()}
    if as_json:
        print_json(facts)
    else:
        print_table(str(path), ["field", "value"], _rows(facts))


@checkpoints.command("add")
def add_checkpoint(
    path: Annotated[Path, typer.Argument(help="Model file or run folder.")], as_json: JsonOption = False
) -> None:
    """Register a model file, so that `generate --dataset` finds it. The file stays where it is."""

    entry = registry.register(models_home(to_write=True), registry.resolve_path(path))
    _print_entry("registered", entry, as_json)


@checkpoints.command("import")
def import_checkpoint(
    path: Annotated[
        Path, typer.Argument(help="Lightning .ckpt file of a Medfusion pipeline, VAE or VAEGAN, or its state dict.")
    ],
    dataset: Annotated[
        str,
        typer.Option(
            "--dataset",
            parser=dataset_word,
            metavar="NAME",
            help="airogs, crcdx, chexpert, or with --classes any name.",
        ),
    ],
    output: Annotated[
        Path | None,
        file_output("Model file to write; by default beside the .ckpt."),
    ] = None,
    vae: Annotated[
        Path | None, typer.Option("--vae", help="The autoencoder's own file, for a pipeline's file without one.")
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(
            "--size", help="Side of the images in pixels, or height and width as 96x64.", show_default="as published"
        ),
    ] = None,
    classes: Annotated[
        str | None,
        typer.Option("--classes", help="Class names in label order, A,B,...: for a data set that synthmed has not."),
    ] = None,
    family: Annotated[str, typer.Option("--family", help="Family of generators that the file belongs to.")] = (
        DEFAULT_FAMILY
    ),
    as_json: JsonOption = False,
) -> None:
    """Import a checkpoint of the published code, of Medfusion for one; nothing in it is ever run.

    Example: synthmed checkpoints import eye_diffusion.ckpt --dataset airogs
    """
    read = _find_family(family).import_file
    if read is None:
        raise UsageError(f"--family {family}", "there are no published files of this family to read")
    sides = None if size is None else parse_size(size)
    names = None if classes is None else parse_classes(classes)
    info = find_dataset(dataset) if names is None else folder_info(dataset, names)
    home = models_home(to_write=True)
    target = output or path.with_suffix(".safetensors")
    if target.resolve() in [source.resolve() for source in (path, vae) if source is not None]:
        raise UsageError(f"the model file would take the place of {target}", "give another name with --output")
    header, tensors = read(path, info, size=sides, vae=vae)
    save_model(target, header, tensors)
    entry = registry.register(home, target)
    _print_entry("imported", entry, as_json)


@checkpoints.command("export")
def export_checkpoint(
    path: Annotated[Path, typer.Argument(help="Model file or run folder.")],
    output: Annotated[Path, file_output("safetensors file to write.")],
) -> None:
    """Write a model's weights as the published code names them, without a header, for use with it.

    Example: synthmed checkpoints export runs/airogs -o airogs-state-dict.safetensors
    """

    path = registry.resolve_path(path)
    header = read_header(path)
    export = FAMILIES[header.family].export_tensors
    if export is None:
        raise UsageError(f"{path} is of the family {header.family}", "there is no published code to export it for")
    exported = export(header, load_tensors(path))
    write_tensors(output, exported)
    print_table("exported", ["file", "tensors"], [[str(output), len(exported)]])


@checkpoints.command("halve")
def halve_checkpoint(
    path: Annotated[Path, typer.Argument(help="Model file or run folder.")],
    output: Annotated[Path, file_output("Model file to write.")],
) -> None:
    """Write a model file in half precision, half as large; images change by a grey level here and there.

    Example: synthmed checkpoints halve runs/airogs -o airogs.safetensors
    """

    path = registry.resolve_path(path)
    save_model(output, read_header(path), load_tensors(path), half=True)
    print_table("halved", ["file", "MB"], [[str(output), output.stat().st_size / 1e6]])


def _find_family(name: str) -> Family:
    if name not in FAMILIES:
        raise UsageError(f"unknown family: {name}", nearest(name, FAMILIES))
    return FAMILIES[name]


def parse_size(text: str) -> int | tuple[int, int]:
    """Return the side of square images, or height and width, from 256 or 96x64.

    Raises:
        UsageError: Neither, or a side outside of 16 .. 4096.
    """
    words = text.lower().split("x")
    sides = [side for side in (parse_number(word, 16, MAX_SIDE) for word in words) if side is not None]
    if not len(sides) == len(words) <= 2:
        raise UsageError(
            f"--size {text[:80]}: not a size in pixels",
            f"e.g. --size 256, or --size 96x64, high times wide; sides from 16 to {MAX_SIDE}",
        )
    height, width = sides[0], sides[-1]
    return height if height == width else (height, width)


def format_size(size: int | tuple[int, int]) -> str:
    """Return a size as `parse_size` reads it."""
    if size == 0:
        return "any"
    return str(size) if isinstance(size, int) else f"{size[0]}x{size[1]}"


def parse_classes(text: str) -> list[str]:
    """Return class names from A,B,...

    Raises:
        UsageError: One is no name, or stands twice.
    """
    try:
        return list(Classes(tuple(text.split(","))))
    except DataError as error:
        raise UsageError(f"--classes {text}: {error}", "e.g. --classes benign,malignant") from error


def _rows(facts: dict[str, Any], prefix: str = "") -> list[list[str]]:
    """Return a row for each value, those of a section under the section's name."""
    rows = []
    for key, value in facts.items():
        nested = isinstance(value, dict) and value
        rows += _rows(value, f"{prefix}{key}.") if nested else [[prefix + key, str(value)]]
    return rows


def _print_entry(title: str, entry: Any, as_json: bool) -> None:
    facts = {
        "dataset": entry.header.dataset,
        "kind": entry.header.kind,
        "path": str(entry.path),
        "sha256": entry.sha256,
    }
    if as_json:
        print_json(facts)
    else:
        print_table(title, list(facts), [list(facts.values())])


def _parameters(path: Path, header: Header[Any, Any]) -> dict[str, int]:
    """Return the number of values of each part, under the names that the family gives them."""
    parts = FAMILIES[header.family].parts
    return {parts.get(word, word): count for word, count in count_parameters(path).items()}
