"""The training loop: exact resume, several processes, and a stop before a broken step is taken."""

import dataclasses
import json
import os
import signal
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import TensorDataset

from synthmed.data.sets.batches import StepBatches
from synthmed.errors import CheckpointError, Interrupted, TrainingError
from synthmed.runtime.processes import Processes
from synthmed.training.config import StageConfig
from synthmed.training.draw import Draw
from synthmed.training.loop import CHECK_EVERY, MODEL_NAME, STATE_NAME, Trainer
from synthmed.training.task import TrainingStep
from synthmed.training.updates import Update

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

    def updates(self, config):
        return [*super().updates(config), Update("rival", self.rival, self.contend, 0.5)]

    def contend(self, batch, draw):
        # Through the network too, which must not feel it.
        rival = (self.rival(batch[0])[:, 0] - 3).pow(2).mean() * self.scale + self.network(batch[0]).mean()
        return rival, {"rival": rival}


class Restrained(NoisyRegression):
    """Its weights are pulled to zero in every third step, by the optimiser of the first update."""

    def updates(self, config):
        first = Update("network", self.network, self, config.lr, optimizer=partial(torch.optim.SGD, momentum=0.9))
        return [first, Update("network", self.network, self.restrain, config.lr, every=3)]

    def restrain(self, batch, draw):
        penalty = self.network.weight.pow(2).sum()
        return penalty, {"penalty": penalty}


class Task:
    """A task in memory; `at_step` is called before each step with its index."""

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


class AdaptiveTask(Task):
    """A task whose inputs are scaled by how training went, with a state of each kind."""

    def __init__(self, at_step=None):
        super().__init__(at_step)
        self.scale, self.seen, self.history = 1.0, 0, torch.zeros(3)
        self.step.register_forward_pre_hook(self.adapt)

    def adapt(self, _module, inputs):
        batch, draw = inputs
        self.scale *= 0.9 if float(self.step.network.weight.detach().sum()) > 0.1 * self.scale else 1.1
        self.seen += len(batch[0])
        self.history = torch.cat([self.history[1:], batch[0][0, :1]])
        return [batch[0] * self.scale + self.history.sum() / self.seen], draw

    def state_dict(self):
        return {"scale": self.scale, "seen": self.seen, "history": self.history}

    def load_state_dict(self, state):
        self.scale, self.seen, self.history = state["scale"], state["seen"], state["history"]


def same_files(one, other, names=(STATE_NAME, MODEL_NAME)):
    for name in names:
        a, b = load_file(one / name), load_file(other / name)
        assert a.keys() == b.keys()
        assert all(torch.equal(a[key], b[key]) for key in a)


def run(folder, task=None, config=CONFIG, seed=0):
    folder.mkdir(exist_ok=True)
    return Trainer(task or Task(), config, folder, seed, torch.device("cpu")).run()


def rows(folder):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [{key: value for key, value in json.loads(line).items() if key != "images_per_sec"} for line in lines]


@pytest.mark.parametrize(
    "make",
    [
        lambda hook=None: Task(hook),
        lambda hook=None: Task(hook, Duel()),
        lambda hook=None: Task(hook, Restrained()),
        AdaptiveTask,
    ],
    ids=["one", "two-learners", "every-third-step", "state-of-its-own"],
)
def test_interrupted_and_resumed_run_gives_the_same_bits(tmp_path, make):
    run(tmp_path / "whole", make())

    def interrupt(call):
        if call == 6:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted, match=r"SIGTERM: step 7 of 12 is saved") as caught:
        run(tmp_path / "cut", make(interrupt))
    assert caught.value.exit_code == 143
    run(tmp_path / "cut", make())
    same_files(tmp_path / "whole", tmp_path / "cut")


def test_state_of_the_task_comes_back_as_it_was(tmp_path):
    task = AdaptiveTask()
    run(tmp_path, task)
    again = AdaptiveTask()
    run(tmp_path, again)
    assert (again.scale, again.seen) == (task.scale, 48)
    assert isinstance(again.seen, int)
    assert torch.equal(again.history, task.history) and task.history.any()


@pytest.mark.parametrize("steps", [13, 20])
def test_finished_run_goes_on_to_more_steps_as_if_it_had_never_stopped(tmp_path, steps):
    longer = dataclasses.replace(CONFIG, steps=steps)
    run(tmp_path / "whole", Task(step=Duel()), longer)
    run(tmp_path / "cut", Task(step=Duel()))
    assert run(tmp_path / "cut", Task(step=Duel()), longer)["step"] == steps
    same_files(tmp_path / "whole", tmp_path / "cut")
    assert [row["step"] for row in rows(tmp_path / "cut")] == sorted({5, 10, 12, steps, min(steps, 15)})


def test_run_that_is_longer_already_is_refused(tmp_path):
    run(tmp_path)
    with pytest.raises(CheckpointError, match=r"is of step 12, and 9 are asked for \(--overwrite"):
        run(tmp_path, config=dataclasses.replace(CONFIG, steps=9))


