"""What a folder says about itself, how readers share its shards, and the sheet of samples."""

import gc
import io
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from synthmed.data.images import encode_image
from synthmed.data.labels import Classes
from synthmed.data.shards.card import FolderInfo
from synthmed.data.shards.plan import RUN_FILE
from synthmed.data.shards.read import open_folder
from synthmed.data.shards.side_files import write_side_files
from synthmed.data.shards.summary import encode_sheet, share_shards, summarise_folder
from synthmed.data.shards.write import Sample, write_shard
from synthmed.errors import DataError
from synthmed.files.atomic import write_json
from synthmed.files.content import MAX_JSON_DEPTH


def write_folder(
    folder: Path, lengths: list[int], kind: str = "synthetic", split: str = "train", side: int = 20
) -> Path:
    """Write shards of two classes; images of class k are flat with the value 100 k + 50."""
    info = FolderInfo(kind=kind, dataset="pets", classes=Classes(("cat", "dog"), positive="dog"), size=side)  # type: ignore[arg-type]
    made = {"seed": 7, "sampler": {"steps": 20, "sampler": "ddim"}, "counts": {"cat": 1}}
    write_json(folder / RUN_FILE, {"folder": info.as_config(), **made})
    number = 0
    for place, length in enumerate(lengths):
        samples = []
        for _ in range(length):
            label = number % 2
            image = encode_image(np.full((side, side, 3), 100 * label + 50, dtype=np.uint8), "png")
            metadata = {"label": label, "label_name": info.classes[label], "group": f"g{number // 4}"}
            samples.append(Sample(f"{split}-{number:05d}", image, "png", label, metadata))  # type: ignore[arg-type]
            number += 1
        write_shard(folder / f"{split}-{place:06d}.tar", samples)
    write_side_files(folder, info)
    return folder


def test_summary_of_our_folder(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, [5, 5, 6])
    write_folder(tmp_path, [4], split="test")
    summary, opened = summarise_folder(folder)
    assert [each.split for each in opened] == ["train", "test"]
    assert (summary.kind, summary.dataset, summary.classes.names, summary.classes.positive) == (
        "synthetic",
        "pets",
        ("cat", "dog"),
        "dog",
    )
    train = summary.splits["train"]
    assert (dict(train.counts), train.shard_lengths, train.groups) == ({"cat": 8, "dog": 8}, (5, 5, 6), 4)
    assert train.size == sum(path.stat().st_size for path in folder.glob("train-*.tar"))
    assert (summary.width, summary.height, summary.image_formats) == (20, 20, ("png",))
    assert summary.made == {"seed": "7", "sampler.steps": "20", "sampler.sampler": "ddim"}


def test_summary_of_one_split(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, [4])
    assert list(summarise_folder(folder, "train")[0].splits) == ["train"]
    with pytest.raises(DataError, match="no split 'test'"):
        summarise_folder(folder, "test")
    with pytest.raises(DataError, match="no such folder"):
        summarise_folder(folder / "nowhere")


def test_summary_of_a_foreign_folder_takes_what_the_samples_say(tmp_path: Path) -> None:
    image = encode_image(np.zeros((8, 12, 3), dtype=np.uint8), "jpg")
    metadata = {"label_name": "cat", "synthetic": True, "model": "gan-3", "deep": {"a": [1], "b": "\x1b[2J"}}
    write_shard(tmp_path / "train-000000.tar", [Sample("a", image, "jpg", 0, metadata)])  # type: ignore[arg-type]
    (tmp_path / ".synthmed/train-000000.json").unlink()
    summary, _ = summarise_folder(tmp_path)
    assert (summary.kind, summary.dataset, summary.classes.names) == ("synthetic", None, ("cat",))
    assert (summary.width, summary.height, summary.image_formats) == (12, 8, ("jpg",))
    assert summary.made == {"synthetic": "True", "model": "gan-3", "deep.b": "\\x1b[2J"}


def test_run_file_of_any_depth_is_summarised(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, [2])
    run = json.loads((folder / RUN_FILE).read_bytes())
    for _ in range(MAX_JSON_DEPTH - 5):
        run["deep"] = {"deep": run.get("deep", 1)}
    run |= {f"k{number}": "x" * 1000 for number in range(100)}
    write_json(folder / RUN_FILE, run)
    made = summarise_folder(folder)[0].made
    assert len(made) <= 40
    assert max(map(len, made.values())) <= 200


