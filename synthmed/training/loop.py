"""The training loop; what is trained comes in as a `Task`.

A run that was stopped and resumed gives the same weights to the bit, and one on several processes the same as on one,
up to the order of sums.
"""

from __future__ import annotations

import copy
import itertools
import math
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from synthmed.data.sets.batches import StepBatches
from synthmed.errors import CheckpointError, DeviceError, TrainingError
from synthmed.files.atomic import atomic_file
from synthmed.runtime import device as devices
from synthmed.runtime.processes import Processes
from synthmed.runtime.progress import log, progress
from synthmed.runtime.signals import StopSignal, leave_ctrl_c_to_parent
from synthmed.training.averaging import average_weights, averaging_decay
from synthmed.training.config import StageConfig
from synthmed.training.draw import Draw
from synthmed.training.figures import Figures
from synthmed.training.kept import Kept
from synthmed.training.learning_rates import learning_rate
from synthmed.training.metrics import append_row, drop_rows_after, last_row
from synthmed.training.state import AVERAGED, Stored, load_state, save_state
from synthmed.training.task import Stateful, Task
from synthmed.training.updates import set_gradients

STATE_NAME = "state.safetensors"
MODEL_NAME = "model.safetensors"
METRICS_NAME = "metrics.jsonl"
VALIDATION_LOSS = "validation_loss"
"""Name of the figure of `Task.validate` by which the best weights are known."""
CHECK_EVERY = 10
"""Steps between two looks at losses and signals where each look means to wait, for a GPU or for other processes."""


