"""The first pass over a release: every image is decoded once, and what cannot be used is named.

Results are kept in `.synthmed/scan`, a file for every few hundred images, so that an interrupted pass goes on where it
stopped.
"""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from synthmed.data.images import ImageArray, decode_image
from synthmed.data.prepare.raw import Problem, RawItem
from synthmed.data.shards.samples import MAX_IMAGE_BYTES
from synthmed.errors import DataError
from synthmed.files.atomic import write_json
from synthmed.files.content import read_json
from synthmed.files.outputs import STATE_FOLDER
from synthmed.runtime.progress import Advance, progress
from synthmed.runtime.signals import StopSignal

SCAN_FOLDER = f"{STATE_FOLDER}/scan"
ITEMS_A_CHUNK = 500
MIN_SIDE = 16

Row = dict[str, str]
"""`pixels`, the hash of an image that can be used, or `reason` and `detail` of one that cannot."""

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_ordered(function: Callable[[Item], Result], items: Iterable[Item], workers: int) -> Iterator[Result]:
    """Yield `function(item)` in the order of the items, computed by threads a little ahead of what is taken.

    Pillow decodes, resizes and encodes without holding Python's lock, so threads use all cores.
    """
    with ThreadPoolExecutor(workers) as pool:
        ahead: deque[Future[Result]] = deque()
        try:
            for item in items:
                ahead.append(pool.submit(function, item))
                if len(ahead) > 2 * workers:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            for future in ahead:
                future.cancel()


def read_file(path: Path, name: str) -> bytes:
    """Return the bytes of a file that should be an image.

    Raises:
        DataError: It cannot be read, is a pipe or a device, or too large.
    """
    try:
        if path.exists() and not path.is_file():
            raise DataError(f"{name} is not a file")
        with path.open("rb") as file:
            data = file.read(MAX_IMAGE_BYTES + 1)
    except OSError as error:
        raise DataError(f"{name} cannot be read: {error.strerror}") from error
    if len(data) > MAX_IMAGE_BYTES:
        raise DataError(f"{name} is too large", f"at most {MAX_IMAGE_BYTES} bytes")
    return data


def load_file(item: RawItem) -> ImageArray:
    """Return the pixels of an item that is a file.

    Raises:
        DataError: The file cannot be read or decoded.
    """
    if item.path is None:
        raise DataError(f"{item.source} is missing")
    return decode_image(read_file(item.path, item.source), item.source)


def scan_items(
    items: Sequence[RawItem], classes: Sequence[str], output: Path, size: int, workers: int, stop: StopSignal
) -> tuple[list[RawItem], list[Problem]]:
    """Return the usable items, and a problem for each of the others, both in the order of the items.

    An image is too small if its short side is below 16 pixels or below half of `size`. Of images with the same pixels
    the first is kept, or none where they are of several classes: nobody knows which label is true.

    Args:
        items: Of all classes.
        classes: Class names in label order.
        output: Folder that keeps what was scanned.
        size: Of the images in the shards, in pixels.
        workers: Threads that decode.
        stop: Ends the pass.

    Raises:
        Interrupted: A signal came; what was scanned is kept.
    """
    rows: list[tuple[RawItem, Row]] = []
    alike: dict[str, dict[int, RawItem]] = {}  # pixels -> label -> the first image of both
    for item, row in scan_rows(items, output, lambda item: _check_item(item, max(MIN_SIDE, size // 2)), workers, stop):
        rows.append((item, row))
        if "pixels" in row:
            alike.setdefault(row["pixels"], {}).setdefault(item.label, item)
    usable: list[RawItem] = []
    problems: list[Problem] = []
    for item, row in rows:
        if "pixels" not in row:
            problems.append(Problem(item.source, row["reason"], row["detail"]))
        elif len(of_label := alike[row["pixels"]]) > 1:
            other = next(of_label[label] for label in of_label if label != item.label)
            detail = f"{classes[item.label]} here, same pixels as {other.source}, which is {classes[other.label]}"
            problems.append(Problem(item.source, "label conflict", detail))
        elif (first := of_label[item.label]) is not item:
            problems.append(Problem(item.source, "duplicate", f"same pixels as {first.source}"))
        else:
            usable.append(item)
    return usable, problems


def scan_rows(
    items: Sequence[RawItem], output: Path, check: Callable[[RawItem], Row], workers: int, stop: StopSignal
) -> Iterator[tuple[RawItem, Row]]:
    """Yield each item with what `check` gives for it, kept in the output folder for an interrupted pass to go on.

    Raises:
        Interrupted: A signal came; what was checked is kept.
    """
    with progress("checking images", len(items), "images") as advance:
        for start in range(0, len(items), ITEMS_A_CHUNK):
            chunk = items[start : start + ITEMS_A_CHUNK]
            path = output / SCAN_FOLDER / f"{start:09d}.json"
            yield from zip(chunk, _scan_chunk(chunk, path, check, workers, stop, advance), strict=True)


def _scan_chunk(
    chunk: Sequence[RawItem],
    path: Path,
    check: Callable[[RawItem], Row],
    workers: int,
    stop: StopSignal,
    advance: Advance,
) -> list[Row]:
    if path.is_file():
        rows: list[Row] = read_json(path)
        if len(rows) == len(chunk):
            advance(len(rows))
            return rows
    rows = []
    for row in map_ordered(check, chunk, workers):
        stop.check("run the same command again to go on")
        rows.append(row)
        advance(1)
    write_json(path, rows)
    return rows


def _check_item(item: RawItem, min_side: int) -> Row:
    """Return the hash of an item's pixels, or the reason why it cannot be used."""
    if item.path is None:
        return {"reason": "missing", "detail": "listed, but there is no such file"}
    try:
        image = load_file(item)
    except DataError as error:
        return {"reason": "unreadable", "detail": str(error)}
    height, width = image.shape[:2]
    if min(height, width) < min_side:
        return {"reason": "wrong size", "detail": f"{width} x {height} pixels, at least {min_side} are needed"}
    return {"pixels": hash_pixels(image)}


def hash_pixels(image: ImageArray) -> str:
    """Return the SHA-256 of an image's size and pixels."""
    height, width = image.shape[:2]
    return hashlib.sha256(f"{width}x{height}".encode() + image.tobytes()).hexdigest()


def default_workers() -> int:
    """Return the number of threads to decode with: the cores this process may use, 16 at most."""
    return max(1, min(16, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1))
