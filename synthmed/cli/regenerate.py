"""`synthmed regenerate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from synthmed.cli.common import DeviceOption, JsonOption, file_output, models_home, print_json, print_table
from synthmed.errors import DataError
from synthmed.files.storage import location


def regenerate(
    folder: Annotated[Path, typer.Argument(help="Folder of synthetic shards.", parser=location, metavar="DIR")],
    key: Annotated[str, typer.Argument(help="Key of a sample, e.g. from .synthmed/manifest.jsonl.")],
    checkpoint: Annotated[
        Path | None,
        typer.Option("--checkpoint", help="Model file, if it is none of `synthmed checkpoints list`."),
    ] = None,
    output: Annotated[
        Path | None,
        file_output("Write the image here, as PNG.", metavar="PNG"),
    ] = None,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Make one synthetic image again and compare it with the one in the folder.

    The same but for rounding (one grey level) is exit code 0, anything else 3.

    Example: synthmed regenerate shards/glaucoma synthetic-s0-00000007-glaucoma-00000007
    """
    from synthmed.data.images import encode_image
    from synthmed.files.atomic import write_bytes
    from synthmed.files.content import hash_file
    from synthmed.generators import registry
    from synthmed.production.regenerate import regenerate as run

    if checkpoint is not None:
        path = registry.resolve_path(checkpoint)
        known = [(path, hash_file(path))]
    else:
        known = [(entry.path, entry.sha256) for entry in registry.list_entries(models_home())]
    found = run(folder, key, known, device)
    if output is not None:
        write_bytes(output, encode_image(found.image, "png", synthetic=True))
    result = {
        "key": key,
        "same": found.same,
        "largest_difference": found.largest_difference,
        "share_different": found.share_different,
    }
    if as_json:
        print_json(result)
    else:
        print_table(f"{folder}: {key} made again", ["figure", "value"], list(result.items()))
    if not found.same:
        raise DataError(
            f"{key} is not what its model makes: values differ by up to {found.largest_difference} grey levels",
            "the folder was changed, or another version of torch rounds otherwise",
        )
