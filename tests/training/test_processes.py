"""Two real processes that train together, over gloo: what they share, and how they stop.

Run as a program this file is one of the processes: `test_processes.py RANK WORLD FOLDER`.
"""

import itertools
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import distributed, nn
from torch.utils.data import TensorDataset

from synthmed.errors import Interrupted, TrainingError
from synthmed.runtime import processes as module
from synthmed.runtime.processes import Processes
from synthmed.training.config import StageConfig
from synthmed.training.draw import Draw
from synthmed.training.loop import CHECK_EVERY, MODEL_NAME, STATE_NAME, Trainer
from synthmed.training.task import TrainingStep
from synthmed.training.updates import Update

DATA = torch.randn(50, 4, generator=torch.Generator().manual_seed(3))
CONFIG = StageConfig(
    steps=24,
    batch_size=4,
    lr=1e-2,
    warmup_steps=3,
    weight_decay=0.1,
    ema_decay=0.9,
    keep="best",
    precision="fp32",
    validate_every=12,
    checkpoint_every=12,
    preview_every=0,
    balanced=True,
)


class Network(nn.Module):
    def __init__(self, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.used: nn.Linear = nn.Linear(4, 1)
        self.sometimes: nn.Linear = nn.Linear(4, 1)
        self.never: nn.Linear = nn.Linear(4, 1)
        self.mean: torch.Tensor
        self.register_buffer("mean", torch.randn(4))
        self.register_buffer("ready", torch.tensor(seed == 0))


class Step(TrainingStep):
    """Two learners with noise; some parameters are used by some samples, others by none."""

    network: Network

    def __init__(self, seed, spoilt=False, told=None):
        super().__init__()
        self.network = Network(seed)
        self.rival: nn.Linear = nn.Linear(4, 1)
        self.spoilt, self.told = spoilt, told

    def updates(self, config):
        return [*super().updates(config), Update("rival", self.rival, self.contend, 0.05, every=2)]

    def forward(self, batch, draw: Draw):
        if draw.step == self.told:
            os.kill(os.getpid(), signal.SIGTERM)
        rows, labels = batch
        rows = rows + 0.1 * draw.normal(4)
        errors = (self.network.used(rows)[:, 0] - rows.sum(dim=1) * draw.uniform()).pow(2)
        chosen = rows[:, 0] > 1
        if chosen.any():
            errors = errors + torch.where(chosen, self.network.sometimes(rows)[:, 0].pow(2), 0)
        self.network.mean.lerp_(rows.mean(dim=0), 0.1)
        spoilt = self.spoilt and draw.step >= 3
        return (errors * (1 + labels)).mean() * (torch.inf if spoilt else 1), {"coin": draw.coin()[0]}

    def contend(self, batch, draw):
        return (self.rival(batch[0])[:, 0] - self.network.used(batch[0])[:, 0]).pow(2).mean(), {}


class Task:
    num_workers = 0

    def __init__(self, step):
        self.step = step
        self.labels = torch.arange(50) % 2
        self.dataset: Any = TensorDataset(DATA, self.labels)
        self.reports = itertools.count()

    def validate(self, network):
        # Only ever the same or more: the first report of a run, or of its resumed half, is not beaten.
        return {"validation_loss": float(next(self.reports))}

    def preview(self, network):
        return np.zeros((4, 4, 3), dtype=np.uint8)

    def save_model(self, path, network, facts):
        save_file(network.state_dict(), path)


def train(folder, processes, **changes):
    folder.mkdir(exist_ok=True)
    # Weights that differ by process: those of the first count.
    step = Step(processes.rank, **changes)
    trainer = Trainer(Task(step), CONFIG, folder, 0, torch.device("cpu"), processes)
    try:
        trainer.run()
        outcome = "done"
    except (Interrupted, TrainingError) as error:
        outcome = str(error)
    save_file(step.state_dict(), folder / f"weights-{processes.rank}.safetensors")
    (folder / f"outcome-{processes.rank}.txt").write_text(outcome)


def main(rank, world, home):
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{home}/store", rank=rank, world_size=world)
    module.BUCKET_BYTES = 40  # so that ten numbers fill one
    processes = Processes(rank, world)
    train(home / "two", processes)
    train(home / "cut", processes, told=13 if rank == 1 else None)
    stopped = (home / "cut" / f"outcome-{rank}.txt").read_text()
    assert f"step {2 * CHECK_EVERY} of 24 is saved" in stopped, stopped
    train(home / "cut", processes)
    train(home / "spoilt", processes, spoilt=rank == 1)
    tensors = [torch.full((n,), float(rank + n)) for n in (3, 30, 1)]
    mixed = [torch.tensor([rank, 5]), torch.tensor(rank == 0), *tensors]
    averaged = [tensor.clone() for tensor in tensors]
    processes.average(averaged)
    processes.share(mixed)
    assert [tensor.tolist() for tensor in averaged] == [[n + 0.5] * n for n in (3, 30, 1)]
    assert [tensor.tolist() for tensor in mixed] == [[0, 5], True, *([float(n)] * n for n in (3, 30, 1))]
    assert processes.any(rank == 1, False) == [True, False]
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """The folder in which two processes have trained, and this one alone."""
    home = tmp_path_factory.mktemp("home")
    words = [[sys.executable, __file__, str(rank), "2", str(home)] for rank in range(2)]
    started = [subprocess.Popen(word, stderr=subprocess.PIPE, text=True) for word in words]
    ends = [process.communicate(timeout=120)[1] for process in started]
    assert [process.returncode for process in started] == [0, 0], "\n".join(ends)
    train(home / "one", Processes())
    return home


def outcomes(folder):
    return [(folder / f"outcome-{rank}.txt").read_text() for rank in range(2)]


def test_two_processes_train_what_one_trains(home):
    assert outcomes(home / "two") == ["done", "done"]
    one, two = (load_file(home / name / STATE_NAME) for name in ("one", "two"))
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        # Buffers are those of the first process, as its samples moved them.
        if not name.endswith("mean"):
            torch.testing.assert_close(two[name].float(), tensor.float(), rtol=1e-4, atol=1e-6, msg=name)
    torch.manual_seed(0)
    fresh = Network(0)
    assert torch.equal(two["network.never.weight"], fresh.never.weight)
    assert not torch.equal(two["network.sometimes.weight"], fresh.sometimes.weight)
    assert two["network.ready"]


def test_all_processes_end_with_the_same_weights_and_buffers(home):
    first, second = (load_file(home / "two" / f"weights-{rank}.safetensors") for rank in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    # Also in the step of the end of the run.
    assert torch.equal(load_file(home / "two" / STATE_NAME)["network.mean"], second["network.mean"])


def test_signal_to_one_process_stops_all_and_resumes_to_the_same_bits(home):
    assert (home / "cut" / STATE_NAME).exists()
    assert outcomes(home / "cut") == ["done", "done"]
    for name in (STATE_NAME, MODEL_NAME):
        whole, cut = load_file(home / "two" / name), load_file(home / "cut" / name)
        assert whole.keys() == cut.keys()
        assert all(torch.equal(whole[key], cut[key]) for key in whole)


def test_best_weights_are_kept_by_the_first_process_for_all(home):
    for name in ("one", "two", "cut"):
        state, model = load_file(home / name / STATE_NAME), load_file(home / name / MODEL_NAME)
        assert all(torch.equal(state[f"kept.{key}"], model[key]) for key in model)
        assert not torch.equal(state["averaged.used.weight"], model["used.weight"])


def test_loss_that_is_not_finite_in_one_process_stops_all_and_is_named(home):
    for outcome in outcomes(home / "spoilt"):
        assert "not finite at step 3: loss inf" in outcome
    assert not (home / "spoilt" / STATE_NAME).exists()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
