"""Shards that a run works with: other ones are noticed when it goes on, whatever their stats files state."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import synthmed.data.shards.inputs as inputs
from synthmed.data.images import encode_image
from synthmed.data.shards.plan import RUN_FILE, shard_name, stats_path
from synthmed.data.shards.read import open_folder
from synthmed.data.shards.write import Sample, write_shard
from synthmed.errors import ResumeError
from synthmed.files.atomic import write_json

CONFIG = {"seed": 1}
CHANGED = "the source has changed since it was checked: "


def write(folder: Path, number: int, seed: int) -> Path:
    pixels = np.random.default_rng(seed).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
    samples = [
        Sample(f"k{number}-{label}", encode_image(pixels[label], "png"), "png", label, {"label_name": "ab"[label]})
        for label in (0, 1)
    ]
    path = folder / shard_name("train", number)
    path.unlink(missing_ok=True)  # a finished one would be left
    write_shard(path, samples)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(3):
        write(tmp_path / "shards", number, number)
    return tmp_path / "shards"


def claim(folder: Path, output: Path, *, overwrite: bool = False, name: str = "config.json") -> bool:
    return inputs.open_run(output, CONFIG, {"train": open_folder(folder, "train")}, name=name, overwrite=overwrite)


def say_old(output: Path) -> None:
    """As if the run had been begun long after its shards were written."""
    os.utime(output / "inputs.json", (2e9, 2e9))


def swap(folder: Path) -> None:
    """Put other pixels into a shard: same size, same time, and the stats file of before."""
    path = folder / shard_name("train", 1)
    before, stats = path.stat(), stats_path(path).read_bytes()
    write(folder, 1, 99)
    stats_path(path).write_bytes(stats)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size


def rename_classes(folder: Path) -> None:
    described = {"kind": "real", "dataset": "x", "classes": ["cat", "dog"], "aliases": {}}
    write_json(folder / RUN_FILE, {"folder": described})


@pytest.mark.parametrize("old", [True, False])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (swap, r"train-000001\.tar, 1 file "),
        (lambda folder: write(folder, 1, 99), r"train-000001\.tar, 1 file "),
        (lambda folder: [write(folder, number, 99) for number in range(3)], r"train-000000\.tar, 3 files "),
        (lambda folder: write(folder, 3, 3), r"train-000003\.tar, 1 file "),
        (lambda folder: (folder / shard_name("train", 2)).unlink(), r"train-000002\.tar, 1 file "),
        (rename_classes, r"run\.json, 1 file "),
    ],
)
def test_other_shards_are_refused(
    folder: Path, tmp_path: Path, change: Callable[[Path], object], words: str, old: bool
) -> None:
    assert claim(folder, tmp_path / "out") is False
    if old:
        say_old(tmp_path / "out")
    change(folder)
    for _ in range(2):
        with pytest.raises(ResumeError, match=f"{CHANGED}.*{words}"):
            claim(folder, tmp_path / "out")
    assert claim(folder, tmp_path / "out", overwrite=True) is False


@pytest.mark.parametrize("stats", [True, False])
def test_touched_and_copied_shards_are_the_same(folder: Path, tmp_path: Path, stats: bool) -> None:
    if not stats:
        shutil.rmtree(folder / ".synthmed")
    claim(folder, tmp_path / "out")
    say_old(tmp_path / "out")
    (folder / shard_name("train", 0)).touch()
    assert claim(folder, tmp_path / "out") is True
    shutil.copytree(folder, tmp_path / "copy")
    shutil.rmtree(folder)
    (tmp_path / "copy").rename(folder)
    assert claim(folder, tmp_path / "out") is True


def test_shards_that_nobody_touched_are_not_read(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    claim(folder, tmp_path / "out")
    say_old(tmp_path / "out")
    monkeypatch.setattr(inputs, "hash_file", None)
    assert claim(folder, tmp_path / "out") is True


def test_run_of_an_earlier_version_goes_on(folder: Path, tmp_path: Path) -> None:
    claim(folder, tmp_path / "out", name=".synthmed/run.json")
    (tmp_path / "out/.synthmed/inputs.json").unlink()
    assert claim(folder, tmp_path / "out", name=".synthmed/run.json") is True
