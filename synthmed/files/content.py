"""What files hold: JSON as strict readers take it, of bounded size and depth, and hashes."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

from synthmed.errors import DataError
from synthmed.files.storage import (
    file_size,
    naming_read_errors,
    open_to_read,
)

MAX_JSON_FILE_BYTES = 256 << 20  # far above all that is written here; as objects it takes ten times the memory
MAX_JSON_DEPTH = 100


def read_json(path: Path, max_bytes: int = MAX_JSON_FILE_BYTES) -> Any:
    """Read a JSON file.

    Raises:
        DataError: The file is missing, too large or not strict JSON.
    """
    with naming_read_errors(path):
        size = file_size(path)
        # A pipe of that name would be waited for.
        if (size is None and path.exists()) or (size or 0) > max_bytes:
            raise DataError(f"{path} is no file of JSON", f"a file of at most {max_bytes >> 20} MiB")
        try:
            data = path.read_bytes()
        except FileNotFoundError as error:
            raise DataError(f"no such file: {path}") from error
    return parse_json(data, str(path))


def parse_json(data: bytes, name: str) -> Any:
    """Return a JSON value as strict readers take it, so that nobody else reads something different or nothing.

    That is UTF-8 without a byte order mark, each key once, text that UTF-8 has, and numbers that a double can hold.

    Args:
        data: The whole document.
        name: What to call it in an error.

    Raises:
        DataError: It is not that, or nested too deep.
    """
    try:
        text = data.decode()
        value = json.loads(
            text, object_pairs_hook=unique_keys, parse_constant=_number, parse_float=_number, parse_int=_whole_number
        )
        # Only where there are escapes of surrogates or many brackets is there anything to look for.
        if "\\ud" in text or "\\uD" in text:
            json.dumps(value, ensure_ascii=False).encode()
        if text.count("[") + text.count("{") > MAX_JSON_DEPTH:
            _check_depth(value)
    except UnicodeDecodeError as error:
        raise DataError(f"{name} is not JSON: byte {error.start} is not UTF-8") from error
    except UnicodeEncodeError as error:
        raise DataError(f"{name} is not JSON: half a surrogate pair in a text") from error
    except RecursionError as error:
        raise DataError(f"{name} is not JSON that is read here: nested more than {MAX_JSON_DEPTH} deep") from error
    except ValueError as error:
        raise DataError(f"{name} is not JSON: {error}") from error
    return value


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object of JSON, for `json.loads`; readers differ in which of two equal keys they take.

    Raises:
        ValueError: A key stands twice.
    """
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {key!r:.100} stands twice")
        found[key] = value
    return found


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text:.20} is not finite as a double")
    return value


def _whole_number(text: str) -> int:
    _number(text)
    return int(text)


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(MAX_JSON_DEPTH):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
    if level:
        raise RecursionError


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file as hex."""
    with naming_read_errors(path), open_to_read(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_json(value: Any) -> str:
    """Return the SHA-256 of a JSON value, whatever the order of its keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
