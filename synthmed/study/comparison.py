"""The comparison of arms: which trainings are done, which are left, and their predictions on the real test images.

The unit of work is one training (an arm and the index of its repetition). Its predictions are stored when it is
finished, so the same command goes on with the next one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from synthmed.classifier.config import ClassifierConfig
from synthmed.classifier.training import Placement, mixed_batches, naming_lack_of_memory, predict, train_network
from synthmed.data.sets.image_set import ImageSet, open_images
from synthmed.files.atomic import write_json
from synthmed.files.content import read_json
from synthmed.files.outputs import STATE_FOLDER, open_output
from synthmed.metrics.statistics import auroc
from synthmed.runtime import device as devices
from synthmed.runtime.progress import log, progress
from synthmed.runtime.seeds import derive_seed
from synthmed.runtime.signals import StopSignal
from synthmed.study.arms import batch_shares
from synthmed.study.folders import CONFIG_FILE, ComparisonFolders

TRAININGS_FOLDER = f"{STATE_FOLDER}/trainings"


@dataclass(frozen=True)
class Training:
    """One finished training and its predictions for the test images."""

    arm: str
    repetition: int
    """Index among the trainings of its arm."""
    probabilities: NDArray[np.float64]
    """[N, K], in the order of the test split."""
    final_loss: float
    """Mean training loss of the last tenth of the steps."""
    duration_sec: float


@dataclass(frozen=True)
class Comparison:
    """What is compared, and how."""

    folders: ComparisonFolders
    config: ClassifierConfig
    arms: tuple[str, ...]
    repetitions: int
    """Trainings of each arm."""
    size: int | None
    """Side of the images in pixels; `None` takes the real images' own."""
    placement: Placement
    initial: Mapping[str, Tensor] | None = None
    """Weights that all trainings start from; `None` for random ones."""
    initial_name: str | None = None
    """What `initial` is, as part of the fingerprint."""

    def fingerprint(self) -> dict[str, Any]:
        """Return all that the predictions depend on."""
        return {
            **dataclasses.asdict(self.config),
            "arms": list(self.arms),
            "seeds": self.repetitions,
            "size": self.size,
            "initial_weights": self.initial_name,
            "device": self.placement.device.type,
            "precision": str(self.placement.dtype).removeprefix("torch."),
            "data": {
                "test": self.folders.test.content_hash,
                **{name: folder.content_hash for name, folder in self.folders.train.items()},
            },
        }

    def plan(self) -> list[tuple[str, int]]:
        """Return all trainings as (arm, repetition), in the order in which they run."""
        return [(arm, repetition) for repetition in range(self.repetitions) for arm in self.arms]


def run_comparison(comparison: Comparison, output: Path, *, overwrite: bool = False) -> list[Training]:
    """Run the trainings that are not yet done, and return all of them.

    Raises:
        ResumeError: The output folder holds other work.
        TrainingError: A loss is not finite.
        DeviceError: Memory is used up.
        Interrupted: A signal came; finished trainings are kept.
    """
    plan, config = comparison.plan(), comparison.config
    open_output(output, comparison.fingerprint(), name=CONFIG_FILE, overwrite=overwrite)
    paths = {unit: output / TRAININGS_FOLDER / f"{unit[0]}-{unit[1]}.json" for unit in plan}
    missing = [unit for unit in plan if not paths[unit].exists()]
    if missing:
        finished = len(plan) - len(missing)
        if finished:
            log(f"{finished} of {len(plan)} trainings were finished before")
        test, sources = load_images(comparison)
        total = len(plan) * config.steps
        with (
            StopSignal() as stop,
            progress("training classifiers", total, "steps", done=finished * config.steps) as advance,
        ):

            def on_step(done: int) -> None:
                advance(1)
                stop.check(f"{done} of {len(plan)} trainings are finished; run the same command again to go on")

            for done, (arm, repetition) in enumerate(missing, start=finished):
                training = _run_training(comparison, arm, repetition, sources, test, partial(on_step, done))
                plain = {**dataclasses.asdict(training), "probabilities": training.probabilities.tolist()}
                write_json(paths[arm, repetition], plain)
                _log_training(comparison, training)
    stored = [read_json(paths[unit]) for unit in plan]
    arrays = [np.asarray(found["probabilities"], dtype=np.float64) for found in stored]
    return [Training(**{**found, "probabilities": array}) for found, array in zip(stored, arrays, strict=True)]


def load_images(comparison: Comparison) -> tuple[ImageSet, dict[str, ImageSet]]:
    """Return the test images and those of each source that an arm needs, all of one size."""
    test = open_images(comparison.folders.test, size=comparison.size)
    needed = {source for arm in comparison.arms for source in batch_shares(arm, comparison.config)}
    side, _ = test.size
    sources = {name: open_images(comparison.folders.train[name], size=side) for name in sorted(needed)}
    for images in (test, *sources.values()):
        images.log_resized()
    return test, sources


def _run_training(
    comparison: Comparison,
    arm: str,
    repetition: int,
    sources: Mapping[str, ImageSet],
    test: ImageSet,
    on_step: Callable[[], None],
) -> Training:
    config, placement = comparison.config, comparison.placement
    batches = mixed_batches(
        sources,
        batch_shares(arm, config),
        steps=config.steps,
        balanced=config.balanced,
        seed=derive_seed(config.seed, "classifier-batches", arm, repetition),
    )
    timer = devices.Timer(placement.device)
    with naming_lack_of_memory(config, "use a smaller --batch-size, --size or --model"):
        network, final_loss = train_network(
            batches,
            num_classes=len(comparison.folders.classes),
            config=config,
            arm=arm,
            repetition=repetition,
            placement=placement,
            initial=comparison.initial,
            on_step=on_step,
        )
        probabilities = predict(network, test, placement.device)
    return Training(arm, repetition, probabilities, final_loss, timer.elapsed_sec())


def _log_training(comparison: Comparison, training: Training) -> None:
    labels = [entry.label for entry in comparison.folders.test.entries]
    score = auroc(training.probabilities, labels, comparison.folders.classes.positive_label)
    log(
        f"{training.arm} {training.repetition + 1}/{comparison.repetitions}: AUROC {score:.3f}, "
        f"training loss {training.final_loss:.3f}, {training.duration_sec:.0f} s"
    )
