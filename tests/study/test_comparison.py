"""Rules of `synthmed train-classifier`: guards, results, resume, exit codes."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from synthmed.classifier.config import ClassifierConfig
from synthmed.classifier.training import Placement, mixed_batches
from synthmed.cli import app
from synthmed.data.shards.plan import RUN_FILE, shard_name
from synthmed.data.shards.write import Sample, write_shard
from synthmed.files.atomic import write_json
from synthmed.metrics.statistics import auroc
from synthmed.study import comparison
from synthmed.study.folders import open_comparison

Run = Callable[..., tuple[int, str, str]]


def png(label: int, seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 120, (32, 32, 3), dtype=np.uint8)
    pixels[4 + 12 * label : 16 + 12 * label, 4:28] += 100
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return file.getvalue()


def write_split(
    folder: Path, split: str, *, count: int = 16, name: str = "", group: str = "", labels: Sequence[int] = (0, 1)
) -> None:
    samples = [
        Sample(
            f"{name or split}-{number:03d}",
            png(labels[number % len(labels)], number),
            "png",
            labels[number % len(labels)],
            # Two images a patient.
            {"group": f"{group or name or split}-{number // 2}"},
        )
        for number in range(count)
    ]
    path = folder / shard_name(split, 0)
    path.unlink(missing_ok=True)  # a finished one would be left
    write_shard(path, samples)


def describe(folder: Path, kind: str, classes: Sequence[str] = ("healthy", "ill"), **more: object) -> Path:
    described = {"kind": kind, "dataset": "squares", "classes": list(classes), "aliases": {}, "positive": classes[1]}
    write_json(folder / RUN_FILE, {"folder": {**described, **more}})
    return folder


def read_predictions(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO((folder / "predictions.csv").read_text())))


@pytest.fixture
def real(tmp_path: Path) -> Path:
    for split in ("train", "test"):
        write_split(tmp_path / "real", split)
    return describe(tmp_path / "real", "real")


@pytest.fixture
def synthetic(tmp_path: Path) -> Path:
    write_split(tmp_path / "synthetic", "train", name="made")
    return describe(tmp_path / "synthetic", "synthetic")


@pytest.fixture
def run(monkeypatch, capsys) -> Iterator[Run]:
    """Run `synthmed train-classifier` in this process; gives exit code, stdout and stderr."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def run_command(*words: object) -> tuple[int, str, str]:
        small = ["--model", "test_resnet", "--steps", "2", "--batch-size", "4", "--seeds", "2", "--device", "cpu"]
        monkeypatch.setattr(sys, "argv", ["synthmed", "train-classifier", *small, *map(str, words)])
        with pytest.raises(SystemExit) as caught:
            app.main()
        out, err = capsys.readouterr()
        assert isinstance(caught.value.code, int)
        return caught.value.code, out, err

    yield run_command
    for number, handler in handlers.items():
        signal.signal(number, handler)


def test_results_hold_every_arm_seed_and_image(run, real, synthetic, tmp_path):
    code, out, _ = run("--real", real, "--synthetic", synthetic, "-o", tmp_path / "o", "--json")
    assert code == 0
    results = json.loads(out)
    assert results == json.loads((tmp_path / "o" / "results.json").read_text())
    assert list(results["arms"]) == ["real", "synthetic", "both"]
    assert results["positive"] == "ill"
    assert results["settings"]["steps"] == 2 and results["settings"]["precision"]
    assert results["data"]["synthetic"]["num_images"] == {"healthy": 8, "ill": 8}
    assert results["bootstrap"] == {"level": 0.95, "num_resamples": 2000, "num_units": 8, "unit": "group"}
    assert set(results["differences"]) == {"synthetic - real", "both - real"}
    rows = read_predictions(tmp_path / "o")
    assert len(rows) == 3 * 2 * 16
    assert rows[0]["key"] == "test-000" and rows[0]["group"] == "test-0" and rows[0]["label"] == "0"
    assert (tmp_path / "o" / "roc.png").read_bytes().startswith(b"\x89PNG")


def test_auroc_can_be_computed_again_from_the_predictions(run, real, tmp_path):
    run("--real", real, "--arms", "real", "-o", tmp_path / "o")
    results = json.loads((tmp_path / "o" / "results.json").read_text())
    rows = [row for row in read_predictions(tmp_path / "o") if row["repetition"] == "1"]
    probabilities = [[float(row["probability_healthy"]), float(row["probability_ill"])] for row in rows]
    expected = results["arms"]["real"]["trainings"][1]["auroc"]
    assert auroc(probabilities, [int(row["label"]) for row in rows], positive=1) == pytest.approx(expected, abs=1e-6)


def test_table_is_on_stdout_and_progress_on_stderr(run, real, tmp_path):
    code, out, err = run("--real", real, "--arms", "real", "--seeds", 1, "-o", tmp_path / "o")
    assert code == 0
    assert "AUROC of ill on 16 test images of 8 groups" in out and "difference" not in out
    assert err.startswith("real 1/1: AUROC ")


