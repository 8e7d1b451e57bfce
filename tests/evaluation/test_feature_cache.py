"""Features computed once: the same from every source and batch size, resumed block by block, shared by processes."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from torch import Tensor

from synthmed.data.images import encode_image
from synthmed.data.pack.unpack import unpack_folder
from synthmed.data.sets.image_set import ImageSet
from synthmed.data.shards.write import Sample, write_shard
from synthmed.errors import DataError, DeviceError, Interrupted
from synthmed.evaluation import feature_cache
from synthmed.evaluation.content import open_by_content
from synthmed.evaluation.feature_cache import features
from synthmed.runtime.processes import Processes

CPU = torch.device("cpu")
COUNT, BLOCK, WIDTH = 23, 5, 4


class Linear:
    """A linear map of the pixels that counts what it is asked for."""

    name = "linear"
    num_features = WIDTH
    fingerprint = hashlib.sha256(b"linear").hexdigest()

    def __init__(self) -> None:
        self.batches: list[int] = []

    def __call__(self, images: Tensor) -> Tensor:
        assert images.dtype == torch.uint8
        self.batches.append(len(images))
        weights = torch.sin(torch.arange(3 * 16 * 16 * WIDTH, dtype=torch.float32)).view(-1, WIDTH)
        return (images.flatten(1).float() / 255) @ weights


def expected(images: ImageSet) -> np.ndarray[Any, Any]:
    weights = np.sin(np.arange(3 * 16 * 16 * WIDTH)).reshape(-1, WIDTH)
    return (images.load(range(len(images))).flatten(1).double().numpy() / 255) @ weights


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_cache, "BLOCK_IMAGES", BLOCK)
    monkeypatch.setattr(feature_cache, "POLL_SEC", 0.01)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "shards"
    rng = np.random.default_rng(0)
    samples = []
    for number in range(COUNT):
        image = encode_image(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8), "png")
        name = ("a", "b")[number % 2]
        samples.append(Sample(f"train-{number:04d}", image, "png", number % 2, {"label_name": name}))
    write_shard(folder / "train-000000.tar", samples)
    return folder


@pytest.fixture
def images(shards: Path) -> ImageSet:
    return open_by_content(str(shards))


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def the_file(cache: Path) -> Path:
    """Return the only file of the cache, which must hold nothing else."""
    (file,) = cache.iterdir()
    return file


def test_features_are_computed_once_and_stored_under_content_and_extractor(images: ImageSet, cache: Path) -> None:
    extractor = Linear()
    found = features(images, extractor, cache=cache, device=CPU)
    assert found.dtype == np.float32
    assert found.shape == (COUNT, WIDTH)
    assert found == pytest.approx(expected(images), abs=1e-4)
    assert the_file(cache).name == f"{images.content_hash}-{extractor.fingerprint}.safetensors"
    assert (load_file(the_file(cache))["features"] == found).all()
    extractor.batches.clear()
    assert (features(images, extractor, cache=cache, device=CPU) == found).all()
    assert extractor.batches == []
    other = Linear()
    other.fingerprint = hashlib.sha256(b"other").hexdigest()
    features(images, other, cache=cache, device=CPU)
    assert sum(other.batches) == COUNT
    assert len(list(cache.iterdir())) == 2


def test_tar_and_folder_share_one_entry(shards: Path, images: ImageSet, cache: Path, tmp_path: Path) -> None:
    unpack_folder(shards, tmp_path / "files")
    files = open_by_content(str(tmp_path / "files" / "train"))
    assert files.keys != images.keys
    found = features(images, Linear(), cache=cache, device=CPU)
    extractor = Linear()
    assert (features(files, extractor, cache=cache, device=CPU) == found).all()
    assert extractor.batches == []
    assert the_file(cache)


def test_neither_order_nor_batch_size_matters(images: ImageSet, cache: Path) -> None:
    order = np.random.default_rng(1).permutation(COUNT)
    scale = np.abs(expected(images)).max()
    wanted = features(images, Linear(), cache=None, device=CPU)
    for batch_size in (1, 2, 7, 100):
        for numbers in (np.arange(COUNT), order):
            found = features(images.subset(numbers), Linear(), cache=None, device=CPU, batch_size=batch_size)
            assert np.abs(found - wanted[numbers]).max() < 1e-6 * scale
    assert not cache.exists()


class Stopping(Linear):
    """Sends a signal to its own process in the middle of a block, once."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.after = after

    def __call__(self, images: Tensor) -> Tensor:
        if len(self.batches) == self.after:
            self.after = -1
            os.kill(os.getpid(), signal.SIGTERM)
        return super().__call__(images)


