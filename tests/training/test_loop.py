"""The training loop: exact resume, several processes, and a stop before a broken step is taken."""

import dataclasses
import json
import os
import signal
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils.data import TensorDataset

from synthmed.errors import CheckpointError, Interrupted, TrainingError
from synthmed.runtime.processes import Processes
from synthmed.training.config import StageConfig
from synthmed.training.loop import MODEL_NAME, STATE_NAME, Trainer, learning_rate
from synthmed.training.task import Draw, TrainingStep

DATA = torch.randn(50, 4, generator=torch.Generator().manual_seed(3))
LABELS = torch.arange(50) % 2
CONFIG = StageConfig(
    steps=12,
    batch_size=4,
    lr=1e-2,
    warmup_steps=3,
    ema_decay=0.9,
    precision="fp32",
    validate_every=5,
    checkpoint_every=4,
    preview_every=6,
)


class NoisyRegression(TrainingStep):
    """Fits a line to noisy inputs, so that every step needs random numbers."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.network: nn.Linear = nn.Linear(4, 1)

    def forward(self, batch, draw: Draw):
        noisy = batch[0] + 0.1 * draw.normal(4)
        loss = (self.network(noisy)[:, 0] - batch[0].sum(dim=1) * draw.uniform()).pow(2).mean()
        return loss, {}


class Duel(NoisyRegression):
    """A second learner beside the first, with a loss and a learning rate of its own."""

    def __init__(self, scale=1.0):
        super().__init__()
        self.rival: nn.Linear = nn.Linear(4, 1)
        self.scale = scale

    def learners(self, config):
        return {**super().learners(config), "rival": (self.rival, 0.5)}

    def forward(self, batch, draw: Draw):
        loss, _ = super().forward(batch, draw)
        rival = (self.rival(batch[0])[:, 0] - 3).pow(2).mean() * self.scale
        return loss + rival, {"rival": rival}


class Task:
    """A task in memory; `at_step` is called before each step with its number."""

    num_workers = 0

    def __init__(self, at_step=None, step=None):
        self.step = step or NoisyRegression()
        self.dataset: Any = TensorDataset(DATA, LABELS)
        self.labels = LABELS
        if at_step:
            calls = iter(range(1000))
            self.step.register_forward_pre_hook(lambda *_: at_step(next(calls)))

    def validate(self, network):
        return {"validation_loss": network.weight.sum().item()}

    def preview(self, network):
        return np.zeros((4, 4, 3), dtype=np.uint8)

    def save_model(self, path, network, facts):
        save_file(network.state_dict(), path, metadata={key: str(value) for key, value in facts.items()})


def run(folder, task=None, config=CONFIG, seed=0):
    folder.mkdir(exist_ok=True)
    return Trainer(task or Task(), config, folder, seed, torch.device("cpu")).run()


def rows(folder):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [{key: value for key, value in json.loads(line).items() if key != "images_per_sec"} for line in lines]


@pytest.mark.parametrize("build", [NoisyRegression, Duel])
def test_interrupted_and_resumed_run_gives_the_same_bits(tmp_path, build):
    run(tmp_path / "whole", Task(step=build()))

    def interrupt(call):
        if call == 6:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted, match=r"SIGTERM: step 7 of 12 is saved") as caught:
        run(tmp_path / "cut", Task(interrupt, build()))
    assert caught.value.exit_code == 143
    run(tmp_path / "cut", Task(step=build()))
    for name in (STATE_NAME, MODEL_NAME):
        whole, cut = load_file(tmp_path / "whole" / name), load_file(tmp_path / "cut" / name)
        assert whole.keys() == cut.keys()
        assert all(torch.equal(whole[key], cut[key]) for key in whole)


def test_killed_run_goes_on_from_its_last_checkpoint(tmp_path):
    """A crash leaves metrics of steps after the checkpoint; they must not appear twice."""
    run(tmp_path / "whole")

    def crash(call):
        if call == 11:
            raise KeyError("as if killed")

    with pytest.raises(KeyError):
        run(tmp_path / "cut", Task(crash))
    assert [row["step"] for row in rows(tmp_path / "cut")] == [5, 10]
    with (tmp_path / "cut" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 1')  # cut short in the middle of a line
    run(tmp_path / "cut")
    assert [row["step"] for row in rows(tmp_path / "cut")] == [5, 10, 12]
    whole, cut = load_file(tmp_path / "whole" / MODEL_NAME), load_file(tmp_path / "cut" / MODEL_NAME)
    assert all(torch.equal(whole[key], cut[key]) for key in whole)


def test_finished_run_is_not_trained_again(tmp_path):
    first = run(tmp_path)
    before = (tmp_path / STATE_NAME).stat().st_mtime_ns

    def refuse(_call):
        raise AssertionError("no step is left")

    assert run(tmp_path, Task(refuse)) == first
    assert (tmp_path / STATE_NAME).stat().st_mtime_ns == before


def test_seed_decides_the_weights(tmp_path):
    run(tmp_path / "a", seed=1)
    run(tmp_path / "b", seed=2)
    a, b = load_file(tmp_path / "a" / MODEL_NAME), load_file(tmp_path / "b" / MODEL_NAME)
    assert not torch.equal(a["weight"], b["weight"])


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_loss_that_is_not_finite_stops_before_the_weights_change(tmp_path, broken):
    task = Task()
    calls = iter(range(1000))

    def spoil(_module, _inputs, output):
        loss, parts = output
        return (loss * broken if next(calls) == 9 else loss, parts)

    task.step.register_forward_hook(spoil)
    with pytest.raises(TrainingError, match="not finite at step 9") as caught:
        run(tmp_path, task)
    assert caught.value.exit_code == 3
    assert torch.isfinite(task.step.network.weight).all()
    # The last checkpoint is that of step 8, as if nothing had happened.
    assert run(tmp_path)["step"] == 12


def test_learners_are_clipped_and_paced_by_themselves(tmp_path):
    """However hard one pulls, the other learns what it would have learnt alone."""
    config = dataclasses.replace(CONFIG, clip_norm=0.1, warmup_steps=0)
    run(tmp_path / "alone", config=config)
    duel = Duel(scale=1e4)
    before = duel.rival.weight.detach().clone()
    run(tmp_path / "duel", Task(step=duel), config=config)
    alone, both = (load_file(tmp_path / name / STATE_NAME) for name in ("alone", "duel"))
    assert all(torch.equal(alone[key], both[key]) for key in alone if not key.startswith("optimizer."))
    # At the other's rate no weight could have come that far.
    assert (duel.rival.weight - before).abs().max() > 2 * config.lr * config.steps
    assert rows(tmp_path / "duel")[-1]["rival"] > 0


def test_gradient_of_any_learner_that_is_not_finite_stops(tmp_path):
    duel = Duel()
    duel.rival.weight.register_hook(lambda gradient: gradient * torch.nan)
    with pytest.raises(TrainingError, match="not finite at step 0"):
        run(tmp_path, Task(step=duel))
    assert torch.isfinite(duel.rival.weight).all()


def test_state_of_another_task_is_refused(tmp_path):
    run(tmp_path)
    with pytest.raises(CheckpointError, match=r"(?s)cannot resume from .* \(--overwrite starts anew\)"):
        run(tmp_path, Task(step=Duel()))


def test_metrics_are_logged_when_due_and_at_the_end(tmp_path):
    last = run(tmp_path)
    assert [row["step"] for row in rows(tmp_path)] == [5, 10, 12]
    assert last["step"] == 12
    previews = sorted(path.name for path in (tmp_path / "previews").iterdir())
    assert previews == ["step-0000006.png", "step-0000012.png"]


def test_averaged_weights_lag_behind_and_are_what_is_saved(tmp_path):
    run(tmp_path)
    state, model = load_file(tmp_path / STATE_NAME), load_file(tmp_path / MODEL_NAME)
    assert torch.equal(state["averaged.weight"], model["weight"])
    assert not torch.equal(state["network.weight"], model["weight"])


def test_draws_of_several_processes_are_parts_of_the_draw_of_one():
    whole = Draw(5, 2, 8, Processes())
    parts = [Draw(5, 2, 8, Processes(rank, 4)) for rank in range(4)]
    normal, uniform = whole.normal(3), whole.uniform()
    for rank, part in enumerate(parts):
        assert torch.equal(part.normal(3), normal[rank::4])
        assert torch.equal(part.uniform(), uniform[rank::4])


def test_learning_rate_rises_then_falls_to_zero():
    cosine = StageConfig(steps=110, lr=2.0, warmup_steps=10, lr_schedule="cosine")
    rates = [learning_rate(cosine, step, cosine.lr) for step in range(111)]
    assert rates[0] == pytest.approx(0.2)
    assert rates[9] == rates[10] == 2.0
    assert rates[60] == pytest.approx(1.0)
    assert rates[110] == pytest.approx(0, abs=1e-9)
    constant = StageConfig(steps=110, lr=2.0, warmup_steps=10)
    assert learning_rate(constant, 100, constant.lr) == 2.0


def test_batch_that_processes_cannot_share_is_refused(tmp_path):
    with pytest.raises(TrainingError, match="batch_size 4"):
        Trainer(Task(), CONFIG, tmp_path, 0, torch.device("cpu"), Processes(0, 3))
