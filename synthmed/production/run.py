"""Runs: a folder that fills shard by shard and goes on where it was stopped, or one tar on a stream."""

from __future__ import annotations

import tarfile
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import IO, Any

from synthmed.data.shards.plan import RUN_FILE, shard_name
from synthmed.data.shards.side_files import write_side_files
from synthmed.data.shards.write import append_samples, read_stats
from synthmed.files.outputs import open_output
from synthmed.files.storage import file_size, naming_write_errors
from synthmed.production.cost import Estimate, estimate
from synthmed.production.extension import PLAN, fit_to_folder
from synthmed.production.plan import ALL, SPLIT, GenerateConfig, Share, plan
from synthmed.production.render import Renderer
from synthmed.production.write import Batch, ShardWriter
from synthmed.runtime.progress import log, progress


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
    with naming_write_errors(output):
        fresh = overwrite or file_size(output / RUN_FILE) is None
    # A model that cannot be loaded is better said before a folder is claimed, or emptied.
    renderer = Renderer(config, device, batch_size) if fresh else None
    if overwrite:
        open_output(output, config.as_json(), name=RUN_FILE, overwrite=True)
    else:
        config = fit_to_folder(config, output)
        open_output(output, config.as_json(), name=RUN_FILE, may_differ=PLAN)
    paths = [output / shard_name(SPLIT, index) for index in range(config.shards)]
    missing = {index for index, path in enumerate(paths) if read_stats(path) is None}
    mine = [index for index in share.indices(config.shards) if index in missing]
    made, sampling_sec = 0, 0.0
    if mine:
        made, sampling_sec = _make(renderer or Renderer(config, device, batch_size), config, mine, paths)
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
    renderer: Renderer, config: GenerateConfig, chosen: Sequence[int], paths: Sequence[Path]
) -> tuple[int, float]:
    """Write the chosen shards, and return the number of images and the seconds spent sampling."""
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
        UsageError: A chosen shard does not exist.
        ReaderGone: The reader has closed its end before the last image.
    """
    renderer, chosen = Renderer(config, device, batch_size), share.indices(config.shards)
    expected = estimate(config, renderer, chosen, streamed=True)
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
    file.flush()  # the end of the tar


def dry_run(
    config: GenerateConfig, output: Path | None, *, device: str, batch_size: int | None, share: Share
) -> Estimate:
    """Return what the command would take, without writing anything; `output` is `None` for a stream."""
    if output is None:
        chosen = share.indices(config.shards)
        return estimate(config, Renderer(config, device, batch_size), chosen, streamed=True)
    config = fit_to_folder(config, output)
    missing = [index for index in share.indices(config.shards) if read_stats(output / shard_name(SPLIT, index)) is None]
    return estimate(config, Renderer(config, device, batch_size), missing)