def test_interrupted_command_keeps_its_trainings_and_goes_on_to_the_same_results(
    run, real, synthetic, tmp_path, monkeypatch
):
    words = ["--real", real, "--synthetic", synthetic]
    run(*words, "-o", tmp_path / "whole")
    keep = write_json

    def keep_and_stop(path: Path, value: object) -> None:
        keep(path, value)
        if path.name == "synthetic-0.json":
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patched:
        patched.setattr(comparison, "write_json", keep_and_stop)
        code, out, err = run(*words, "-o", tmp_path / "cut")
    assert (code, out) == (143, "")
    assert "2 of 6 trainings are finished; run the same command again" in err
    assert not (tmp_path / "cut" / "results.json").exists()
    code, _, err = run(*words, "-o", tmp_path / "cut")
    assert code == 0 and "2 of 6 trainings were finished before" in err
    for name in ("predictions.csv", "roc.png"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_finished_command_trains_nothing_again(run, real, tmp_path, monkeypatch):
    first = run("--real", real, "--arms", "real", "-o", tmp_path / "o")
    monkeypatch.delattr(comparison, "train_network")
    assert run("--real", real, "--arms", "real", "-o", tmp_path / "o") == (0, first[1], "")


def test_other_settings_in_the_same_folder_are_refused_unless_overwritten(run, real, tmp_path):
    words = ["--real", real, "--arms", "real", "--seeds", 1, "-o", tmp_path / "o"]
    run(*words)
    code, _, err = run(*words, "--lr", 0.01)
    assert code == 3 and "lr: 0.001 there, 0.01 asked for" in err
    assert run(*words, "--lr", 0.01, "--overwrite")[0] == 0


def swap(shard: Path) -> None:
    """Change the pixels of a shard, but neither its size, nor its time, nor what its stats file states."""
    before = shard.stat()
    data = shard.read_bytes()
    at = data.index(b"IDAT") + 40
    shard.write_bytes(data[:at] + bytes(255 - byte for byte in data[at : at + 4]) + data[at + 4 :])
    os.utime(shard, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize(("place", "done"), [("real/test", 2), ("synthetic/train", 1)])
def test_shards_that_have_changed_are_refused(run, real, synthetic, tmp_path, place, done):
    words = ("--real", real, "--synthetic", synthetic, "--arms", "synthetic", "-o", tmp_path / "o")
    assert run(*words)[0] == 0
    for repetition in range(done, 2):
        (tmp_path / "o" / comparison.TRAININGS_FOLDER / f"synthetic-{repetition}.json").unlink()
    shard = tmp_path / f"{place}-000000.tar"
    shard.touch()
    assert run(*words)[0] == 0
    swap(shard)
    for _ in range(2):
        code, out, err = run(*words)
        assert (code, out) == (3, "")
        assert f"the source has changed since it was checked: {shard}, 1 file (" in err


def test_weights_that_have_changed_are_refused(run, real, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "synthmed.classifier.networks.load_weights_file", lambda path, *_: {"w": torch.tensor(float(path.read_text()))}
    )
    words = ("--real", real, "--arms", "real", "--seeds", 1, "--weights", tmp_path / "w.safetensors")
    for content, expected in (("1", 0), ("2", 3)):
        (tmp_path / "w.safetensors").write_text(content)
        code, _, err = run(*words, "-o", tmp_path / "o")
        assert code == expected
    assert "the source has changed since it was checked: the weights to start from (initial_weights: " in err


def test_overwrite_trains_anew(run, real, tmp_path):
    words = ("--real", real, "--arms", "real", "--seeds", 1, "-o", tmp_path / "o")
    run(*words)
    training = tmp_path / "o" / comparison.TRAININGS_FOLDER / "real-0.json"
    training.write_text(training.read_text().replace('"duration_sec": ', '"duration_sec": 1000'))
    before = training.read_bytes()
    run(*words)
    assert training.read_bytes() == before
    run(*words, "--overwrite")
    assert training.read_bytes() != before


def test_folder_with_other_files_is_not_written_to(run, real):
    code, _, err = run("--real", real, "--arms", "real", "-o", real, "--overwrite")
    assert code == 3 and "was not made by this command" in err
    assert (real / "train-000000.tar").exists()


def assert_refused(run: Run, real: Path, synthetic: Path, *parts: str) -> None:
    code, out, err = run("--real", real, "--synthetic", synthetic, "-o", real.parent / "o")
    assert (code, out) == (3, "")
    assert err.startswith("error: ") and err.count("\n") == 1
    for part in parts:
        assert part in err
    assert not (real.parent / "o").exists()


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (("healthy", "sick"), "the classes differ: sick of {synthetic} is none of healthy, ill of {real}"),
        (("well", "sick"), "the classes differ: well, sick of {synthetic} is none of healthy, ill of {real}"),
        (("ill", "pathological"), "several classes of {synthetic} mean ill"),
    ],
)
def test_unknown_or_doubly_meant_classes_are_refused(run, real, synthetic, classes, message):
    describe(real, "real", aliases={"pathological": "ill"})
    describe(synthetic, "synthetic", classes)
    assert_refused(run, real, synthetic, message.format(real=real, synthetic=synthetic))


