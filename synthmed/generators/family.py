"""The door for every generator: what a family of models must say and do so that all commands work with it.

A family is added by a folder beside this file and a line in `families.py`. Nothing outside knows which one it has.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

from synthmed.config.fields import MAX_SIDE, described
from synthmed.data.datasets import dataset_name
from synthmed.errors import CheckpointError, RecipeError
from synthmed.formats.headers import Header, HeaderPart
from synthmed.training.config import StageConfig

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from synthmed.data.shards.read import ShardFolder
    from synthmed.runtime.processes import Processes
    from synthmed.training.task import Task

CONFIG_NAME = "config.json"
"""Settings of a stage, in its folder of a run."""
OnStep = Callable[[int, int], None]
"""Called after each step of sampling with the steps done and the steps in all."""
ImportFile = Callable[..., tuple[Header[Any, Any], Mapping[str, "Tensor"]]]
"""`import_file(path, info, size=..., vae=...)` gives header and tensors of a published program's file, running nothing
in it: for a data set, with the images' size and the first stage's file where these are not as published."""
ExportTensors = Callable[[Header[Any, Any], Mapping[str, "Tensor"]], Mapping[str, "Tensor"]]


class Settings(HeaderPart, Protocol):
    """How images are sampled: a frozen dataclass of plain values, each made with `described`.

    Its fields are the options of `generate` and the keys in the shards; nothing else is written of how an image came
    to be.
    """

    def check(self, header: Header[Any, Any], /) -> None:
        """Raise RecipeError where a model with this header cannot follow these settings."""

    def changed(self, given: Mapping[str, Any], /) -> Self:
        """Return the settings with some values given by the user, and what follows from them."""

    def describe(self) -> str:
        """Return the settings as words for plan and data card, e.g. `sampler ddim, 150 steps`."""


class NotFiniteError(CheckpointError):
    """A model has made an image with values that are no numbers.

    Args:
        position: Of the first such image in its batch.
    """

    def __init__(self, position: int) -> None:
        super().__init__(f"image {position} of the batch is not finite")
        self.position = position


@dataclass(frozen=True)
class Cost:
    """What sampling costs on a device that is warm."""

    images_per_sec: float
    memory_gib: float
    """Of the process, or of the GPU if there is one."""


class Generator(Protocol):
    """A loaded model that makes images."""

    @property
    def header(self) -> Header[Any, Any]:
        """What the model file says of itself."""

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""

    def sample(
        self, labels: Sequence[int], seeds: Sequence[int], settings: Any, on_step: OnStep | None = None
    ) -> Tensor:
        """Return one image per label and seed: uint8 [N, 3, H, W].

        An image depends on its label, its seed and the settings alone, whatever else is in the batch.

        Raises:
            UsageError: A label or a setting that the model does not have.
            NotFiniteError: An image is not finite.
        """

    def cost(self, settings: Any, batch_size: int) -> Cost:
        """Return what batches of a size cost, measured after a pass that is not counted."""


@dataclass(frozen=True)
class DataConfig:
    """What the model is trained on."""

    size: int = described(256, "side of the square images in pixels")

    def __post_init__(self) -> None:
        if not 1 <= self.size <= MAX_SIDE:
            raise RecipeError(f"data.size is {self.size}", f"it must be in 1 .. {MAX_SIDE}")


@dataclass(frozen=True)
class Recipe:
    """Everything that a model is made with: what all families have; a family adds its own tables."""

    name: str = ""
    family: str = ""
    preset: str = ""
    dataset: str = ""
    description: str = ""
    device: str = ""
    stages: tuple[str, ...] = ()
    data: DataConfig = field(default_factory=DataConfig)

    @property
    def image_channels(self) -> int:
        """Channels of the images that the model is trained on."""
        return 3

    def with_channels(self, channels: int) -> list[str]:
        """Return the changes, as `table.key=value`, that fit the recipe to images of 1 or 3 channels."""
        return []


@dataclass(frozen=True)
class StageRequest:
    """What a training command was asked for."""

    recipe: Any
    """The family's own kind of `Recipe`."""
    data: Path
    """Folder of real shards with a train and a validation split."""
    run: Path
    """Run folder, which all stages of a model share."""
    seed: int = 0
    device: str = "auto"
    num_workers: int = 2
    """Processes that load images which do not fit in memory."""
    overwrite: bool = False
    """Start anew where the folder holds other work."""
    vgg_weights: Path | None = None
    """File of VGG-16, where the recipe gives LPIPS a weight."""


