"""Runs: a folder that fills shard by shard and goes on where it was stopped, or one tar on a stream."""

from __future__ import annotations

import tarfile
import time
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

from synthmed.data.shards.plan import RUN_FILE, shard_lengths, shard_name
from synthmed.data.shards.side_files import write_side_files
from synthmed.data.shards.write import append_samples, read_stats
from synthmed.errors import ResumeError, UsageError
from synthmed.files.content import read_json
from synthmed.files.outputs import differences, open_output
from synthmed.files.storage import file_size, naming_write_errors
from synthmed.production.cost import Estimate, estimate
from synthmed.production.plan import SPLIT, GenerateConfig, extended, plan
from synthmed.production.render import Maker
from synthmed.production.write import Batch, ShardWriter
from synthmed.runtime.progress import log, progress

# Keys of the folder's configuration that an extension changes.
PLAN = ("counts", "shards")


@dataclass(frozen=True)
class Share:
    """Which shards this process makes: of those chosen, every `world`-th from number `rank` on."""

    chosen: Collection[int] | None = None
    rank: int = 0
    world: int = 1

    def numbers(self, shards: int) -> list[int]:
        """Return the numbers of its shards.

        Raises:
            UsageError: A chosen shard does not exist.
        """
        if self.chosen is not None and max(self.chosen) >= shards:
            raise UsageError(f"there is no shard {max(self.chosen)}", f"this run has shards 0 to {shards - 1}")
        mine = range(self.rank, shards, self.world)
        return [number for number in mine if self.chosen is None or number in self.chosen]


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
    """Make the images of this process's share that are not there yet, and return what the folder holds.

    The process that finds the last shard finished writes the side files.

    Raises:
        ResumeError: The folder holds something else.
        DeviceError: Out of memory, or the disk is full; finished shards stay.
    """
    started = time.monotonic()
    if overwrite:
        open_output(output, config.as_json(), name=RUN_FILE, overwrite=True)
    else:
        config = fit_to_folder(config, output)
        open_output(output, config.as_json(), name=RUN_FILE, may_differ=PLAN)
    paths = [output / shard_name(SPLIT, number) for number in range(config.shards)]
    missing = {number for number, path in enumerate(paths) if read_stats(path) is None}
    mine = [number for number in share.numbers(config.shards) if number in missing]
    lengths = shard_lengths(config.total, config.shards)
    to_make = sum(lengths[number] for number in mine)
    sampling_sec = 0.0
    if mine:
        maker = Maker(config, device, batch_size)
        log(str(estimate(config, maker, mine)))
        with progress("generating", to_make, "images") as advance, ShardWriter() as writer:
            for number, images in plan(config, mine):
                with writer.shard(paths[number]) as put:
                    for batch in maker.batches(images):
                        put(batch)
                        advance(len(batch))
        sampling_sec = maker.sampling_sec
    unfinished = [number for number in missing - {*mine} if read_stats(paths[number]) is None]
    if unfinished:
        log(f"{len(unfinished)} of {len(paths)} shards are left to others; who ends the last one writes the side files")
    else:
        write_side_files(output, config.folder_info())
    return {
        "output": str(output),
        "dataset": config.model.dataset,
        "images": dict(zip(config.model.classes, config.counts, strict=True)),
        "made_now": to_make,
        "shards": len(paths),
        "unfinished_shards": len(unfinished),
        "checkpoint": str(config.checkpoint),
        "checkpoint_sha256": config.checkpoint_sha256,
        "sampling_sec": round(sampling_sec, 2),
        "wall_sec": round(time.monotonic() - started, 2),
    }


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
    maker = Maker(config, device, batch_size)
    numbers = share.numbers(config.shards)
    log(str(estimate(config, maker, numbers)))
    total = sum(shard_lengths(config.total, config.shards)[number] for number in numbers)
    with (
        progress("generating", total, "images") as advance,
        tarfile.open(fileobj=file, mode="w|", format=tarfile.USTAR_FORMAT) as archive,
    ):

        def write(batch: Batch) -> None:
            for _ in append_samples(archive, (future.result() for future in batch)):
                advance(1)
            file.flush()

        before: Batch = []
        for _, images in plan(config, numbers):
            for batch in maker.batches(images):
                write(before)  # encoded while this batch was sampled
                before = batch
        write(before)


def dry_run(config: GenerateConfig, output: Path, *, device: str, batch_size: int | None, share: Share) -> Estimate:
    """Return what the command would take, without writing anything."""
    config = fit_to_folder(config, output)
    numbers = share.numbers(config.shards)
    todo = [number for number in numbers if read_stats(output / shard_name(SPLIT, number)) is None]
    return estimate(config, Maker(config, device, batch_size), todo)


def fit_to_folder(config: GenerateConfig, output: Path) -> GenerateConfig:
    """Return the configuration with the number of shards that the folder's present content asks for.

    A folder that holds fewer images of otherwise the same run is extended where the plan allows it.

    Raises:
        ResumeError: The numbers of images differ and do not allow it.
    """
    path = output / RUN_FILE
    with naming_write_errors(output):
        if file_size(path) is None:
            return config
    found = read_json(path)
    wanted = config.as_json()
    if not isinstance(found, dict) or any(found.get(key) != wanted[key] for key in wanted if key not in PLAN):
        return config  # open_output says what differs
    counts, shards = tuple(found["counts"][name] for name in config.model.classes), found["shards"]
    if counts == config.counts:
        return replace(config, num_shards=shards)
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