@pytest.mark.parametrize("classes", [("RG", "NRG"), ("ill", "healthy"), ("nrg", "RG", "worse")])
def test_classes_of_the_synthetic_images_are_matched_by_name_or_alias(real, synthetic, classes):
    describe(real, "real", aliases={"NRG": "healthy", "RG": "ill"})
    describe(synthetic, "synthetic", classes)
    folders = open_comparison(real, synthetic)
    assert folders.train["synthetic"].classes.names == ("healthy", "ill")
    swapped = classes[0].lower() in ("rg", "ill")
    placement = Placement(torch.device("cpu"), torch.float32)
    settings = ClassifierConfig(batch_size=8)
    compared = comparison.Comparison(folders, settings, ("synthetic",), 1, None, placement, None, None)
    _, sources = comparison.load_images(compared)
    for images, labels in mixed_batches(sources, {"synthetic": 8}, steps=3, balanced=True, seed=0):
        # The bright square of a sample stored as class 0 lies in the upper half.
        stored = (images[:, 0, 16:].float().mean(dim=(1, 2)) > images[:, 0, :16].float().mean(dim=(1, 2))).int()
        assert labels.tolist() == [1 - label if swapped else label for label in stored.tolist()]
        assert sorted(labels.tolist()) == [0] * 4 + [1] * 4


def test_other_labels_are_other_training_data(real, synthetic):
    before = open_comparison(real, synthetic).train["synthetic"].content_hash
    describe(synthetic, "synthetic", ("ill", "healthy"))
    assert open_comparison(real, synthetic).train["synthetic"].content_hash != before
    describe(synthetic, "synthetic", ("Healthy", "Ill"))
    assert open_comparison(real, synthetic).train["synthetic"].content_hash == before


def test_shared_key_of_train_and_test_is_refused(run, real, synthetic):
    write_split(real, "train", name="test", group="other")
    assert_refused(run, real, synthetic, "share 16 image(s): test-000, test-001, test-002, ...")


def test_shared_group_of_train_and_test_is_refused(run, real, synthetic):
    write_split(real, "train", group="test")
    assert_refused(run, real, synthetic, "share 8 group(s): test-0, test-1")


def test_synthetic_key_of_a_test_image_is_refused(run, real, synthetic):
    write_split(synthetic, "train", name="test", group="other")
    assert_refused(run, real, synthetic, f"{synthetic} (train)", "share 16 image(s)")


@pytest.mark.parametrize("split", ["train", "test"])
def test_split_without_a_class_is_refused(run, real, synthetic, split):
    write_split(real, split, labels=(1,))
    assert_refused(run, real, synthetic, f"the {split} split of {real} has no image of class healthy")


def test_missing_split_is_refused(run, real, synthetic):
    (real / "test-000000.tar").unlink()
    assert_refused(run, real, synthetic, "no split 'test'")


def test_real_images_given_as_synthetic_are_refused(run, real, synthetic):
    describe(synthetic, "real")
    assert_refused(run, real, synthetic, "--synthetic", "says that its images are real")


def test_synthetic_images_given_as_real_are_refused(run, real, synthetic):
    describe(real, "synthetic")
    assert_refused(run, real, synthetic, "--real", "says that its images are synthetic")


def test_same_folder_given_twice_is_refused(run, real):
    assert_refused(run, real, real, "are the same")


def test_phantoms_may_stand_for_real_images_and_are_named(real, synthetic):
    describe(real, "phantom")
    (note,) = open_comparison(real, synthetic).notes
    assert "drawn phantoms" in note


def test_positive_class_comes_from_the_data_set(real, synthetic):
    describe(real, "real", positive="healthy")
    assert open_comparison(real, synthetic).classes.positive_label == 0
    describe(real, "real", positive="")
    assert open_comparison(real, synthetic).classes.positive_label == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--arms", "reel"], "did you mean real"),
        (["--arms", "both"], "--synthetic is needed"),
        (["--arms", "real", "--model", "resnt18"], "did you mean resnet18"),
        (["--arms", "real", "--device", "gpu"], "unknown device"),
        (["--arms", "real", "--pretrained", "--weights", __file__], "both given"),
        (["--arms", "real", "--real-share", "2"], "--real-share"),
    ],
)
def test_wrong_words_are_usage_errors(run, real, tmp_path, words, message):
    code, out, err = run("--real", real, "-o", tmp_path / "o", *words)
    assert (code, out) == (2, "") and message in err


def test_memory_used_up_is_a_device_error(run, real, tmp_path, monkeypatch):
    def exhausted(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(comparison, "train_network", exhausted)
    code, _, err = run("--real", real, "--arms", "real", "-o", tmp_path / "o")
    assert code == 4 and "use a smaller --batch-size" in err