# ------------------------------------------------------------------------------------------------------------- readers


def test_one_shard_feeds_one_reader() -> None:
    share = share_shards([40], workers=4, ranks=1, batch_size=10)
    assert (share.idle, share.fewest, share.most, share.epoch, share.reached) == (3, 0, 40, 10, 10)
    assert "3 get none; an epoch of 10 images of timm shows 10 of 40 samples" in share.warning()


def test_five_shards_of_eight_reach_36_of_40() -> None:
    share = share_shards([8] * 5, workers=4, ranks=1, batch_size=4)
    assert (share.idle, share.fewest, share.most, share.epoch, share.reached) == (0, 8, 16, 48, 36)
    assert "they hold 8 to 16 samples" in share.warning()


@pytest.mark.parametrize(("workers", "ranks"), [(4, 1), (4, 4), (8, 2), (1, 1), (16, 1)])
def test_multiples_of_workers_times_ranks_are_read_whole(workers: int, ranks: int) -> None:
    share = share_shards([625] * 16, workers=workers, ranks=ranks, batch_size=1)
    assert (share.idle, share.reached, share.epoch) == (0, 10_000, 10_000)
    assert share.warning() == ""


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(("lengths", "batch_size"), [([8] * 5, 4), ([40], 10), ([3] * 8, 2), ([7, 7, 6], 5)])
def test_timm_reads_as_we_say(tmp_path: Path, lengths: list[int], batch_size: int) -> None:
    reader_wds = pytest.importorskip("timm.data.readers.reader_wds")
    folder = write_folder(tmp_path, lengths)
    seen: list[str] = []
    for worker in range(4):
        reader = reader_wds.ReaderWds(str(folder), split="train", is_training=True, batch_size=batch_size)
        # As in the worker's process.
        reader.worker_info = SimpleNamespace()
        reader.worker_id = reader.global_worker_id = worker
        reader.num_workers = reader.global_num_workers = 4
        reader._lazy_init()
        taken = reader._num_samples_per_worker()
        seen += [sample["__key__"] for sample in reader.ds.with_epoch(taken)]
        gc.collect()
    share = share_shards(lengths, workers=4, ranks=1, batch_size=batch_size)
    assert (len(seen), len(set(seen))) == (share.epoch, share.reached)


# --------------------------------------------------------------------------------------------------------------- sheet


def test_sheet_has_a_row_for_each_class(tmp_path: Path) -> None:
    folder = open_folder(write_folder(tmp_path, [5, 6]), "train")
    with Image.open(io.BytesIO(encode_sheet(folder))) as picture:
        assert "trainedAlgorithmicMedia" in picture.info["XML:com.adobe.xmp"]
        sheet = np.asarray(picture)
    title, gap, side = 14, 2, 20
    assert sheet.shape == (gap + 2 * (title + side + gap), gap + 8 * (side + gap), 3)
    for label, count in ((0, 6), (1, 5)):
        top = gap + title + label * (title + side + gap)
        row = sheet[top : top + side, :, 0]
        lefts = [gap + column * (side + gap) for column in range(8)]
        values = [set(row[:, left : left + side].ravel().tolist()) for left in lefts]
        assert values == [{100 * label + 50}] * count + [{32}] * (8 - count)
        assert sheet[top - title : top].max() > 100, "a title stands above it"


def test_sheet_of_real_images_has_no_mark(tmp_path: Path) -> None:
    folder = open_folder(write_folder(tmp_path, [4], kind="real"), "train")
    with Image.open(io.BytesIO(encode_sheet(folder))) as picture:
        assert "XML:com.adobe.xmp" not in picture.info


def test_sheet_of_large_images_stays_small(tmp_path: Path) -> None:
    folder = open_folder(write_folder(tmp_path, [4], side=600), "train")
    with Image.open(io.BytesIO(encode_sheet(folder))) as picture:
        assert picture.width < 8 * 260


def test_broken_image_in_the_sheet_points_to_verify(tmp_path: Path) -> None:
    write_shard(tmp_path / "train-000000.tar", [Sample("a", b"no image", "png", 0, {"label": 0})])
    with pytest.raises(DataError, match=r"a\.png is not an image.*synthmed verify"):
        encode_sheet(open_folder(tmp_path, "train"))
