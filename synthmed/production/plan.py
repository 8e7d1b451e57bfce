"""What a run makes: everything that the bytes of its shards depend on, and the plan of which image goes where.

An image depends on (model, seed, label, index) and the sampler's settings alone; the shard is the unit of work.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from synthmed.config.limits import MAX_IMAGES, MAX_RANKS, MAX_SEED, MAX_SHARDS, MAX_WORKERS
from synthmed.config.tables import to_marks
from synthmed.data.shards.card import NOT_STATED, FolderInfo
from synthmed.data.shards.plan import count_shards, interleave, shard_lengths
from synthmed.errors import UsageError
from synthmed.formats.headers import Header
from synthmed.generators.family import Settings
from synthmed.runtime import version

if TYPE_CHECKING:
    from synthmed.data.images import ImageFormat
    from synthmed.runtime.device import Precision

SPLIT = "train"


@dataclass(frozen=True)
class GenerateConfig:
    """What to make.

    Args:
        checkpoint: Model file.
        checkpoint_sha256: Its hash.
        header: What it says of itself.
        counts: Images of each class, in label order.
        seed: Of the whole run.
        settings: How images are sampled, as the model's family says it.
        image_format: png and webp are lossless.
        workers: DataLoader workers that the number of shards should be a multiple of.
        ranks: Training processes that it should be a multiple of.
        precision: Of the networks; fp32 gives the same images on every device but for rounding.
        source_terms: Licence or terms of the data that the model was trained on.
        match: The real set that `counts` were taken from; `None` where they were given.
        num_shards: `None` for the number that suits counts, workers and ranks; a folder that was extended has its own.

    Raises:
        UsageError: There is nothing to make, or a number is out of range.
    """

    checkpoint: Path
    checkpoint_sha256: str
    header: Header[Any, Any]
    counts: tuple[int, ...]
    seed: int
    settings: Settings
    image_format: ImageFormat = "png"
    workers: int = 4
    ranks: int = 1
    precision: Precision = "fp32"
    source_terms: str = NOT_STATED
    match: Path | None = None
    num_shards: int | None = None

    def __post_init__(self) -> None:
        if self.total == 0:
            raise UsageError("no images are asked for", "give -n, or --label NAME=COUNT")
        for what, found, least, most in (
            ("images", self.total, 1, MAX_IMAGES),
            ("seed", self.seed, 0, MAX_SEED),
            ("workers", self.workers, 1, MAX_WORKERS),
            ("ranks", self.ranks, 1, MAX_RANKS),
        ):
            if not least <= found <= most:
                raise UsageError(f"{what}: {found} is out of range", f"from {least} to {most}")
        if self.shards > MAX_SHARDS:
            raise UsageError(f"{self.shards} shards", f"at most {MAX_SHARDS}: choose fewer --workers and --ranks")

    @property
    def total(self) -> int:
        """Images of all classes."""
        return sum(self.counts)

    @property
    def shards(self) -> int:
        """Number of shards."""
        return self.num_shards or count_shards(self.total, workers=self.workers, ranks=self.ranks)

    def as_json(self) -> dict[str, Any]:
        """Return everything that the bytes of the shards depend on, and how the folder describes itself."""
        return {
            "synthmed_version": version.__version__,
            "checkpoint_sha256": self.checkpoint_sha256,
            "counts": dict(zip(self.header.classes, self.counts, strict=True)),
            "shards": self.shards,
            "seed": self.seed,
            # The name is older than the other families.
            "sampler": to_marks(self.settings),
            **self.header.family_mark,
            "precision": self.precision,
            "workers": self.workers,
            "ranks": self.ranks,
            "folder": self.folder_info().as_config(),
        }

    def folder_info(self) -> FolderInfo:
        """Return what the folder says about itself."""
        header, training = self.header, self.header.training
        how = (
            f"Made by `synthmed generate` {version.__version__} with the model of SHA-256 `{self.checkpoint_sha256}` "
            f"({training.get('steps', '?')} steps on {training.get('images', '?')} images), seed {self.seed}, "
            f"{self.settings.describe()}, {self.precision}.",
        )
        return FolderInfo(
            kind="synthetic",
            dataset=header.dataset,
            classes=header.classes,
            title=f"Synthetic {header.dataset}",
            size=header.size,
            image_format=self.image_format,
            how_made=how,
            source_terms=self.source_terms,
        )


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


@dataclass(frozen=True, slots=True)
class Planned:
    """One image of the plan."""

    position: int  # among all images of the run
    label: int
    index: int  # among the images of its class


def plan(config: GenerateConfig, chosen: Collection[int] | None = None) -> Iterator[tuple[int, list[Planned]]]:
    """Yield the chosen shards, all by default, as index and images: classes interleaved, lengths equal up to one.

    One shard lies in memory at a time, so that a run may be of any length.
    """
    order = (Planned(position, *place) for position, place in enumerate(interleave(config.counts)))
    for index, length in enumerate(shard_lengths(config.total, config.shards)):
        images = list(itertools.islice(order, length))
        if chosen is None or index in chosen:
            yield index, images