@dataclass(frozen=True)
class StageContext:
    """What a stage finds when it begins."""

    request: StageRequest
    train: ShardFolder
    validation: ShardFolder
    start: Path | None
    """Model file of an earlier stage; `None` where the stage starts from nothing."""
    device: torch.device
    processes: Processes

    @property
    def recipe(self) -> Any:
        """All settings."""
        return self.request.recipe

    @property
    def header_fields(self) -> dict[str, Any]:
        """What the header of any family's model says of its data and its training."""
        train, recipe = self.train, self.recipe
        return {
            "family": recipe.family,
            "dataset": train.dataset or dataset_name(self.request.data.resolve().name),
            "classes": train.classes.with_positive(),
            "size": recipe.data.size,
            "training": {"recipe": recipe.name, "images": len(train.entries), "data_hash": train.content_hash},
        }


@dataclass(frozen=True)
class Prepared:
    """A stage whose inputs are checked, before its folder is claimed."""

    settings: Mapping[str, Any]
    """All that the weights depend on: tables of the recipe, and hashes of what goes in."""
    build: Callable[[], Task]
    """Gives what is trained; called once the folder is claimed and torch's generator is seeded."""


@dataclass(frozen=True)
class Stage:
    """One training of a model. Its name is that of its folder in the run and of its table in the recipe."""

    name: str
    config: type[StageConfig]
    prepare: Callable[[StageContext], Prepared]
    after: tuple[str, ...] = ()
    """Stages that it can start from, the preferred one first; empty where it starts from nothing."""
    optional: bool = False
    """Whether a recipe has to name it among its `stages` to have it."""


@dataclass(frozen=True)
class Family:
    """One kind of generator. Holds no torch: what needs it is imported when it is called."""

    name: str
    title: str
    """One line for lists."""
    build: type[Any]
    """Dataclass of the architecture, as the header of a model file keeps it."""
    settings: type[Any]
    """Dataclass of the sampling settings; see `Settings`."""
    recipe: type[Recipe]
    stages: tuple[Stage, ...]
    load: Callable[[Path, Header[Any, Any], Any], Generator]
    """Return the generator in a model file with this header, on a device; of a part alone, whatever shows that the file
    is whole. Raises CheckpointError where the weights do not fit the header, or are not finite."""
    parts: Mapping[str, str] = field(default_factory=dict)
    """First word of the tensors' names -> what they belong to, for `checkpoints info`."""
    import_file: ImportFile | None = None
    """Reads the published program's files; `None` where there is no such program."""
    export_tensors: ExportTensors | None = None
    """Gives a model's tensors as the published program wants them."""

    def stage(self, name: str) -> Stage:
        """Return a stage by its name."""
        return next(stage for stage in self.stages if stage.name == name)

    def stages_of(self, recipe: Recipe) -> tuple[Stage, ...]:
        """Return the stages that a recipe trains, in their order: those that it names, else all that are not optional.

        Raises:
            RecipeError: The recipe names one that the family has not.
        """
        known = [stage.name for stage in self.stages]
        if unknown := [name for name in recipe.stages if name not in known]:
            raise RecipeError(f"stages has {unknown[0]!r}", f"{self.name} has {', '.join(known)}")
        return tuple(
            stage for stage in self.stages if (stage.name in recipe.stages if recipe.stages else not stage.optional)
        )
