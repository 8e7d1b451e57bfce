"""A run that goes on from a smaller one in its folder: with how many shards, and whether it can."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from synthmed.data.shards.plan import RUN_FILE, interleave
from synthmed.errors import ResumeError
from synthmed.files.content import read_json
from synthmed.files.outputs import differences
from synthmed.files.storage import file_size, naming_write_errors
from synthmed.production.plan import GenerateConfig
from synthmed.runtime.progress import log

# Keys of the folder's configuration that an extension changes.
PLAN = ("counts", "shards")


def fit_to_folder(config: GenerateConfig, output: Path) -> GenerateConfig:
    """Return the configuration with the number of shards that the folder's present content asks for.

    A folder that holds fewer images of otherwise the same run is extended where the plan allows it.

    Raises:
        ResumeError: The numbers of images differ and do not allow it.
    """
    if config.num_shards is not None:
        return config  # as fitted before
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


def extended(config: GenerateConfig, counts: tuple[int, ...], shards: int) -> int | None:
    """Return the number of shards with which a run goes on from a smaller one, or `None` where it cannot.

    It can if the smaller run's shards are the first of the larger one's, image by image: as many times the shards as
    there are times the images, of classes in the same proportion.

    Args:
        config: The larger run.
        counts: Of the smaller one.
        shards: Of the smaller one.
    """
    total, wanted = sum(counts), config.total
    if not total < wanted or shards * wanted % total or shards * wanted // total % (config.workers * config.ranks):
        return None
    pairs = zip(interleave(counts), interleave(config.counts), strict=False)
    return shards * wanted // total if all(mine == theirs for mine, theirs in pairs) else None
