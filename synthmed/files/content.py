"""What files hold: JSON of bounded size, and hashes."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from synthmed.errors import DataError
from synthmed.files.storage import (
    file_size,
    naming_read_errors,
    open_to_read,
)

MAX_JSON_FILE_BYTES = 256 << 20  # far above all that is written here; as objects it takes ten times the memory


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        DataError: The file is missing, too large or not JSON.
    """
    with naming_read_errors(path):
        size = file_size(path)
        # A pipe of that name would be waited for.
        if (size is None and path.exists()) or (size or 0) > MAX_JSON_FILE_BYTES:
            raise DataError(f"{path} is no file of JSON", f"a file of at most {MAX_JSON_FILE_BYTES >> 20} MiB")
        try:
            return json.loads(path.read_bytes())
        except FileNotFoundError as error:
            raise DataError(f"no such file: {path}") from error
        except (ValueError, RecursionError) as error:
            raise DataError(f"cannot read {path} as JSON: {error}") from error


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file as hex."""
    with naming_read_errors(path), open_to_read(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_json(value: Any) -> str:
    """Return the SHA-256 of a JSON value, whatever the order of its keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
