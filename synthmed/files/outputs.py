"""Run and output folders: atomic files, the folder's configuration, resume checks and signals.

One rule for every file with a final name: it is written as `NAME.part`, flushed to disk and renamed, so that a file
under its final name is always whole.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from synthmed.errors import ResumeError, UsageError
from synthmed.files.atomic import write_json
from synthmed.files.content import read_json
from synthmed.files.fingerprints import source_changed
from synthmed.files.locks import enter_folder, try_lock
from synthmed.files.storage import (
    file_size,
    is_remote,
    list_folder,
    naming_write_errors,
    remove,
)

STATE_FOLDER = ".synthmed"


def remove_stale_parts(folders: Iterable[Path]) -> None:
    """Remove what a killed run left under temporary names; what a live process is writing stays."""
    for part in (part for folder in folders if not is_remote(folder) for part in folder.glob("*.part")):
        with contextlib.suppress(FileNotFoundError), open(part, "rb") as file:
            if try_lock(file):
                part.unlink(missing_ok=True)


def open_output(
    folder: Path,
    config: Mapping[str, Any],
    *,
    name: str,
    overwrite: bool = False,
    may_differ: Collection[str] = (),
    source: Mapping[str, str] | None = None,
    reads: Iterable[Path] = (),
    shared: bool = True,
) -> bool:
    """Claim an output folder for one configuration.

    Args:
        folder: Made if it is missing.
        config: Everything the output depends on; stored as `folder/name`.
        name: Path of the configuration file inside the folder.
        overwrite: Empty a folder of ours, also one of the same configuration.
        may_differ: Top-level keys whose new values replace those there; the caller has seen that this is right.
        source: Top-level keys that stand for what was given to read, each with its name for the user.
        reads: Files and folders that are to be read, which must not be removed.
        shared: Whether several processes may do the same work in the folder at once.

    Returns:
        Whether the folder already held work of the same configuration, to go on with.

    Raises:
        ResumeError: The folder holds something else; each differing field is named with both values.
        UsageError: The folder would have to be emptied of what is to be read.
    """
    path = folder / name
    wanted = json.loads(json.dumps(config))
    with naming_write_errors(folder), enter_folder(folder) as alone:
        if not (shared or alone):
            raise ResumeError(f"another command is at work in {folder}", "wait for its end, or use another folder")
        remove_stale_parts({folder, path.parent})
        # Another process in the folder may have emptied it for the same words already.
        if file_size(path) is not None and overwrite and alone:
            _refuse_own_input(folder, reads)
            # Whose folder it is stays known: whoever is killed here can say --overwrite again, and nothing else.
            write_json(path, {})
            clear_folder(folder, but=path)
        elif file_size(path) is not None:
            found = _take_over(path, wanted, may_differ if alone else ())
            _refuse_other(folder, found, wanted, source or {}, alone)
            return True
        else:
            check_output(folder, name)
            if file_size(path) is not None:
                # Another process of the same run has claimed the folder meanwhile.
                return open_output(folder, config, name=name, may_differ=may_differ, source=source)
        write_json(path, wanted)
    return False


def check_output(folder: Path, name: str | None = None) -> None:
    """Raise what writing into a folder would, before there is anything to write. Nothing is made.

    Args:
        folder: May be missing.
        name: The configuration file of `open_output`, without which a folder must be empty; `None` takes any folder.

    Raises:
        ResumeError: It is a file, or holds what this command did not make.
        DeviceError: A part of the path is a file, or there is no permission to write.
    """
    with naming_write_errors(folder):
        if not is_remote(folder):
            nearest = next(place for place in (folder, *folder.parents) if os.path.lexists(place))
            if not nearest.is_dir() and nearest == folder:
                raise ResumeError(f"{folder} is not a folder", "use another name")
            if not nearest.is_dir():
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
            if not os.access(nearest, os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        elif file_size(folder) is not None:
            raise ResumeError(f"{folder} is not a folder", "use another name")
        if name is not None and _holds_files(folder) and file_size(folder / name) is None:
            raise ResumeError(f"{folder} is not empty and was not made by this command", "use another folder")


def _refuse_other(folder: Path, found: Any, wanted: dict[str, Any], source: Mapping[str, str], alone: bool) -> None:
    """Raise if the folder's configuration is not the wanted one."""
    differing = differences(found, wanted)
    if not differing:
        return
    if not alone:
        raise ResumeError(
            f"another command is at work in {folder} with other settings: {'; '.join(differing)}",
            "wait for its end, or use another folder",
        )
    if isinstance(found, dict):
        changed = [words for key, words in source.items() if found.get(key) != wanted.get(key) and found.get(key)]
        if changed:
            raise source_changed(f"{', '.join(changed)} ({'; '.join(differing)})")
    raise ResumeError(
        f"{folder} was made with other settings: {'; '.join(differing)}",
        "use another folder, the same settings, or --overwrite to start anew",
    )


def _refuse_own_input(folder: Path, reads: Iterable[Path]) -> None:
    for path in reads:
        places = [(path, folder)] if is_remote(path) or is_remote(folder) else [(path.absolute(), folder.absolute())]
        places += [(path.resolve(), folder.resolve())]
        if any(inner == outer or outer in inner.parents for inner, outer in places):
            raise UsageError(f"--overwrite would remove what is to be read: {path}", "choose another output folder")


def _take_over(path: Path, wanted: dict[str, Any], may_differ: Collection[str]) -> Any:
    """Return the configuration in a file, which gets the wanted one where they differ in these keys alone."""
    found = read_json(path)
    if isinstance(found, dict) and found != wanted and {**found, **{key: wanted[key] for key in may_differ}} == wanted:
        write_json(path, wanted)
        return wanted
    return found


def _holds_files(folder: Path) -> bool:
    """Say whether a folder holds anything but what is left of an earlier claim that was killed half-way."""
    if is_remote(folder):
        return bool(list_folder(folder))  # a store has no empty folders
    found = (entry for entry in folder.rglob("*") if entry.suffix != ".part")
    return any(not entry.is_dir() or entry.is_symlink() for entry in found)


def clear_folder(folder: Path, *, but: Path | None = None) -> None:
    """Empty a folder that is ours, of all but one file in it or below it."""
    with naming_write_errors(folder):
        for entry in list_folder(folder):
            if but is not None and entry in but.parents:
                clear_folder(entry, but=but)
            elif entry != but:
                with contextlib.suppress(FileNotFoundError):
                    remove(entry)


def differences(found: Any, wanted: Any, prefix: str = "") -> list[str]:
    """Return `name: found -> wanted` for every leaf in which two JSON values differ."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        lines = []
        for key in sorted({*found, *wanted}):
            lines += differences(found.get(key), wanted.get(key), f"{prefix}.{key}" if prefix else key)
        return lines
    if found == wanted:
        return []
    return [f"{prefix}: {json.dumps(found)} there, {json.dumps(wanted)} asked for"]
