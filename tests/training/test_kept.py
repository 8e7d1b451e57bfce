"""Which averaged weights become the model: those of the lowest validation loss, or the last."""

import dataclasses
import json
import os
import signal
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils.data import TensorDataset

from synthmed.errors import CheckpointError, Interrupted
from synthmed.training.config import StageConfig
from synthmed.training.loop import MODEL_NAME, STATE_NAME, Trainer
from synthmed.training.state import save_state
from synthmed.training.task import TrainingStep
from synthmed.training.updates import Update

CONFIG = StageConfig(
    steps=15,
    batch_size=2,
    lr=1.0,
    warmup_steps=0,
    clip_norm=0.0,
    ema_decay=0.0,
    keep="best",
    precision="fp32",
    validate_every=2,
    checkpoint_every=3,
    preview_every=0,
)
BEST = 8


class Climb(TrainingStep):
    """Its one weight rises by 1 in each step, from 0: after step n it is n, to the bit."""

    def __init__(self):
        super().__init__()
        self.network: nn.Linear = nn.Linear(1, 1, bias=False)
        nn.init.zeros_(self.network.weight)

    def updates(self, config):
        return [Update("network", self.network, self, config.lr, optimizer=partial(torch.optim.SGD))]

    def forward(self, batch, draw):
        return -self.network(batch[0]).mean(), {}


class Task:
    """Its validation loss is the squared distance to a weight: it falls and then rises."""

    num_workers = 0

    def __init__(self, at_step=None, target=7.2):
        self.step: TrainingStep = Climb()
        self.labels = torch.arange(6) % 2
        self.dataset: Any = TensorDataset(torch.ones(6, 1), self.labels)
        self.target = target
        if at_step:
            self.step.register_forward_pre_hook(lambda _, inputs: at_step(inputs[1].step))

    def validate(self, network):
        return {"validation_loss": (network.weight.item() - self.target) ** 2}

    def preview(self, network):
        return np.zeros((4, 4, 3), dtype=np.uint8)

    def save_model(self, path, network, facts):
        save_file(network.state_dict(), path, metadata={"facts": json.dumps(facts)})


class Blind(Task):
    def validate(self, network):
        return {"sharpness": 1.0}


class Lost(Task):
    """Its validation loss is never a number."""

    def validate(self, network):
        return {"validation_loss": float("nan")}


def run(folder, task=None, **changes):
    folder.mkdir(exist_ok=True)
    config = dataclasses.replace(CONFIG, **changes)
    return Trainer(task or Task(), config, folder, 0, torch.device("cpu")).run()


def model(folder):
    """Return weight and facts of the model file."""
    with safe_open(folder / MODEL_NAME, "pt") as file:
        return file.get_tensor("weight").item(), json.loads(file.metadata()["facts"])


def same_run(one, other):
    assert (one / MODEL_NAME).read_bytes() == (other / MODEL_NAME).read_bytes()
    a, b = load_file(one / STATE_NAME), load_file(other / STATE_NAME)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[key], b[key]) for key in a)


def test_weights_of_the_lowest_validation_loss_are_kept(tmp_path, capsys):
    figures = run(tmp_path)
    loss = pytest.approx(0.64)
    assert model(tmp_path) == (BEST, {"steps": 15, "finished": True, "kept_step": BEST, "validation_loss": loss})
    assert (figures["step"], figures["kept_step"], figures["kept_validation_loss"]) == (15, BEST, loss)
    assert figures["validation_loss"] == pytest.approx(7.8**2)
    assert "kept: step 8 of 15, validation loss 0.64 (last: 60.84)\n" in capsys.readouterr().err
    assert load_file(tmp_path / STATE_NAME)["averaged.weight"].item() == 15


def test_of_equal_losses_the_earlier_is_kept(tmp_path):
    assert run(tmp_path, Task(target=7.0))["kept_step"] == 6
    assert model(tmp_path)[0] == 6


@pytest.mark.parametrize(("target", "kept"), [(0, 2), (100, 15)], ids=["first", "last"])
def test_first_and_last_report_count(tmp_path, target, kept):
    assert run(tmp_path, Task(target=target))["kept_step"] == kept
    assert model(tmp_path)[0] == kept
    # Weights that are the present ones anyway are not stored twice.
    assert ("kept.weight" in load_file(tmp_path / STATE_NAME)) == (kept < 15)


@pytest.mark.parametrize("step", range(15))
def test_killed_run_keeps_the_same_weights(tmp_path, step):
    def crash(now):
        if now == step:
            raise KeyError("as if killed")

    whole = run(tmp_path / "whole")
    with pytest.raises(KeyError):
        run(tmp_path / "cut", Task(crash))
    cut = run(tmp_path / "cut")
    assert {**whole, "images_per_sec": 0} == {**cut, "images_per_sec": 0}
    same_run(tmp_path / "whole", tmp_path / "cut")


