"""The training loop; what is trained comes in as a `Task`.

A run that was stopped and resumed gives the same weights to the bit, and one on several processes the same as on one,
up to the order of sums.
"""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from synthmed.data.sets.batches import StepBatches
from synthmed.errors import DeviceError, TrainingError
from synthmed.files.atomic import atomic_file, write_bytes
from synthmed.files.storage import naming_write_errors
from synthmed.runtime import device as devices
from synthmed.runtime.processes import Processes
from synthmed.runtime.progress import log, progress
from synthmed.runtime.signals import StopSignal
from synthmed.training.config import StageConfig
from synthmed.training.state import load_state, save_state
from synthmed.training.task import Draw, Task

STATE_NAME = "state.safetensors"
MODEL_NAME = "model.safetensors"
METRICS_NAME = "metrics.jsonl"
MAX_EMA_WARMUP = 10


@dataclass
class Trainer:
    """One run of the loop.

    Args:
        task: What is trained.
        config: Steps, batch size, learning rate and the like.
        folder: Holds state, model, metrics and previews.
        seed: Of everything random.
        device: Of this process.
        processes: All processes of this run.
    """

    task: Task
    config: StageConfig
    folder: Path
    seed: int
    device: torch.device
    processes: Processes = field(default_factory=Processes)

    def __post_init__(self) -> None:
        config = self.config
        if config.batch_size % self.processes.world:
            raise TrainingError(
                f"batch_size {config.batch_size} cannot be shared by {self.processes.world} processes",
                "set it to a multiple",
            )
        self.module = self.task.step.to(self.device)
        self.network = self.module.network
        self.averaged = copy.deepcopy(self.network).eval().requires_grad_(False)
        learners = self.module.learners(config)
        self.stored = {"averaged": self.averaged, **{name: module for name, (module, _) in learners.items()}}
        self.optimizer = torch.optim.AdamW(
            [{"params": list(module.parameters()), "lr": peak, "peak": peak} for module, peak in learners.values()],
            betas=(0.9, config.beta2),
            weight_decay=config.weight_decay,
        )
        self.dtype = devices.select_dtype(config.precision, self.device)
        self.done = 0

    def run(self) -> dict[str, Any]:
        """Train to the last step, from the last checkpoint if there is one, and return the last figures.

        Raises:
            TrainingError: The loss or the gradient is not finite; the weights stay as they were.
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
        return self._last_row()

    def _run_steps(self, stop: StopSignal) -> None:
        config, processes = self.config, self.processes
        wrapped = DistributedDataParallel(self.module) if processes.world > 1 else self.module
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
        loader = DataLoader(self.task.dataset, batch_sampler=batches, num_workers=self.task.num_workers)
        started, taken = time.monotonic(), list[dict[str, Tensor]]()
        with progress(f"training {self.folder.name}", config.steps, "steps", self.done) as advance:
            for batch in loader:
                taken.append(self._step(wrapped, batch))
                self.done += 1
                advance(1)
                (stopping,) = processes.any(stop.received is not None)
                last = self.done == config.steps
                if self._due(config.validate_every):
                    rate = len(taken) * config.batch_size / (time.monotonic() - started)
                    self._report(self._means(taken), rate)
                    started, taken = time.monotonic(), []
                if self._due(config.preview_every) and processes.main:
                    self._write_preview()
                if stopping or self._due(config.checkpoint_every):
                    self._save_state()
                if stopping and not last:
                    stop.received = stop.received or 15  # another process was told to stop
                    stop.check(f"step {self.done} of {config.steps} is saved; the same command goes on from it")

    def _due(self, every: int) -> bool:
        """Say whether something is to be done after the present step; always after the last, never for 0."""
        return every > 0 and (self.done % every == 0 or self.done == self.config.steps)

    def _means(self, taken: list[dict[str, Tensor]]) -> dict[str, float]:
        """Return the mean of each figure over steps and processes."""
        names = list(taken[0])
        values = torch.stack([torch.stack([step[name] for name in names]) for step in taken]).mean(dim=0)
        return dict(zip(names, self.processes.mean(values).tolist(), strict=True))

    def _step(self, wrapped: nn.Module, batch: list[Tensor]) -> dict[str, Tensor]:
        """Take one optimiser step and return its loss on this process, and the loss's parts."""
        config = self.config
        self.module.train()
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(config, self.done, group["peak"])
        draw = Draw(self.seed, self.done, config.batch_size, self.processes)
        with devices.autocast(self.device, self.dtype):
            loss, parts = wrapped([tensor.to(self.device) for tensor in batch], draw)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        limit = config.clip_norm or math.inf
        # Each learner by itself: what one of them meets must not slow the others.
        norms = [nn.utils.clip_grad_norm_(group["params"], limit) for group in self.optimizer.param_groups]
        norm = torch.stack(norms).max()
        (broken,) = self.processes.any(not bool(torch.isfinite(loss) & torch.isfinite(norm)))
        if broken:
            raise TrainingError(
                f"the loss is not finite at step {self.done}: loss {loss.item():.4g}, gradient norm {norm.item():.4g}; "
                "the weights of the last checkpoint are kept",
                f"lower lr (now {config.lr:g}), raise warmup_steps, or set precision to fp32, in a new folder",
            )
        self.optimizer.step()
        self._average()
        return {name: value.detach().float() for name, value in {"loss": loss, **parts}.items()}

    @torch.no_grad()
    def _average(self) -> None:
        """Move the averaged weights towards the trained ones, faster in the beginning."""
        decay = min(self.config.ema_decay, (1 + self.done) / (MAX_EMA_WARMUP + self.done))
        averaged: list[Tensor] = list(self.averaged.parameters())
        if self.config.ema_decay == 0:
            decay = 0.0
        torch._foreach_lerp_(averaged, list[Tensor](self.network.parameters()), 1 - decay)

    def _report(self, losses: Mapping[str, float], rate: float) -> None:
        """Log the figures of the steps since the last report."""
        if self.processes.main:
            figures = self.task.validate(self.averaged)
            row = {"step": self.done, **losses, **figures}
            row |= {"lr": learning_rate(self.config, self.done - 1, self.config.lr), "images_per_sec": round(rate, 2)}
            with naming_write_errors(self.folder), (self.folder / METRICS_NAME).open("a") as file:
                file.write(json.dumps(row) + "\n")
            shown = "  ".join(f"{name} {value:.4g}" for name, value in row.items() if name != "step")
            log(f"step {self.done}/{self.config.steps}  {shown}")
        self.processes.wait()

    def _write_preview(self) -> None:
        from PIL import Image

        with atomic_file(self.folder / "previews" / f"step-{self.done:07d}.png") as file:
            Image.fromarray(self.task.preview(self.averaged)).save(file, format="png")

    def _save_state(self) -> None:
        if self.processes.main:
            finished = self.done == self.config.steps
            self.task.save_model(self.folder / MODEL_NAME, self.averaged, {"steps": self.done, "finished": finished})
            save_state(self.folder / STATE_NAME, self.done, self.stored, self.optimizer)
        self.processes.wait()

    def _load_state(self) -> None:
        path = self.folder / STATE_NAME
        if not path.exists():
            return
        self.done = load_state(path, self.stored, self.optimizer)
        if self.processes.main:
            self._forget_rows_after(self.done)
            log(f"resuming at step {self.done} of {self.config.steps}")

    def _forget_rows_after(self, step: int) -> None:
        """Drop metrics that a killed run wrote after its last checkpoint: those steps are done again."""
        path = self.folder / METRICS_NAME
        if path.exists():
            rows = [line for line in path.read_text().splitlines() if _row_step(line) <= step]
            write_bytes(path, "".join(line + "\n" for line in rows).encode())

    def _last_row(self) -> dict[str, Any]:
        self.processes.wait()
        lines = (self.folder / METRICS_NAME).read_text().splitlines()
        return json.loads(lines[-1])  # type: ignore[no-any-return]


def _row_step(line: str) -> float:
    try:
        return int(json.loads(line)["step"])
    except ValueError:
        return math.inf  # a line cut short by a kill


def learning_rate(config: StageConfig, step: int, peak: float) -> float:
    """Return the learning rate of a step, counted from 0: a linear warm-up, then constant or a cosine to zero."""
    if config.lr_schedule == "constant" and step >= config.warmup_steps:
        return peak
    return warmup_cosine(step, peak, config.warmup_steps, config.steps)


def warmup_cosine(step: int, peak: float, warmup_steps: int, steps: int) -> float:
    """Return a rate that rises to its peak in a line and falls to zero in half a cosine."""
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup_steps) / max(1, steps - warmup_steps)))
