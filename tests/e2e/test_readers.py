"""One real and one synthetic folder of shards, read unmodified by the tools that people train with.

Every image is recognised by its pixels, so that no reader's account of what it has read has to be believed.
"""

from __future__ import annotations

import hashlib
import io
import json
import socket
import tarfile
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import DataLoader

import synthmed
from synthmed.data.images import encode_image
from synthmed.data.labels import Classes
from synthmed.data.shards.card import FolderInfo
from synthmed.data.shards.plan import shard_name
from synthmed.data.shards.side_files import write_side_files
from synthmed.data.shards.write import MetadataValue, Sample, write_shard
from synthmed.files.content import hash_file
from synthmed.generators.diffusion.settings import DiffusionSettings
from synthmed.generators.families import read_header
from synthmed.production.plan import GenerateConfig
from synthmed.production.run import generate

# webdataset and timm leave their tars open for the garbage collector to close.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")

SIZE = 16
REAL = {"train": [4] * 8, "validation": [3] * 4, "test": [2] * 4}
EPOCHS = 2

Seen = tuple[str, int]
"""An image, by the hash of its pixels, and its label."""


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three splits in two classes: 8 x 4, 4 x 3 and 4 x 2 images."""
    folder = tmp_path_factory.mktemp("real")
    info = FolderInfo(kind="real", dataset="pets", classes=Classes(("cat", "dog"), positive="dog"), size=SIZE)
    generator = np.random.default_rng(0)
    for split, lengths in REAL.items():
        for number, length in enumerate(lengths):
            samples = []
            for k in range(number * length, (number + 1) * length):
                image = generator.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
                metadata: dict[str, MetadataValue] = {"label": k % 2, "group": f"{split}-{k // 2}", "synthetic": False}
                samples.append(Sample(f"{split}-{k:07d}", encode_image(image, "png"), "png", k % 2, metadata))
            write_shard(folder / shard_name(split, number), samples)
    write_side_files(folder, info)
    return folder


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory: pytest.TempPathFactory, save_tiny_model: Any) -> Path:
    """What `synthmed generate` makes: 8 x 4 images for training."""
    path = tmp_path_factory.mktemp("synthetic")
    model = save_tiny_model(path / "tiny.safetensors")
    config = GenerateConfig(model, hash_file(model), read_header(model), (16, 16), 0, DiffusionSettings(steps=2))
    generate(config, path / "out", device="cpu")
    return path / "out"


@pytest.fixture(params=["real", "synthetic"])
def folder(request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue(request.param)


def recognise(image: NDArray[np.uint8], label: int) -> Seen:
    """Return what tells a sample from all others: `image` is [H, W, 3]."""
    return hashlib.sha256(np.ascontiguousarray(image).tobytes()).hexdigest(), int(label)


def written(folder: Path, split: str) -> Counter[Seen]:
    """Return the samples of a split as Python's own tar reader finds them, each once."""
    samples: Counter[Seen] = Counter()
    for path in folder.glob(f"{split}-*.tar"):
        with tarfile.open(path) as archive:
            members = {member.name: archive.extractfile(member) for member in archive}
            for name, file in members.items():
                if name.endswith(".png"):
                    image, label = file, members[name.replace(".png", ".cls")]
                    assert image is not None and label is not None
                    samples[recognise(np.asarray(Image.open(io.BytesIO(image.read()))), int(label.read()))] += 1
    assert set(samples.values()) == {1}
    return samples


def splits(folder: Path) -> list[str]:
    return list(json.loads((folder / "_info.json").read_bytes())["splits"])


# ---------------------------------------------------------------------------------------------------- webdataset