def test_run_that_is_stopped_in_every_step_keeps_the_same_weights(tmp_path):
    run(tmp_path / "whole")
    for step in range(14):
        with pytest.raises(Interrupted, match=f"step {step + 1} of 15 is saved"):
            run(tmp_path / "cut", Task(lambda _: os.kill(os.getpid(), signal.SIGTERM)))
        reports = range(2, step + 2, 2)
        expected = min(reports, key=lambda report: (report - 7.2) ** 2, default=step + 1)
        weight, facts = model(tmp_path / "cut")
        assert (weight, facts["steps"], facts.get("kept_step")) == (expected, step + 1, expected if reports else None)
    run(tmp_path / "cut")
    same_run(tmp_path / "whole", tmp_path / "cut")


@pytest.mark.parametrize("step", [3, 6, 9, 12, 15])
def test_kill_between_model_and_state_spoils_nothing(tmp_path, monkeypatch, step):
    def crash(path, done, *rest):
        if done == step:
            raise KeyError("as if killed")
        save_state(path, done, *rest)

    run(tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr("synthmed.training.loop.save_state", crash)
        with pytest.raises(KeyError):
            run(tmp_path / "cut")
    assert model(tmp_path / "cut")[1]["steps"] == step
    run(tmp_path / "cut")
    same_run(tmp_path / "whole", tmp_path / "cut")


def test_kept_weights_outlast_a_run_that_is_trained_longer(tmp_path, capsys):
    run(tmp_path, steps=11)
    loss = run(tmp_path)["kept_validation_loss"]
    assert loss == pytest.approx(0.64)
    assert model(tmp_path) == (BEST, {"steps": 15, "finished": True, "kept_step": BEST, "validation_loss": loss})
    assert "note:" not in capsys.readouterr().err


def test_finished_run_says_again_what_it_kept(tmp_path):
    assert run(tmp_path) == run(tmp_path)


def test_last_weights_are_the_model_where_that_is_asked_for(tmp_path, capsys):
    figures = run(tmp_path, keep="last")
    assert model(tmp_path) == (15, {"steps": 15, "finished": True})
    assert "kept_step" not in figures and "kept" not in capsys.readouterr().err
    with safe_open(tmp_path / STATE_NAME, "pt") as file:
        assert file.metadata().keys() == {"step", "task"}
        assert {*file.keys()} == {"averaged.weight", "network.weight"}


@pytest.mark.parametrize("make", [Blind, Lost])
def test_last_weights_are_the_model_where_no_loss_is_known(tmp_path, make, capsys):
    assert "kept_step" not in run(tmp_path, make(), steps=8)
    run(tmp_path, make())
    assert model(tmp_path) == (15, {"steps": 15, "finished": True})
    assert "note:" not in capsys.readouterr().err


def test_state_of_an_earlier_version_is_compared_from_where_it_is(tmp_path, capsys):
    run(tmp_path, keep="last", steps=11)
    capsys.readouterr()
    assert run(tmp_path)["kept_step"] == 12
    said = [line for line in capsys.readouterr().err.splitlines() if "note:" in line]
    assert len(said) == 1 and "does not say which weights were the best so far" in said[0]
    assert model(tmp_path)[0] == 12
    run(tmp_path)
    assert "note:" not in capsys.readouterr().err


def test_finished_run_of_an_earlier_version_stays_as_it_is(tmp_path, capsys):
    run(tmp_path, keep="last")
    before = (tmp_path / MODEL_NAME).read_bytes()
    assert "kept_step" not in run(tmp_path)
    assert (tmp_path / MODEL_NAME).read_bytes() == before
    assert "note:" not in capsys.readouterr().err


@pytest.mark.parametrize("spoil", ["facts", "weights"])
def test_state_whose_kept_weights_are_broken_is_refused(tmp_path, spoil):
    run(tmp_path, steps=11)
    tensors = load_file(tmp_path / STATE_NAME)
    with safe_open(tmp_path / STATE_NAME, "pt") as file:
        metadata = file.metadata()
    if spoil == "facts":
        metadata["kept"] = '{"kept_step": 8}'
    else:
        del tensors["kept.weight"]
    save_file(tensors, tmp_path / STATE_NAME, metadata=metadata)
    with pytest.raises(CheckpointError, match=r"(?s)cannot resume from .*--overwrite starts anew"):
        run(tmp_path)


def test_averaged_weights_are_what_is_compared_and_kept(tmp_path):
    """They lag behind, so that another step's are the best; averaged here by hand."""
    run(tmp_path, Task(target=6.9), ema_decay=0.9)
    weights = [0.0]
    for step in range(15):
        decay = min(0.9, (1 + step) / (10 + step))
        weights.append(decay * weights[-1] + (1 - decay) * (step + 1))
    assert abs(6 - 6.9) < abs(8 - 6.9) and abs(weights[8] - 6.9) < abs(weights[6] - 6.9)
    weight, facts = model(tmp_path)
    assert (weight, facts["kept_step"]) == (pytest.approx(weights[8], rel=1e-6), 8)
