"""Writing shards: plan, order, bytes, side files; tests/e2e/test_readers.py reads them with other people's readers."""

import hashlib
import io
import json
import re
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from synthmed.data.images import encode_image
from synthmed.data.labels import Classes
from synthmed.data.shards.card import FolderInfo
from synthmed.data.shards.plan import RUN_FILE, interleave, plan_shards, safe_key, shard_name, stats_path
from synthmed.data.shards.side_files import write_side_files
from synthmed.data.shards.write import MetadataValue, Sample, read_stats, write_shard
from synthmed.errors import DataError
from synthmed.files.atomic import write_json

CLASSES = Classes(("no", "yes"), {"Y": "yes"}, positive="yes")
INFO = FolderInfo(kind="real", dataset="made-up", classes=CLASSES, size=8)


def make_sample(split: str, number: int, label: int) -> Sample:
    image = np.random.default_rng([number, label]).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    metadata: dict[str, MetadataValue] = {
        "label": label,
        "label_name": INFO.classes[label],
        "group": f"g{number}",
        "synthetic": False,
    }
    return Sample(f"{split}-{number:06d}", encode_image(image, "png"), "png", label, metadata)


def write_folder(folder: Path, sizes: dict[str, int]) -> None:
    write_json(folder / RUN_FILE, {"folder": INFO.as_config()})
    for split, size in sizes.items():
        start = 0
        for number, length in enumerate(plan_shards(size)):
            samples = (make_sample(split, k, k % 2) for k in range(start, start + length))
            write_shard(folder / shard_name(split, number), samples)
            start += length
    write_side_files(folder, INFO)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("shards")
    write_folder(made, {"train": 40, "validation": 9, "test": 16})
    return made


def test_ten_thousand_are_sixteen_shards_of_625() -> None:
    assert plan_shards(10_000) == [625] * 16


@pytest.mark.parametrize(("workers", "ranks"), [(4, 1), (4, 2), (8, 4), (3, 1), (1, 1)])
def test_plan_is_even_and_a_multiple_of_workers_times_ranks(workers: int, ranks: int) -> None:
    step = workers * ranks
    for total in [*range(step, 400, 7), 1000, 4999, 6540, 15_738, 98_172, 191_027]:
        plan = plan_shards(total, workers=workers, ranks=ranks)
        assert sum(plan) == total
        assert max(plan) - min(plan) <= 1
        assert min(plan) >= 1
        assert max(plan) <= 1000
        assert len(plan) % step == 0
        if total >= 8 * step:
            assert len(plan) >= 8


def test_large_plans_hold_500_to_1000_samples_a_shard() -> None:
    for total in (5_000, 6_540, 10_001, 15_738, 98_172, 160_935):
        assert all(500 <= length <= 1000 for length in plan_shards(total))


def test_fewer_samples_than_workers_still_have_a_shard_each() -> None:
    assert plan_shards(3) == [1, 1, 1]
    assert plan_shards(0) == []


@pytest.mark.parametrize("counts", [[300, 700], [10, 10], [1, 99], [5, 0, 20], [7]])
def test_every_stretch_has_nearly_the_mixture_of_the_whole(counts: list[int]) -> None:
    order = list(interleave(counts))
    assert sorted(order) == [(label, index) for label, count in enumerate(counts) for index in range(count)]
    labels = np.array([label for label, _ in order])
    for start in range(0, len(labels), 7):
        for stop in range(start + 1, len(labels) + 1, 11):
            for label, count in enumerate(counts):
                share = count / len(labels) * (stop - start)
                assert abs((labels[start:stop] == label).sum() - share) < 2


def test_interleaved_indices_ascend_within_a_class() -> None:
    order = list(interleave([5, 9]))
    assert [index for label, index in order if label == 1] == list(range(9))


@pytest.mark.parametrize("text", ["TRAIN000001", "a_b-c", "x" * 90])
def test_safe_key_leaves_good_keys_alone(text: str) -> None:
    assert safe_key(text) == text


def test_safe_key_keeps_different_texts_apart() -> None:
    texts = ["a.b", "a b", "a/b", "ä", "ö", "", ".", "..", "x" * 91, "x" * 92, "a-b", "名", "\udcff", "a\nb"]
    keys = [safe_key(text) for text in texts]
    assert len(set(keys)) == len(texts)
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{1,90}", key) for key in keys)
    assert keys == [safe_key(text) for text in texts]