def test_interrupted_run_goes_on_after_its_last_whole_block(images: ImageSet, cache: Path, tmp_path: Path) -> None:
    features(images, Linear(), cache=tmp_path / "whole", device=CPU, batch_size=2)
    extractor = Stopping(after=7)  # three batches a block: in the middle of the third
    with pytest.raises(Interrupted, match="run the same command again"):
        features(images, extractor, cache=cache, device=CPU, batch_size=2)
    assert extractor.batches == [2, 2, 1, 2, 2, 1, 2, 2]
    extractor.batches.clear()
    features(images, extractor, cache=cache, device=CPU, batch_size=2)
    assert extractor.batches == [2, 2, 1, 2, 2, 1, 2, 1]
    assert the_file(cache).read_bytes() == the_file(tmp_path / "whole").read_bytes()


def spoil_end(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-2] ^= 1
    path.write_bytes(data)


def spoil_values(path: Path, change: Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]) -> None:
    """Write other features under the metadata that would be right."""
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        metadata = file.metadata()
    rows = np.ascontiguousarray(change(load_file(path)["features"]))
    save_file({"features": rows}, path, {**metadata, "sha256": hashlib.sha256(rows.data).hexdigest()})


def make_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


SPOILERS: dict[str, Callable[[Path], object]] = {
    "one bit": spoil_end,
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-5]),
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_bytes(b"features" * 100),
    "pickle": lambda path: path.write_bytes(b"\x80\x04cos\nsystem\n(S'false'\ntR."),
    "fewer rows": lambda path: spoil_values(path, lambda rows: rows[:-1]),
    "fewer columns": lambda path: spoil_values(path, lambda rows: rows[:, :-1]),
    "doubles": lambda path: spoil_values(path, lambda rows: rows.astype(np.float64)),
    "not finite": lambda path: spoil_values(path, lambda rows: np.where(rows == rows[1, 1], np.nan, rows)),
    "no metadata": lambda path: save_file(load_file(path), path),
    "other name": lambda path: save_file({"other": load_file(path)["features"]}, path),
    "pipe": make_pipe,
}


@pytest.mark.parametrize("name", SPOILERS)
def test_broken_or_foreign_file_is_computed_again(
    images: ImageSet, cache: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feature_cache, "BLOCK_IMAGES", COUNT)
    found = features(images, Linear(), cache=cache, device=CPU)
    good = the_file(cache).read_bytes()
    SPOILERS[name](the_file(cache))
    extractor = Linear()
    assert (features(images, extractor, cache=cache, device=CPU) == found).all()
    assert sum(extractor.batches) == COUNT
    assert the_file(cache).read_bytes() == good


def test_file_of_other_images_is_computed_again(images: ImageSet, cache: Path) -> None:
    """A file that was renamed holds whole features, of the wrong images."""
    other = images.subset(range(COUNT - 1, -1, -1))
    features(other, Linear(), cache=cache, device=CPU)
    wanted = features(images, Linear(), cache=None, device=CPU)
    the_file(cache).rename(cache / f"{images.content_hash}-{Linear.fingerprint}.safetensors")
    assert (features(images, Linear(), cache=cache, device=CPU) == wanted).all()


@pytest.fixture
def stopped(images: ImageSet, cache: Path) -> Iterator[Path]:
    """The folder of the blocks of a run that was stopped in its third block."""
    with pytest.raises(Interrupted):
        features(images, Stopping(after=2), cache=cache, device=CPU, batch_size=BLOCK)
    (folder,) = cache.iterdir()
    yield folder


@pytest.mark.parametrize("name", ["one bit", "cut", "fewer rows", "pipe"])
def test_broken_block_is_computed_again(images: ImageSet, cache: Path, stopped: Path, name: str) -> None:
    SPOILERS[name](stopped / "000001.safetensors")
    extractor = Linear()
    found = features(images, extractor, cache=cache, device=CPU)
    assert (found == features(images, Linear(), cache=None, device=CPU)).all()
    assert sum(extractor.batches) == COUNT - 2 * BLOCK


def test_block_of_another_place_is_not_taken(images: ImageSet, cache: Path, stopped: Path) -> None:
    (stopped / "000000.safetensors").replace(stopped / "000001.safetensors")
    found = features(images, Linear(), cache=cache, device=CPU)
    assert (found == features(images, Linear(), cache=None, device=CPU)).all()


