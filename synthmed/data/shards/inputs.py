"""Which shards a run was begun with, kept in its folder: other ones are noticed when the run goes on.

Images are compared with the hashes in the stats files whenever they are read (see `samples`). A run that goes on may
read none, and no start should read them all: shards that were not touched since the last start are taken for the same.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from synthmed.data.shards.plan import RUN_FILE
from synthmed.data.shards.read import ShardFolder
from synthmed.files.atomic import write_json
from synthmed.files.content import hash_file, read_json
from synthmed.files.fingerprints import fingerprint, is_same, source_changed
from synthmed.files.outputs import open_output

INPUTS_NAME = "inputs.json"


def open_run(
    folder: Path,
    config: Mapping[str, Any],
    inputs: Mapping[str, ShardFolder],
    *,
    name: str,
    overwrite: bool = False,
    may_differ: Collection[str] = (),
    source: Mapping[str, str] | None = None,
    reads: Iterable[Path] = (),
    shared: bool = True,
) -> bool:
    """Claim an output folder for one configuration and the shards it is made from; see `files.outputs.open_output`.

    Args:
        inputs: What is read, under any names.

    Raises:
        ResumeError: The folder holds something else, or the shards are not those it was begun with.
    """
    path = (folder / name).with_name(INPUTS_NAME)
    if path.is_file() and not overwrite:
        _refuse_changed(read_json(path), path.stat().st_mtime_ns, inputs)
    resumed = open_output(
        folder,
        config,
        name=name,
        overwrite=overwrite,
        may_differ=may_differ,
        source=source,
        reads=(*reads, *(given.folder for given in inputs.values())),
        shared=shared,
    )
    _keep(path, inputs)
    return resumed


def _refuse_changed(kept: Mapping[str, Any], since_ns: int, inputs: Mapping[str, ShardFolder]) -> None:
    """Raise if shards are missing, new or others, or their classes have other names."""
    changed: list[str] = []
    for name, folder in inputs.items():
        # What was not read then is another setting, not another source.
        if (before := kept.get(name)) is None:
            continue
        if before["classes"] != list(folder.classes):
            changed.append(str(folder.folder / RUN_FILE))
        for shard in sorted({*before["shards"], *folder.shard_hashes}):
            if _differs(before["shards"].get(shard), folder, shard, since_ns):
                changed.append(str(folder.folder / shard))
    if changed:
        raise source_changed(changed[0], len(changed))


def _differs(before: Mapping[str, Any] | None, folder: ShardFolder, shard: str, since_ns: int) -> bool:
    path = folder.folder / shard
    if before is None or folder.shard_hashes.get(shard) != before["sha256"]:
        return True
    return not is_same(before["stat"], fingerprint(path), since_ns) and hash_file(path) != before["sha256"]


def _keep(path: Path, inputs: Mapping[str, ShardFolder]) -> None:
    """Write down which shards a run works with."""
    kept = {
        name: {
            "classes": list(folder.classes),
            "shards": {
                shard: {"sha256": sha256, "stat": fingerprint(folder.folder / shard)}
                for shard, sha256 in folder.shard_hashes.items()
            },
        }
        for name, folder in inputs.items()
    }
    write_json(path, kept)