@pytest.mark.parametrize("key", ["a.b", "", "x" * 91, "a/b", "ä"])
def test_key_outside_the_contract_is_a_bug(tmp_path: Path, key: str) -> None:
    good = make_sample("train", 0, 0)
    with pytest.raises(ValueError, match="not a key"):
        write_shard(tmp_path / "train-000000.tar", [Sample(key, good.image, "png", 0, good.metadata)])
    assert not list(tmp_path.glob("*.tar*"))


def test_keys_must_ascend(tmp_path: Path) -> None:
    for numbers in ([1, 0], [1, 1]):
        with pytest.raises(ValueError, match="ascend"):
            write_shard(tmp_path / "train-000000.tar", [make_sample("train", number, 0) for number in numbers])


def test_members_are_plain_ustar_with_fixed_fields(folder: Path) -> None:
    path = folder / "train-000000.tar"
    with tarfile.open(path, "r:") as archive:
        members = archive.getmembers()
    assert [m.name for m in members] == sorted(m.name for m in members)
    assert {m.name.partition(".")[2] for m in members} == {"cls", "json", "png"}
    assert all((m.mtime, m.uid, m.gid, m.mode, m.uname, m.gname) == (0, 0, 0, 0o644, "", "") for m in members)
    assert all(m.isreg() and not m.pax_headers for m in members)
    data = path.read_bytes()
    assert data[257:263] == b"ustar\x00"
    assert b"PaxHeader" not in data


@pytest.mark.parametrize("extension", ["png", "webp", "jpg"])
def test_members_are_sorted_whatever_the_image_format(tmp_path: Path, extension: str) -> None:
    samples = [Sample(key, b"image", extension, 0, {"label": 0}) for key in ("a", "b")]
    write_shard(tmp_path / "train-000000.tar", samples)
    with tarfile.open(tmp_path / "train-000000.tar") as archive:
        names = archive.getnames()
    assert names == sorted(names)
    assert len(names) == 6


def test_same_samples_give_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    write_folder(tmp_path, {"train": 40, "validation": 9, "test": 16})
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        assert path.read_bytes() == (tmp_path / path.relative_to(folder)).read_bytes(), path.name


def test_stats_describe_the_shard(folder: Path) -> None:
    path = folder / "train-000003.tar"
    stats = read_stats(path)
    assert stats is not None
    assert stats.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert stats.size == path.stat().st_size
    assert stats.num_samples == sum(stats.class_counts.values()) == 5


def test_shard_without_stats_or_of_another_size_is_not_finished(tmp_path: Path) -> None:
    path = tmp_path / "train-000000.tar"
    assert read_stats(path) is None
    write_shard(path, [make_sample("train", 0, 0)])
    assert read_stats(path) is not None
    path.write_bytes(path.read_bytes()[:-512])
    assert read_stats(path) is None
    with pytest.raises(DataError, match="is not finished"):
        write_side_files(tmp_path, INFO)


def test_finished_shard_is_never_touched_again(tmp_path: Path) -> None:
    """Two processes of one command write the same shard: the first has written it, also where the other fails."""
    path = tmp_path / "train-000000.tar"
    states = []

    def state() -> list[tuple[int, int]]:
        return [(found.stat().st_ino, found.stat().st_mtime_ns) for found in (path, stats_path(path))]

    def meanwhile(fail: bool) -> Iterator[Sample]:
        yield make_sample("train", 0, 0)
        write_shard(path, [make_sample("train", 0, 0), make_sample("train", 1, 1)])
        states.append(state())
        if fail:
            raise DataError("no more")
        yield make_sample("train", 1, 1)

    stats = write_shard(path, meanwhile(False))
    with pytest.raises(DataError, match="no more"):
        write_shard(path, meanwhile(True))
    assert [state(), state()] == states
    assert stats == read_stats(path)
    assert not list(tmp_path.rglob("*.part"))


def test_stats_file_of_a_tar_that_is_gone_or_cut_is_removed_before_the_next_is_written(tmp_path: Path) -> None:
    path = tmp_path / "train-000000.tar"
    for damage in (path.unlink, lambda: path.write_bytes(path.read_bytes()[:512])):
        write_shard(path, [make_sample("train", 0, 0)])
        damage()

        def failing() -> Iterator[Sample]:
            yield make_sample("train", 0, 0)
            raise DataError("no more")

        with pytest.raises(DataError, match="no more"):
            write_shard(path, failing())
        assert not stats_path(path).exists()
        assert not list(tmp_path.rglob("*.part"))