def test_webdataset_reads_every_sample_once(folder: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    shards = webdataset.WebDataset(f"{folder}/train-{{000000..000007}}.tar", shardshuffle=100)
    shards = shards.decode("pil").to_tuple("png", "cls")
    assert Counter(recognise(np.asarray(image), label) for image, label in shards) == written(folder, "train")


# ---------------------------------------------------------------------------------------------------------- timm


def read_with_timm(folder: Path, split: str, *, workers: int, batch_size: int, training: bool) -> list[Counter[Seen]]:
    """Return what timm's loader gives in each of two epochs."""
    data = pytest.importorskip("timm.data")
    dataset = data.create_dataset(
        "wds/pets", root=str(folder), split=split, is_training=training, batch_size=batch_size
    )
    loader = data.create_loader(
        dataset,
        input_size=(3, SIZE, SIZE),
        batch_size=batch_size,
        is_training=training,
        num_workers=workers,
        # Pixels as they are in the file.
        no_aug=True,
        crop_pct=1.0,
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        use_prefetcher=False,
    )
    epochs = []
    for epoch in range(EPOCHS):
        dataset.set_epoch(epoch)
        epochs.append(Counter(seen for images, labels in loader for seen in recognise_all(images, labels)))
    return epochs


def recognise_all(images: torch.Tensor, labels: Iterable[int]) -> list[Seen]:
    """Return the samples of a batch: images [N, 3, H, W] in [0, 1]."""
    pixels = (images * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    return [recognise(*pair) for pair in zip(pixels, labels, strict=True)]


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_timm_evaluates_every_sample_once(folder: Path, workers: int) -> None:
    for split in splits(folder):
        epochs = read_with_timm(folder, split, workers=workers, batch_size=4, training=False)
        assert epochs == [written(folder, split)] * EPOCHS


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_timm_trains_on_every_sample_once_an_epoch(folder: Path, workers: int) -> None:
    """Where the workers share the shards evenly and a worker's share is a multiple of the batch."""
    epochs = read_with_timm(folder, "train", workers=workers, batch_size=4, training=True)
    assert epochs == [written(folder, "train")] * EPOCHS


def test_timm_fills_the_last_batch_of_each_worker_with_repeats(real: Path) -> None:
    """A share of 8 in batches of 3 becomes 9: nothing is missed, one sample a worker comes twice."""
    for epoch in read_with_timm(real, "train", workers=4, batch_size=3, training=True):
        assert epoch.keys() == written(real, "train").keys()
        assert sorted(epoch.values()) == [1] * 28 + [2] * 4


def test_timm_misses_samples_where_workers_cannot_share_the_shards(real: Path) -> None:
    """Three workers for eight shards: each takes ceil(32 / 3) = 11, though two of them hold 12."""
    for epoch in read_with_timm(real, "train", workers=3, batch_size=1, training=True):
        assert len(epoch) == 32 - 2


# -------------------------------------------------------------------------------------------------- Hugging Face


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a reader of local files wants to connect")

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.mark.usefixtures("no_network")
def test_hugging_face_reads_all_splits_with_their_types(folder: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    read = datasets.load_dataset(str(folder), cache_dir=str(tmp_path))
    assert sorted(read) == sorted(splits(folder))
    for split, rows in read.items():
        assert Counter(recognise(np.asarray(row["png"]), row["cls"]) for row in rows) == written(folder, split)
        assert all(row["json"]["label"] == row["cls"] for row in rows)
        types: Mapping[str, Any] = rows.features
        assert isinstance(types["png"], datasets.Image)
        assert types["cls"] == datasets.Value("int64")
        assert types["json"]["label"] == datasets.Value("int64")
        assert types["json"]["synthetic"] == datasets.Value("bool")
        assert all(isinstance(kind, datasets.Value) for kind in types["json"].values())


# ----------------------------------------------------------------------------------------------------- open_clip


def test_sizes_file_counts_the_shards_of_a_pattern(folder: Path) -> None:
    """open_clip adds up the entries of `sizes.json` for the base names of the shards that a pattern stands for."""
    shardlists = pytest.importorskip("webdataset.shardlists")
    sizes = json.loads((folder / "sizes.json").read_bytes())
    for split in splits(folder):
        names = [path.name for path in folder.glob(f"{split}-*.tar")]
        urls = shardlists.expand_urls(f"{folder}/{split}-{{000000..{len(names) - 1:06d}}}.tar")
        assert sum(sizes[Path(url).name] for url in urls) == written(folder, split).total()
        assert {Path(url).name for url in urls} == set(names)


# -------------------------------------------------------------------------------------------------------- PyTorch


def read_with_torch(folder: Path, workers: int) -> Counter[Seen]:
    loader = DataLoader(synthmed.open_shards(folder), batch_size=None, num_workers=workers)
    return Counter(recognise(image.permute(1, 2, 0).numpy(), label) for image, label, _ in loader)


@pytest.mark.parametrize("workers", [0, 1, 2, 4])
def test_torch_reads_every_sample_once_with_any_number_of_workers(folder: Path, workers: int) -> None:
    assert read_with_torch(folder, workers) == written(folder, "train")


@pytest.mark.parametrize("workers", [0, 2])
def test_ranks_share_the_samples(real: Path, monkeypatch: pytest.MonkeyPatch, workers: int) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    seen: list[Counter[Seen]] = []
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        seen.append(read_with_torch(real, workers))
    assert [counts.total() for counts in seen] == [16, 16]
    assert seen[0] + seen[1] == written(real, "train")


def test_open_shards_takes_the_methods_of_webdataset(real: Path) -> None:
    batches = list(synthmed.open_shards(real).shuffle(10).batched(8))
    assert [(images.shape, labels.shape) for images, labels, _ in batches] == [((8, 3, SIZE, SIZE), (8,))] * 4