def test_state_of_earlier_versions_is_read(tmp_path):
    """One optimiser had all learners' parameters, in their order."""
    duel = Duel()
    modules = {"averaged": duel.network, "network": duel.network, "rival": duel.rival}
    optimizer = torch.optim.AdamW([{"params": list(modules[name].parameters())} for name in ("network", "rival")])
    for parameter in (*duel.network.parameters(), *duel.rival.parameters()):
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    tensors = {f"{part}.{k}": v.clone() for part, module in modules.items() for k, v in module.state_dict().items()}
    for number, moments in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{number}.{name}": tensor for name, tensor in moments.items()}
    assert len(tensors) == 6 + 4 * 3
    save_file(tensors, tmp_path / STATE_NAME, metadata={"step": "12"})
    (tmp_path / "metrics.jsonl").write_text('{"step": 12}\n')
    trainer = Trainer(Task(step=Duel()), CONFIG, tmp_path, 0, torch.device("cpu"))
    trainer.run()
    trainer._save_state()
    again = load_file(tmp_path / STATE_NAME)
    assert again.keys() == tensors.keys()
    assert all(torch.equal(again[name], tensors[name]) for name in tensors)


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


def test_update_of_every_third_step_shares_the_optimiser_of_its_module(tmp_path):
    run(tmp_path, Task(step=Restrained()))
    state = load_file(tmp_path / STATE_NAME)
    assert {name for name in state if name.startswith("optimizer")} == {
        f"optimizer.{index}.momentum_buffer" for index in range(2)
    }
    by_hand = Restrained()
    optimizer = torch.optim.SGD(by_hand.network.parameters(), momentum=0.9)
    for step, batch in enumerate(StepBatches(LABELS, 4, 12, 0)):
        draw = Draw(0, step, 4, Processes())
        for loss in (by_hand, by_hand.restrain) if step % 3 == 0 else (by_hand,):
            optimizer.zero_grad()
            loss([DATA[batch]], draw)[0].backward()
            nn.utils.clip_grad_norm_(by_hand.network.parameters(), 1.0)
            optimizer.param_groups[0]["lr"] = 1e-2 * min(1.0, (step + 1) / 3)
            optimizer.step()
    assert torch.equal(state["network.weight"], by_hand.network.weight)
    # Logged as the mean over the steps that had it: 0 and 3 of the first five, 6 and 9 of the next.
    found = rows(tmp_path)
    assert all(0 < row["penalty"] < 4 for row in found[:2]) and "penalty" not in found[2]


def test_frozen_parameters_stay(tmp_path):
    task = Task()
    task.step.network.bias.requires_grad_(False)
    before = task.step.network.bias.clone()
    run(tmp_path, task)
    assert torch.equal(task.step.network.bias, before)


def test_gradient_of_any_learner_that_is_not_finite_stops(tmp_path):
    duel = Duel()
    duel.rival.weight.register_hook(lambda gradient: gradient * torch.nan)
    with pytest.raises(TrainingError, match="not finite at step 0"):
        run(tmp_path, Task(step=duel))
    assert torch.isfinite(duel.rival.weight).all()


class Aloof(Restrained):
    """Its optimiser keeps no step count, which AdamW reads in every step, from the CPU's memory on every device."""

    def __init__(self, spoilt_step=1000):
        super().__init__()
        self.spoilt_step = spoilt_step

    def forward(self, batch, draw):
        loss, parts = super().forward(batch, draw)
        return loss * (torch.nan if draw.step >= self.spoilt_step else 1), parts


class Waits(TorchDispatchMode):
    """Notes how many steps are done whenever a value is asked for: a GPU would have to be waited for."""

    def __init__(self, trainer):
        super().__init__()
        self.trainer, self.steps = trainer, set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default):
            self.steps.add(self.trainer.done)
        return func(*args, **(kwargs or {}))


def test_steps_do_not_wait_for_the_device_between_checks(tmp_path):
    config = dataclasses.replace(CONFIG, steps=25, validate_every=25, checkpoint_every=25, preview_every=0)
    trainer = Trainer(Task(step=Aloof()), config, tmp_path, 0, torch.device("cpu"))
    assert trainer.check_every == 1
    trainer.check_every = CHECK_EVERY
    with Waits(trainer) as waits:
        trainer.run()
    # The loader draws a seed when it starts; the rest are checks and what comes after the last step.
    assert waits.steps == {0, 10, 20, 25}


@pytest.mark.parametrize("due", ["validate_every", "checkpoint_every", "preview_every", None])
def test_late_check_names_the_first_broken_step_and_saves_nothing_broken(tmp_path, due):
    config = dataclasses.replace(CONFIG, steps=4)
    run(tmp_path, Task(step=Aloof()), config)
    before = (tmp_path / STATE_NAME).read_bytes()
    changes: dict[str, Any] = {"validate_every": 100, "checkpoint_every": 100, "preview_every": 0}
    config = dataclasses.replace(config, steps=30, **{**changes, **({due: 8} if due else {})})
    task = Task(step=Aloof(spoilt_step=5))
    trainer = Trainer(task, config, tmp_path, 0, torch.device("cpu"))
    trainer.check_every = CHECK_EVERY
    with pytest.raises(TrainingError, match=r"not finite at step 5: loss nan, gradient norm nan"):
        trainer.run()
    assert trainer.done == (8 if due else 10)
    assert not torch.isfinite(task.step.network.weight).any()
    assert (tmp_path / STATE_NAME).read_bytes() == before
    assert [row["step"] for row in rows(tmp_path)] == [4]
    assert [path.name for path in (tmp_path / "previews").iterdir()] == ["step-0000004.png"]


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


def test_batch_that_processes_cannot_share_is_refused(tmp_path):
    with pytest.raises(TrainingError, match="batch_size 4"):
        Trainer(Task(), CONFIG, tmp_path, 0, torch.device("cpu"), Processes(0, 3))
