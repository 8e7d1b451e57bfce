"""The header of a diffusion model's file, with its own types."""

from __future__ import annotations

from pathlib import Path

from synthmed.errors import CheckpointError
from synthmed.formats.headers import DEFAULT_FAMILY, Header, parse_header
from synthmed.formats.model_files import read_table
from synthmed.generators.diffusion.config import DiffusionBuild
from synthmed.generators.diffusion.settings import DiffusionSettings

DiffusionHeader = Header[DiffusionBuild, DiffusionSettings]


def read_diffusion_header(path: Path) -> DiffusionHeader:
    """Return the header of a diffusion model or of its first stage.

    Raises:
        CheckpointError: The file is missing, broken or of another family.
    """
    table = read_table(path)
    if table["family"] != DEFAULT_FAMILY:
        raise CheckpointError(f"{path} is no diffusion model", "synthmed.load_generator reads every family")
    return parse_header(table, DiffusionBuild, DiffusionSettings, path)
