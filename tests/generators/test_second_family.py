"""The proof that the door is one: a family that the package has never heard of goes through every command."""

import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

PROGRAM = Path(__file__).parent / "gaussian.py"
RECIPE = """
family = "gaussian"
[data]
size = 32
[fit]
steps = 120
batch_size = 16
lr = 0.05
warmup_steps = 0
ema_decay = 0.0
precision = "fp32"
validate_every = 60
checkpoint_every = 20
preview_every = 0
[sampling]
truncation = 0.5
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("gaussian")
    (folder / "gaussian.toml").write_text(RECIPE)
    run(folder, "prepare", "phantom", "-n", "80", "--size", "32", "-o", "data")
    return folder


def words(*command: str) -> list[str]:
    return [sys.executable, str(PROGRAM), *command]


def environment(home: Path) -> dict[str, str]:
    return {**os.environ, "SYNTHMED_HOME": str(home / "home"), "OMP_NUM_THREADS": "1"}


def run(home: Path, *command: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(words(*command), cwd=home, env=environment(home), capture_output=True, text=True, timeout=300)
    assert done.returncode == code, done.stderr
    return done


def result(home: Path, *command: str):
    return json.loads(run(home, *command, "--json").stdout)


@pytest.fixture(scope="module")
def model(home) -> dict:
    """The model of `train`, which is killed once on the way."""
    command = ["train", "--recipe", "gaussian.toml", "--data", "data", "-o", "run"]
    process = subprocess.Popen(words(*command), cwd=home, env=environment(home), stderr=subprocess.DEVNULL)
    state, deadline = home / "run" / "fit" / "state.safetensors", time.monotonic() + 120
    while not state.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    (stage,) = result(home, *command)
    return stage


@pytest.fixture(scope="module")
def synthetic(home, model) -> Path:
    run(home, "generate", "--dataset", "phantom-fundus", "--balanced", "-n", "32", "--truncation", "0.25", "-o", "made")
    return home / "made"


def samples(folder: Path) -> dict[str, dict]:
    found = {}
    for shard in sorted(folder.glob("*.tar")):
        with tarfile.open(shard) as archive:
            for name in archive.getnames():
                if name.endswith(".json"):
                    found[name[:-5]] = json.loads(archive.extractfile(name).read())  # type: ignore[union-attr]
    return found


def test_killed_training_gives_the_model_of_an_undisturbed_one(home, model):
    (again,) = result(home, "train", "--recipe", "gaussian.toml", "--data", "data", "-o", "again")
    assert again["stage"] == "fit" and again["sha256"] == model["sha256"]
    assert model["validation_loss"] < 0.3  # 0.92 and more where nothing is learnt


def test_shards_say_the_family_and_its_settings(synthetic, model):
    for metadata in samples(synthetic).values():
        assert (metadata["family"], metadata["truncation"]) == ("gaussian", 0.25)
        assert metadata["synthetic"] is True and metadata["checkpoint_sha256"] == model["sha256"]
        assert "sampler" not in metadata and "eta" not in metadata
    stored = json.loads((synthetic / ".synthmed" / "run.json").read_text())
    assert stored["family"] == "gaussian" and stored["sampler"] == {"truncation": 0.25}
    assert "truncation 0.25" in (synthetic / "README.md").read_text()


def test_same_command_goes_on_and_other_settings_are_refused(home, synthetic):
    command = ["generate", "--dataset", "phantom-fundus", "--balanced", "-n", "32", "-o", "made"]
    assert result(home, *command, "--truncation", "0.25")["made_now"] == 0
    assert "truncation" in run(home, *command, code=3).stderr  # the recipe's preset is 0.5


def test_image_is_made_again(home, synthetic):
    key = list(samples(synthetic))[5]
    found = result(home, "regenerate", "made", key, "-o", "one.png")
    assert found["same"] and found["largest_difference"] == 0
    assert np.asarray(Image.open(home / "one.png")).shape == (32, 32, 3)


def test_plan_and_streams_work(home, synthetic):
    plan = result(home, "generate", "--dataset", "phantom-fundus", "--balanced", "-n", "8", "--dry-run")
    assert plan["settings"] == "truncation 0.5"
    command = ("generate", "--dataset", "phantom-fundus", "--balanced", "-n", "32", "--truncation", "0.25")
    done = subprocess.run(
        words(*command, "--shards", "2", "-o", "-"), cwd=home, env=environment(home), capture_output=True, check=True
    )
    assert done.stdout == (synthetic / "train-000002.tar").read_bytes()


def test_shards_are_verified_and_inspected_like_any_others(home, synthetic):
    run(home, "verify", "made")
    assert result(home, "inspect", "made")["kind"] == "synthetic"


def test_images_are_studied_and_scored(home, synthetic):
    study = ("--model", "resnet10t", "--steps", "4", "--batch-size", "8", "--seeds", "1", "-o", "worth")
    found = result(home, "train-classifier", "--real", "data", "--synthetic", "made", *study)
    assert {"real", "synthetic", "both"} == set(found["arms"])
    run(
        home,
        "evaluate",
        "--real",
        "data",
        "--synthetic",
        "made",
        "--features",
        "radiomic",
        "--checks",
        "artefacts",
        "-o",
        "scores",
    )


def test_model_is_listed_and_described(home, model):
    (entry,) = (one for one in result(home, "checkpoints", "list") if one["family"] == "gaussian")
    assert entry["sampling"] == {"truncation": 0.5} and entry["build"] == {"cell": 4}
    info = result(home, "checkpoints", "info", "run")
    assert info["parameters"] == {"gaussian": 2 * 2 * 3 * 8 * 8} and info["sha256"] == model["sha256"]
    shown = run(home, "recipes", "show", "gaussian.toml").stdout
    assert "sampling.truncation" in shown and "factor of every deviation" in shown


def test_settings_of_another_family_are_refused_by_name(home, model):
    command = ("generate", "--dataset", "phantom-fundus", "--balanced", "-n", "8", "-o", "no")
    assert "--eta means nothing to a model of the family gaussian" in run(home, *command, "--eta", "0", code=2).stderr
    assert (
        "has no stage diffusion"
        in run(home, "train-diffusion", "--recipe", "gaussian.toml", "--data", "data", "-o", "no", code=2).stderr
    )
    assert not (home / "no").exists()


def test_package_without_the_family_says_so(home, model):
    command = [sys.executable, "-m", "synthmed", "generate", "--checkpoint", "run/fit/model.safetensors", "-n", "8"]
    done = subprocess.run(command, cwd=home, env=environment(home), capture_output=True, text=True)
    assert done.returncode == 3 and done.stderr.count("\n") == 1
    assert "family 'gaussian'" in done.stderr