@dataclass
class Trainer:
    """One run of the loop.

    Args:
        task: What is trained.
        config: Steps, batch size, learning rate and the like.
        folder: Holds state, model, metrics and previews.
        seed: Seed of everything random.
        device: Device of this process.
        processes: All processes of this run.
    """

    task: Task
    config: StageConfig
    folder: Path
    seed: int
    device: torch.device
    processes: Processes = field(default_factory=Processes)

    def __post_init__(self) -> None:
        config, processes = self.config, self.processes
        if config.batch_size % processes.world:
            raise TrainingError(
                f"batch_size {config.batch_size} cannot be shared by {processes.world} processes",
                "set it to a multiple",
            )
        self.module = self.task.step.to(self.device)
        self.network = self.module.network
        self.averaged = copy.deepcopy(self.network).eval().requires_grad_(False)
        self.updates = self.module.updates(config)
        first = {update.name: update for update in reversed(self.updates)}
        self.trained = {name: first[name].module for name in dict.fromkeys(update.name for update in self.updates)}
        self.optimizers = {name: first[name].make_optimizer(config) for name in self.trained}
        self.kept = Kept(self.averaged) if config.keep == "best" and processes.main else None
        self.stored = Stored({AVERAGED: self.averaged, **self.trained}, list(self.optimizers.values()), self.kept)
        self.dtype = devices.select_dtype(config.precision, self.device)
        self.check_every = 1 if self.device.type == "cpu" and processes.world == 1 else CHECK_EVERY
        self.figures = Figures(processes)
        self.done = 0

    def run(self) -> dict[str, Any]:
        """Train to the last step, from the last checkpoint if there is one, and return the last figures.

        Where the best weights are kept, `kept_step` and `kept_validation_loss` are among the figures.

        Raises:
            TrainingError: A loss or a gradient is not finite; the last checkpoint is kept.
            CheckpointError: The checkpoint is broken, of something else, or of a later step than the last.
            Interrupted: A signal came; a checkpoint of this very step is on disk.
            DeviceError: The device is out of memory.
        """
        self._load_state()
        with StopSignal() as stop:
            try:
                self._run_steps(stop)
            except (RuntimeError, MemoryError) as error:
                if not devices.is_out_of_memory(error):
                    raise
                raise DeviceError("the device is out of memory", "lower batch_size and run again") from error
        self.processes.wait()
        return self._add_kept(last_row(self.folder / METRICS_NAME))

    def _add_kept(self, figures: dict[str, Any]) -> dict[str, Any]:
        """Return the last figures with those of the kept weights, and say on stderr which these are."""
        if self.kept is None or self.kept.step is None:
            return figures
        step, loss = self.kept.step, self.kept.loss
        log(f"kept: step {step} of {self.done}, validation loss {loss:.4g} (last: {figures[VALIDATION_LOSS]:.4g})")
        return {**figures, "kept_step": step, "kept_validation_loss": loss}

    def _run_steps(self, stop: StopSignal) -> None:
        self.started = time.monotonic()
        with progress(f"training {self.folder.name}", self.config.steps, "steps", self.done) as advance:
            for batch in self._load_batches():
                self._step(batch)
                self.done += 1
                advance(1)
                stopping = self._is_stopping(stop)
                self._look_after(stopping)
                if stopping and self.done < self.config.steps:
                    stop.received = stop.received or signal.SIGTERM  # another process was told to stop
                    stop.check(f"step {self.done} of {self.config.steps} is saved; the same command goes on from it")

    def _load_batches(self) -> DataLoader[Any]:
        config, processes = self.config, self.processes
        batches = StepBatches(
            self.task.labels,
            config.batch_size,
            config.steps,
            self.seed,
            start=self.done,
            balanced=config.balanced,
            rank=processes.rank,
            world=processes.world,
        )
        return DataLoader(
            self.task.dataset,
            batch_sampler=batches,
            num_workers=self.task.num_workers,
            worker_init_fn=leave_ctrl_c_to_parent,
            pin_memory=self.device.type == "cuda",
        )

    def _step(self, batch: list[Tensor]) -> None:
        """Take each update that is due in this step, and move the averaged weights."""
        step, config = self.done, self.config
        self.module.train()
        batch = [tensor.to(self.device, non_blocking=True) for tensor in batch]
        draw = Draw(self.seed, step, config.batch_size, self.processes, self.device)
        for update in self.updates:
            if step % update.every:
                continue
            optimizer = self.optimizers[update.name]
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(config, step, update.lr)
            with devices.autocast(self.device, self.dtype):
                loss, parts = update.loss(batch, draw)
            # Each by itself: what one of them meets must not slow the others.
            norm = set_gradients(loss, update.module, config.clip_norm or math.inf, self.processes)
            self.figures.add(step, loss, norm, parts)
            if self.check_every == 1:
                self._check()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.processes.share(itertools.chain.from_iterable(module.buffers() for module in self.trained.values()))
        average_weights(self.averaged, self.network, averaging_decay(step, config.ema_decay))

    def _is_stopping(self, stop: StopSignal) -> bool:
        """Say whether some process was told to stop; several processes ask one another now and then only."""
        if self.processes.world > 1 and self.done % self.check_every:
            return False
        return self.processes.any(stop.received is not None)[0]

    def _look_after(self, stopping: bool) -> None:
        """Check, report, preview and save what is due after this step; nothing unchecked is shown or saved."""
        config = self.config
        report, preview = self._due(config.validate_every), self._due(config.preview_every)
        save = stopping or self._due(config.checkpoint_every)
        if report or preview or save or self.done % self.check_every == 0:
            self._check()
        if report:
            self._report()
        if preview and self.processes.main:
            self._write_preview()
        if save:
            self._save_state()

    def _due(self, every: int) -> bool:
        """Say whether something is to be done after the present step; always after the last, never for 0."""
        return every > 0 and (self.done % every == 0 or self.done == self.config.steps)

    def _check(self) -> None:
        """Raise if a loss or a gradient since the last check was not finite."""
        if (broken := self.figures.find_broken()) is not None:
            step, loss, norm = broken
            raise TrainingError(
                f"the loss is not finite at step {step}: loss {loss:.4g}, gradient norm {norm:.4g}; "
                "the weights of the last checkpoint are kept",
                f"lower lr (now {self.config.lr:g}), raise warmup_steps, or set precision to fp32, in a new folder",
            )

    def _report(self) -> None:
        """Log the figures of the steps since the last report."""
        steps, losses = len(self.figures), self.figures.take_means()
        rate = steps * self.config.batch_size / (time.monotonic() - self.started)
        if self.processes.main:
            row = {"step": self.done, **losses, **self.task.validate(self.averaged)}
            row |= {"lr": learning_rate(self.config, self.done - 1, self.config.lr), "images_per_sec": round(rate, 2)}
            append_row(self.folder / METRICS_NAME, row)
            if self.kept is not None:
                self.kept.offer(self.averaged, self.done, row.get(VALIDATION_LOSS, math.inf))
            shown = "  ".join(f"{name} {value:.4g}" for name, value in row.items() if name != "step")
            log(f"step {self.done}/{self.config.steps}  {shown}")
        self.processes.wait()
        self.started = time.monotonic()

    def _write_preview(self) -> None:
        from PIL import Image

        with atomic_file(self.folder / "previews" / f"step-{self.done:07d}.png") as file:
            Image.fromarray(self.task.preview(self.averaged)).save(file, format="png")

    def _save_state(self) -> None:
        if self.processes.main:
            facts = {"steps": self.done, "finished": self.done == self.config.steps}
            if self.kept is None or self.kept.step is None:
                self.task.save_model(self.folder / MODEL_NAME, self.averaged, facts)
            else:
                self.task.save_model(self.folder / MODEL_NAME, self.kept.network, {**facts, **self.kept.facts})
            own = self.task.state_dict() if isinstance(self.task, Stateful) else {}
            save_state(self.folder / STATE_NAME, self.done, self.stored, own)
        self.processes.wait()

    def _load_state(self) -> None:
        """Go on from the last checkpoint if there is one, with the same weights in all processes in any case."""
        path = self.folder / STATE_NAME
        if path.exists():
            self.done, own = load_state(path, self.stored)
            if self.done > self.config.steps:
                raise CheckpointError(
                    f"{path} is of step {self.done}, and {self.config.steps} are asked for", "--overwrite starts anew"
                )
            if isinstance(self.task, Stateful) and own:
                self.task.load_state_dict(own)
            if self.processes.main:
                drop_rows_after(self.folder / METRICS_NAME, self.done)
                log(f"resuming at step {self.done} of {self.config.steps}")
                if self.kept is not None and not self.kept.restored and self.done < self.config.steps:
                    log(f"note: {path} does not say which weights were the best so far; they are compared from here on")
        for module in self.stored.modules.values():
            self.processes.share(itertools.chain(module.parameters(), module.buffers()))