def test_what_is_not_finite_is_refused_with_the_image(images: ImageSet, cache: Path) -> None:
    class Broken(Linear):
        def __call__(self, images: Tensor) -> Tensor:
            rows = super().__call__(images)
            rows[(images == bad).all(dim=3).all(dim=2).all(dim=1), 1] = np.nan
            return rows

    bad = images.load([8])
    with pytest.raises(DataError, match=f"linear has no finite features for {images.keys[8]}"):
        features(images, Broken(), cache=cache, device=CPU)


def test_smaller_batch_after_running_out_of_memory(
    images: ImageSet, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Small(Linear):
        def __call__(self, images: Tensor) -> Tensor:
            if len(images) > room:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().__call__(images)

    room = 2
    wanted = features(images, Linear(), cache=None, device=CPU, batch_size=2)
    assert (features(images, Small(), cache=cache, device=CPU, batch_size=4) == wanted).all()
    assert capsys.readouterr().err == (
        "note: out of memory with 4 images at once, going on with 2: the same features\n"
    )
    room = 0
    with pytest.raises(DeviceError, match="for a single image"):
        features(images, Small(), cache=None, device=CPU)


WORKER = """
import sys, time
from pathlib import Path
import torch
from synthmed.evaluation import feature_cache
from synthmed.evaluation.content import open_by_content
sys.path.insert(0, sys.argv[3])
from test_feature_cache import BLOCK, CPU, Linear
feature_cache.BLOCK_IMAGES, feature_cache.POLL_SEC = BLOCK, 0.01

class Slow(Linear):
    def __call__(self, images):
        time.sleep(0.2)
        return super().__call__(images)

extractor = Slow()
found = feature_cache.features(open_by_content(sys.argv[1]), extractor, cache=Path(sys.argv[2]), device=CPU)
print(sum(extractor.batches), found.tobytes().hex())
"""


@pytest.fixture
def other_process(shards: Path, cache: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that computes the same features, slowly, and has finished its first block."""
    words = [sys.executable, "-c", WORKER, str(shards), str(cache), str(Path(__file__).parent)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        while not list(cache.glob("*.blocks/*.safetensors")):
            assert process.poll() is None
            time.sleep(0.01)
        yield process
        process.kill()


def test_processes_share_the_blocks_and_all_get_all_features(
    images: ImageSet, cache: Path, other_process: subprocess.Popen[str]
) -> None:
    extractor = Linear()
    found = features(images, extractor, cache=cache, device=CPU)
    count, rows = other_process.communicate(timeout=60)[0].split()
    assert other_process.returncode == 0
    assert bytes.fromhex(rows) == found.tobytes() == features(images, Linear(), cache=None, device=CPU).tobytes()
    # Each did a part, and nothing was done twice.
    assert sum(extractor.batches) > 0
    assert sum(extractor.batches) + int(count) == COUNT
    assert the_file(cache).suffix == ".safetensors"


def test_killed_process_leaves_its_blocks_to_the_next(
    images: ImageSet, cache: Path, other_process: subprocess.Popen[str], tmp_path: Path
) -> None:
    os.kill(other_process.pid, signal.SIGKILL)
    other_process.wait()
    extractor = Linear()
    features(images, extractor, cache=cache, device=CPU)
    features(images, Linear(), cache=tmp_path / "whole", device=CPU)
    assert 0 < sum(extractor.batches) <= COUNT - BLOCK
    assert the_file(cache).read_bytes() == the_file(tmp_path / "whole").read_bytes()


def test_block_of_a_dead_process_is_taken_over(images: ImageSet, cache: Path) -> None:
    """While somebody holds the block it is left to them; when they are gone without it, it is computed here."""
    stored = feature_cache._Store(cache, images, Linear())
    extractor = Linear()
    held = stored.claim_block(2)
    assert held.__enter__()

    class Releasing(Linear):
        def __call__(self, images: Tensor) -> Tensor:
            extractor.batches.append(len(images))
            if len(extractor.batches) == 4:
                held.__exit__(None, None, None)
            return super().__call__(images)

    found = features(images, Releasing(), cache=cache, device=CPU)
    assert (found == features(images, Linear(), cache=None, device=CPU)).all()
    assert extractor.batches == [5, 5, 5, 3, 5]


def test_processes_begin_at_different_blocks(images: ImageSet) -> None:
    work = feature_cache._Work(images, Linear(), CPU, None)  # type: ignore[arg-type]
    assert [work.blocks(Processes(rank, 3))[0] for rank in range(3)] == [0, 1, 3]
    assert all(sorted(work.blocks(Processes(rank, 3))) == list(range(5)) for rank in range(3))
