"""The whole chain on phantoms with the tiny recipe, through the program itself: every command, kills and resumes."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("chain")


def environment(home: Path) -> dict[str, str]:
    # One thread: two processes on two cores would wait for each other.
    return {**os.environ, "SYNTHMED_HOME": str(home / "home"), "OMP_NUM_THREADS": "1"}


def synthmed(home: Path, *words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "synthmed", *words],
        cwd=home,
        env=environment(home),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == code, done.stderr
    return done


def result(home: Path, *words: str) -> dict:
    return json.loads(synthmed(home, *words, "--json").stdout)


def shard_hashes(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.glob("*.tar"))}


def kill_when(home: Path, words: list[str], ready, number: int) -> int:
    """Start a command, send it a signal once `ready()` is true, and return its exit code."""
    process = subprocess.Popen(
        [sys.executable, "-m", "synthmed", *words],
        cwd=home,
        env=environment(home),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    deadline = time.monotonic() + 120
    while not ready() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(number)
    process.communicate(timeout=60)
    return process.returncode


@pytest.fixture(scope="module")
def data(home) -> str:
    found = result(home, "prepare", "phantom", "-n", "200", "--size", "32", "-o", "data")
    assert found
    return "data"


@pytest.fixture(scope="module")
def autoencoder(home, data) -> dict:
    words = ["train-autoencoder", "--recipe", "tiny", "--data", data, "-o", "run"]
    state = home / "run" / "autoencoder" / "state.safetensors"
    assert kill_when(home, words, state.exists, signal.SIGKILL) in (0, -signal.SIGKILL)
    return result(home, *words)


@pytest.fixture(scope="module")
def model(home, data, autoencoder) -> dict:
    words = ["train-diffusion", "--recipe", "tiny", "--data", data, "-o", "run"]
    state = home / "run" / "diffusion" / "state.safetensors"
    assert kill_when(home, words, state.exists, signal.SIGTERM) in (0, 143)
    return result(home, *words)


@pytest.fixture(scope="module")
def adversarial(home, data, autoencoder) -> dict:
    words = ["train-autoencoder", "--adversarial", "--autoencoder", "run", "--recipe", "tiny", "--data", data]
    state = home / "sharp" / "adversarial" / "state.safetensors"
    assert kill_when(home, [*words, "-o", "sharp"], state.exists, signal.SIGKILL) in (0, -signal.SIGKILL)
    return result(home, *words, "-o", "sharp")


@pytest.fixture(scope="module")
def synthetic(home, model) -> Path:
    words = ["generate", "--dataset", "phantom-fundus", "--balanced", "-n", "48", "-o", "synthetic"]
    found = result(home, *words)
    assert found["images"] == {"no-glaucoma": 24, "glaucoma": 24}
    return home / "synthetic"


def test_autoencoder_learns_and_survives_a_kill(home, autoencoder):
    rows = [json.loads(line) for line in (home / "run/autoencoder/metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [30, 60]
    assert rows[-1]["validation_psnr_db"] > 14
    assert (home / "run/autoencoder/previews/step-0000060.png").read_bytes().startswith(b"\x89PNG")


def test_resumed_training_gives_the_same_model_as_an_undisturbed_one(home, data, model):
    synthmed(home, "train-autoencoder", "--recipe", "tiny", "--data", data, "-o", "again")
    again = result(home, "train-diffusion", "--recipe", "tiny", "--data", data, "-o", "again")
    assert again["sha256"] == model["sha256"]


def test_other_settings_are_refused_by_name(home, data, model):
    words = ["train-diffusion", "--recipe", "tiny", "--data", data, "-o", "run", "--set", "diffusion.lr=1e-5"]
    done = synthmed(home, *words, code=3)
    assert "diffusion.lr: 0.003 there, 1e-05 asked for" in done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_loss_that_is_not_finite_ends_with_one_line(home, data):
    words = ["train-autoencoder", "--recipe", "tiny", "--data", data, "-o", "broken"]
    done = synthmed(home, *words, "--set", "autoencoder.lr=1e30", "--set", "autoencoder.clip_norm=0", code=3)
    assert "not finite" in done.stderr.splitlines()[-1]


def test_generated_folder_says_what_it_is(synthetic):
    names = sorted(path.name for path in synthetic.glob("*.tar"))
    assert names == [f"train-{number:06d}.tar" for number in range(8)]
    with tarfile.open(synthetic / names[0]) as archive:
        members = archive.getnames()
        member = archive.extractfile(members[1])
        assert member is not None
        metadata = json.load(member)
    assert [name.partition(".")[2] for name in members[:3]] == ["cls", "json", "png"]
    assert metadata["synthetic"] is True
    assert metadata["sampler"] == "dpmpp-2m"
    assert len({name.partition(".")[0] for name in members}) == 6


def test_killed_generation_gives_the_same_bytes(home, synthetic):
    words = ["generate", "--dataset", "phantom-fundus", "--balanced", "-n", "48", "-o", "killed"]
    for shards in (1, 3):

        def ready(shards=shards):
            return len(list((home / "killed").glob("*.tar"))) >= shards

        kill_when(home, words, ready, signal.SIGKILL)
    synthmed(home, *words)
    assert shard_hashes(home / "killed") == shard_hashes(synthetic)
    assert not list((home / "killed").rglob("*.part"))


def test_batch_size_changes_an_image_by_rounding_at_most(home, synthetic):
    synthmed(
        home, "generate", "--dataset", "phantom-fundus", "--balanced", "-n", "48", "--batch-size", "5", "-o", "fives"
    )
    import numpy as np

    from synthmed.data.images import decode_image
    from synthmed.data.shards.read import open_folder
    from synthmed.data.shards.samples import read_image_bytes

    for one, other in zip(
        open_folder(synthetic, "train").entries, open_folder(home / "fives", "train").entries, strict=True
    ):
        a, b = (decode_image(read_image_bytes(entry), entry.key).astype(int) for entry in (one, other))
        assert one.key == other.key
        assert np.abs(a - b).max() <= 1


def test_generate_refuses_to_mix_two_commands(home, synthetic):
    words = ["generate", "--dataset", "phantom-fundus", "--balanced", "-n", "48", "-o", "synthetic", "--seed", "7"]
    done = synthmed(home, *words, code=3)
    assert "seed: 0 there, 7 asked for" in done.stderr


def test_classifier_compares_the_arms(home, data, synthetic):
    words = ["train-classifier", "--real", data, "--synthetic", "synthetic", "-o", "classifier"]
    words += ["--model", "resnet10t", "--steps", "4", "--seeds", "1", "--batch-size", "8"]
    found = result(home, *words)
    text = json.dumps(found)
    assert all(arm in text for arm in ("real", "synthetic", "both"))
    assert (home / "classifier" / "results.json").is_file()


def test_adversarial_stage_survives_a_kill_and_is_what_the_denoiser_is_trained_on(home, data, adversarial):
    rows = [json.loads(line) for line in (home / "sharp/adversarial/metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [10, 20]
    # The autoencoder is not destroyed.
    first = json.loads((home / "run/autoencoder/metrics.jsonl").read_text().splitlines()[-1])
    assert rows[-1]["validation_psnr_db"] > first["validation_psnr_db"] - 1
    words = ["train-diffusion", "--recipe", "tiny", "--data", data, "-o", "sharp", "--set", "diffusion.steps=1"]
    assert "autoencoder: sharp/adversarial/model.safetensors" in synthmed(home, *words).stderr


STAGES = {
    "diffusion": ["train-diffusion", "--set", "diffusion.steps=8"],
    "adversarial": ["train-autoencoder", "--adversarial"],
    "detail": ["train-autoencoder", "--detail", "--set", "detail.steps=8"],
}


@pytest.mark.parametrize("stage", STAGES)
def test_two_processes_train_what_one_trains(home, data, autoencoder, adversarial, stage):
    """The same global batches and noise on two gloo processes: equal up to the order of sums."""
    port = 20_000 + os.getpid() % 20_000
    words = [*STAGES[stage], "--recipe", "tiny", "--data", data, "--autoencoder", "run", "--device", "cpu"]
    alone = result(home, *words, "-o", "one")
    # That one, too, was killed and went on.
    assert stage != "adversarial" or alone["sha256"] == adversarial["sha256"]
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(port)]
    done = subprocess.run(
        [*launch, "-m", "synthmed", *words, "-o", "two"],
        cwd=home,
        env=environment(home),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    from synthmed.formats.model_files import load_tensors

    one, two = (load_tensors(home / run / stage / "model.safetensors") for run in ("one", "two"))
    for name, tensor in one.items():
        assert (tensor - two[name]).abs().max() < 1e-4, name
    rows = [(home / run / stage / "metrics.jsonl").read_text().splitlines() for run in ("one", "two")]
    assert len(rows[0]) == len(rows[1])