def test_folder_holds_only_what_the_contract_names(folder: Path) -> None:
    names = {path.name for path in folder.iterdir() if path.suffix != ".tar"}
    assert names == {"README.md", "_info.json", "sizes.json", ".synthmed"}


def test_side_files_count_all_splits(folder: Path) -> None:
    sizes = json.loads((folder / "sizes.json").read_bytes())
    splits = json.loads((folder / "_info.json").read_bytes())["splits"]
    assert {name: split["num_samples"] for name, split in splits.items()} == {"train": 40, "validation": 9, "test": 16}
    for split in splits.values():
        assert [sizes[name] for name in split["filenames"]] == split["shard_lengths"]
    assert set(sizes) == {path.name for path in folder.glob("*.tar")}


def test_manifest_has_a_row_for_every_sample(folder: Path) -> None:
    rows = [json.loads(line) for line in (folder / ".synthmed/manifest.jsonl").read_text().splitlines()]
    assert len(rows) == len({row["key"] for row in rows}) == 65
    with tarfile.open(folder / rows[0]["shard"]) as archive:
        image = archive.extractfile(f"{rows[0]['key']}.png")
        assert image is not None
        assert hashlib.sha256(image.read()).hexdigest() == rows[0]["sha256"]


def card_of(folder: Path) -> tuple[dict[str, Any], str]:
    """Return the YAML head of a data card and the text below it."""
    yaml = pytest.importorskip("yaml")
    _, head, text = (folder / "README.md").read_text().split("---\n", 2)
    return yaml.safe_load(head), text


def test_data_card_pins_files_to_splits(folder: Path) -> None:
    head, _ = card_of(folder)
    (config,) = head["configs"]
    assert config["config_name"] == "default"
    assert config["data_files"] == [
        {"split": split, "path": f"{split}-*.tar"} for split in ("train", "validation", "test")
    ]
    assert (head["pretty_name"], head["task_categories"]) == ("made-up", ["image-classification"])


def test_data_card_counts_every_class_of_every_split(folder: Path) -> None:
    _, text = card_of(folder)
    assert "| split | 0 no | 1 yes | all | shards |" in text
    for row in ("| train | 20 | 20 | 40 | 8 |", "| validation | 5 | 4 | 9 | 8 |", "| test | 8 | 8 | 16 | 8 |"):
        assert row in text


@pytest.mark.parametrize(
    ("kind", "said", "use", "terms"),
    [
        ("real", "These are real images", "training and testing image classifiers", "Terms of the source"),
        ("phantom", "No patient was imaged", "trying out and testing programs", "Terms of the source"),
        (
            "synthetic",
            "a trained generative model made every one of them",
            "training classifiers beside real data; test them on real data alone",
            "Terms of the data that the model was trained on",
        ),
    ],
)
def test_data_card_says_what_the_images_are_good_for(
    tmp_path: Path, kind: Literal["real", "phantom", "synthetic"], said: str, use: str, terms: str
) -> None:
    write_shard(tmp_path / "train-000000.tar", [make_sample("train", 0, 0)])
    title = 'Eyes: "left" & right'
    info = FolderInfo(
        kind=kind, dataset="eyes", classes=Classes(("no", "yes")), title=title, how_made=("By hand.", "Twice.")
    )
    write_side_files(tmp_path, info)
    head, text = card_of(tmp_path)
    assert head["pretty_name"] == title
    assert kind in head["tags"]
    for words in (f"# {title}", said, f"Intended use: {use}", "Limits: ", "By hand.\n\nTwice.\n"):
        assert words in text, words
    assert f"{terms}: not stated. Ask before you hand the images on." in text
    write_side_files(tmp_path, replace(info, source_terms="CC BY 4.0,\nsee there"))
    assert f"{terms}: CC BY 4.0, see there.\n" in card_of(tmp_path)[1]


def test_images_survive_the_shard(folder: Path) -> None:
    sample = make_sample("train", 0, 0)
    with tarfile.open(folder / "train-000000.tar") as archive:
        member = archive.extractfile("train-000000.png")
        assert member is not None
        assert io.BytesIO(member.read()).getvalue() == sample.image
