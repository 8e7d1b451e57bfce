"""Runs: a folder that fills shard by shard and goes on where it was stopped, or one tar on a stream."""

from __future__ import annotations

import tarfile
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

from synthmed.data.shards.plan import RUN_FILE, shard_name
from synthmed.data.shards.side_files import write_side_files
from synthmed.data.shards.write import append_samples, read_stats
from synthmed.errors import ResumeError, UsageError
from synthmed.files.content import read_json
from synthmed.files.fingerprints import source_changed
from synthmed.files.outputs import differences, open_output
from synthmed.files.storage import file_size, naming_write_errors
from synthmed.production.cost import Estimate, estimate
from synthmed.production.plan import SPLIT, GenerateConfig, extended, plan
from synthmed.production.render import Renderer
from synthmed.production.write import Batch, ShardWriter
from synthmed.runtime.progress import log, progress

# Keys of the folder's configuration that an extension changes.
PLAN = ("counts", "shards")


@dataclass(frozen=True)
class Share:
    """Which shards this process makes: of those chosen, every `world`-th from the `rank`-th on."""

    chosen: Collection[int] | None = None
    rank: int = 0
    world: int = 1

    def indices(self, shards: int) -> list[int]:
        """Return the indices of its shards.

        Raises:
            UsageError: A chosen shard does not exist.
        """
        if self.chosen is not None and max(self.chosen) >= shards:
            raise UsageError(f"there is no shard {max(self.chosen)}", f"this run has shards 0 to {shards - 1}")
        mine = range(self.rank, shards, self.world)
        return [index for index in mine if self.chosen is None or index in self.chosen]


ALL = Share()


def generate(
    config: GenerateConfig,
    output: Path,
    *,
    device: str = "auto",
    batch_size: int | None = None,
    share: Share = ALL,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Make the images of this process's share that are not there yet, and return what the folder then holds.

    The process that finds the last shard finished writes the side files.

    Raises:
        ResumeError: The folder holds something else.
        DeviceError: Out of memory, or the disk is full; finished shards stay.
    """
    started = time.monotonic()
    if overwrite:
        reads = [path for path in (config.checkpoint, config.match) if path is not None]
        open_output(output, config.as_json(), name=RUN_FILE, overwrite=True, reads=reads)
    else:
        config = fit_to_folder(config, output)
        source = {"checkpoint_sha256": str(config.checkpoint)}
        open_output(output, config.as_json(), name=RUN_FILE, may_differ=PLAN, source=source)
    paths = [output / shard_name(SPLIT, index) for index in range(config.shards)]
    missing = {index for index, path in enumerate(paths) if read_stats(path) is None}
    mine = [index for index in share.indices(config.shards) if index in missing]
    made, sampling_sec = _make(config, mine, paths, device, batch_size) if mine else (0, 0.0)
    unfinished = {index for index in missing - {*mine} if read_stats(paths[index]) is None}
    if unfinished:
        log(f"{len(unfinished)} of {len(paths)} shards are still to be made; the last process writes the side files")
    else:
        write_side_files(output, config.folder_info())
    return {
        "output": str(output),
        "dataset": config.header.dataset,
        "images": _count_images(config, unfinished),
        "made_now": made,
        "shards": len(paths) - len(unfinished),
        "unfinished_shards": len(unfinished),
        "checkpoint": str(config.checkpoint),
        "checkpoint_sha256": config.checkpoint_sha256,
        "sampling_sec": round(sampling_sec, 2),
        "wall_sec": round(time.monotonic() - started, 2),
    }


def _make(
    config: GenerateConfig, chosen: Sequence[int], paths: Sequence[Path], device: str, batch_size: int | None
) -> tuple[int, float]:
    """Write the chosen shards, and return the number of images and the seconds spent sampling."""
    renderer = Renderer(config, device, batch_size)
    expected = estimate(config, renderer, chosen)
    log(str(expected))
    with progress("generating", expected.images, "images") as advance, ShardWriter() as writer:
        for index, images in plan(config, chosen):
            with writer.shard(paths[index]) as put:
                for batch in renderer.batches(images):
                    put(batch)
                    advance(len(batch))
    return expected.images, renderer.sampling_sec


def _count_images(config: GenerateConfig, unfinished: Collection[int]) -> dict[str, int]:
    """Return the images of each class in the shards that are there."""
    counts = list(config.counts)
    for _, images in plan(config, unfinished) if unfinished else ():
        for image in images:
            counts[image.label] -= 1
    return dict(zip(config.header.classes, counts, strict=True))


def stream(
    config: GenerateConfig,
    file: IO[bytes],
    *,
    device: str = "auto",
    batch_size: int | None = None,
    share: Share = ALL,
) -> None:
    """Write the chosen shards as one tar to a stream: for one of them the same bytes as its file.

    Raises:
        BrokenPipeError: The reader has closed its end.
    """
    renderer, chosen = Renderer(config, device, batch_size), share.indices(config.shards)
    expected = estimate(config, renderer, chosen)
    log(str(expected))
    with (
        progress("generating", expected.images, "images") as advance,
        tarfile.open(fileobj=file, mode="w|", format=tarfile.USTAR_FORMAT) as archive,
    ):

        def write(batch: Batch) -> None:
            for _ in append_samples(archive, (future.result() for future in batch)):
                advance(1)
            file.flush()

        before: Batch = []
        for _, images in plan(config, chosen):
            for batch in renderer.batches(images):
                write(before)  # encoded while this batch was sampled
                before = batch
        write(before)


def dry_run(config: GenerateConfig, output: Path, *, device: str, batch_size: int | None, share: Share) -> Estimate:
    """Return what the command would take, without writing anything."""
    config = fit_to_folder(config, output)
    missing = [index for index in share.indices(config.shards) if read_stats(output / shard_name(SPLIT, index)) is None]
    return estimate(config, Renderer(config, device, batch_size), missing)


def fit_to_folder(config: GenerateConfig, output: Path) -> GenerateConfig:
    """Return the configuration with the number of shards that the folder's present content asks for.

    A folder that holds fewer images of otherwise the same run is extended where the plan allows it.

    Raises:
        ResumeError: The numbers of images differ and do not allow it, or follow a set that has changed.
    """
    path = output / RUN_FILE
    with naming_write_errors(output):
        if file_size(path) is None:
            return config
    found = read_json(path)
    wanted = config.as_json()
    if not isinstance(found, dict) or any(found.get(key) != wanted[key] for key in wanted if key not in PLAN):
        return config  # open_output says what differs
    counts, shards = tuple(found["counts"][name] for name in config.header.classes), found["shards"]
    if counts == config.counts:
        return replace(config, num_shards=shards)
    if config.match is not None:
        raise source_changed(f"{config.match} ({'; '.join(differences(found['counts'], wanted['counts'], 'counts'))})")
    larger = extended(config, counts, shards)
    if larger is None:
        step = config.workers * config.ranks
        raise ResumeError(
            f"{output} was made with other settings: {'; '.join(differences(found, wanted))}",
            f"it can be extended by whole groups of {step} shards, e.g. to {_next_total(sum(counts), shards, step)} "
            "images of the same mixture; or use another folder, or --overwrite to start anew",
        )
    log(f"extending {output} from {sum(counts)} to {config.total} images")
    return replace(config, num_shards=larger)


def _next_total(total: int, shards: int, step: int) -> int:
    """Return the next larger number of images that extends a run."""
    more = next(more for more in range(step, total * step + 1, step) if total * (shards + more) % shards == 0)
    return total * (shards + more) // shards
