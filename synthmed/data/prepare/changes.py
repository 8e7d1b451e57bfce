"""Whether a source is still the one that was checked: cheap where no file was touched, sure where one was.

What the check kept in the output folder is compared with the files of now, before anything else is done with them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

from synthmed.data.prepare.raw import RawItem
from synthmed.data.prepare.scan import Row, kept_rows, map_ordered
from synthmed.data.shards.plan import RUN_FILE
from synthmed.errors import DataError
from synthmed.files.content import read_json
from synthmed.files.fingerprints import Fingerprint, is_same, source_changed
from synthmed.files.storage import file_size
from synthmed.runtime.progress import progress
from synthmed.runtime.signals import StopSignal


def refuse_changes(
    items: Sequence[RawItem],
    output: Path,
    command: str,
    *,
    stat: Callable[[RawItem], Fingerprint | None],
    read: Callable[[RawItem], bytes],
    workers: int,
) -> None:
    """Raise if the files are not those that an earlier run of this command has checked; nothing kept, nothing to say.

    Args:
        items: All that are listed now, in the order in which they are checked.
        output: Folder of the shards.
        command: As the folder's configuration names it; what another one kept is of no concern.
        stat: Fingerprint of an item's file. A file that has the kept one is not read.
        read: Bytes of an item's file.
        workers: Threads.

    Raises:
        ResumeError: Names are missing or new, or a file has other bytes; the first is named.
        Interrupted: A signal came.
    """
    run = output / RUN_FILE
    if file_size(run) is None or not isinstance(found := read_json(run), dict) or found.get("command") != command:
        return
    kept = [row["source"] for row in kept_rows(output)]
    _refuse_other_names([item.source for item in items], kept, whole=len(kept) == found.get("listed_images"))
    # The folder was claimed before any file was read.
    since_ns = int(run.stat().st_mtime * 1e9)

    def differs(pair: tuple[RawItem, Row]) -> str:
        item, row = pair
        same = is_same(row.get("stat"), stat(item), since_ns) or _digest(item, read) == row.get("sha256")
        return "" if same else item.source

    changed = []
    with StopSignal() as stop, progress("looking for changes of the source", len(kept), "files") as advance:
        for name in map_ordered(differs, zip(items, kept_rows(output), strict=False), workers):
            stop.check("run the same command again to go on")
            advance(1)
            changed += [name] if name else []
    if changed:
        raise source_changed(changed[0], len(changed))


def _digest(item: RawItem, read: Callable[[RawItem], bytes]) -> str | None:
    """Return the hash of a file's bytes; `None` where they cannot be read."""
    try:
        return hashlib.sha256(read(item)).hexdigest()
    except DataError:
        return None


def _refuse_other_names(now: Sequence[str], kept: Sequence[str], *, whole: bool) -> None:
    """Raise if the kept names are not the first of those that are listed now, or all of them where they are the whole.

    Raises:
        ResumeError: Names are missing or new.
    """
    if now[: len(kept)] == kept and not (whole and len(now) > len(kept)):
        return
    new, old = set(now), set(kept)
    # Behind the last one that was kept nothing is known.
    end = len(now) if whole else max((place for place, name in enumerate(now, 1) if name in old), default=0)
    differing = [name for name in kept if name not in new] + [name for name in now[:end] if name not in old]
    if differing:
        raise source_changed(differing[0], len(differing))
