"""The file of a training's figures: one JSON object per line, with the steps done."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from synthmed.files.atomic import write_bytes
from synthmed.files.storage import naming_write_errors


def append_row(path: Path, row: Mapping[str, Any]) -> None:
    """Append a row, which has a `step`."""
    with naming_write_errors(path.parent), path.open("a") as file:
        file.write(json.dumps(row) + "\n")


def drop_rows_after(path: Path, step: int) -> None:
    """Drop what a killed run wrote after its last checkpoint: those steps are done again."""
    if path.exists():
        rows = [line for line in path.read_text().splitlines() if _row_step(line) <= step]
        write_bytes(path, "".join(line + "\n" for line in rows).encode())


def last_row(path: Path) -> dict[str, Any]:
    """Return the last row."""
    row: dict[str, Any] = json.loads(path.read_text().splitlines()[-1])
    return row


def _row_step(line: str) -> float:
    try:
        return int(json.loads(line)["step"])
    except ValueError:
        return math.inf  # a line cut short by a kill
