"""A source that is no longer the one that was checked: noticed whatever changed, and whenever."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import synthmed.data.prepare.prepare as preparing
import synthmed.data.prepare.samples as prepare_samples
import synthmed.data.prepare.scan as scan
from synthmed.data.prepare.prepare import PrepareConfig, prepare_release
from synthmed.data.prepare.releases import read_image_folders
from synthmed.errors import Interrupted, ResumeError
from synthmed.files.atomic import write_json
from synthmed.files.content import read_json
from synthmed.files.fingerprints import fingerprint

COUNT = 20
Change = Callable[[Path], object]
Run = Callable[..., tuple[int, str, str]]


def write_image(path: Path, seed: int) -> Path:
    """Write noise whose file has the same size whatever the seed; by the seed, not by the ending, it is a BMP."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (20, 24, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, format="bmp")
    return path


def make_source(path: Path) -> Path:
    """Write two class folders, and tables that make them AIROGS as well."""
    rows = ["challenge_id,class"]
    for number in range(COUNT):
        write_image(path / "ab"[number % 2] / f"{number:03d}.png", number)
        rows.append(f"{number:03d},{('RG', 'NRG')[number % 2]}")
    (path / "train_labels.csv").write_text("\n".join(rows))
    (path / "groups.csv").write_text("\n".join(["image,group", *(f"{number:03d},{number}" for number in range(COUNT))]))
    return path


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waiting for the disk is what takes long here."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return make_source(tmp_path / "in")


def prepare(source: Path, output: Path, *, overwrite: bool = False) -> Any:
    release = read_image_folders(source, groups=source / "groups.csv")
    return prepare_release(release, output, PrepareConfig(size=16), overwrite=overwrite, workers=2)


def stop(source: Path, output: Path, monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """Prepare, and be interrupted after some samples were made."""
    make, made = prepare_samples.SampleMaker.make, list[int]()

    def stopping(maker: Any, split: str, position: int, item: Any) -> Any:
        made.append(position)
        if len(made) > after:
            raise Interrupted(15, "as a signal would")
        return make(maker, split, position, item)

    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(prepare_samples.SampleMaker, "make", stopping)
        prepare(source, output)


def say_old(output: Path) -> None:
    """Have the folder be claimed long after its source was written, as if nobody had touched that for an hour."""
    later = (output / ".synthmed/run.json").stat().st_mtime + 3600
    os.utime(output / ".synthmed/run.json", (later, later))


def set_back(source: Path) -> None:
    """Change the pixels of a file, and neither its size nor the time at which it was written."""
    path = source / "a/004.png"
    before = path.stat()
    write_image(path, 99)
    assert path.stat().st_size == before.st_size
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def relabel(source: Path) -> None:
    text = (source / "groups.csv").read_text()
    (source / "groups.csv").write_text(text.replace("004,4", "004,6"))


CHANGES: dict[str, tuple[Change, str]] = {
    "pixels": (lambda source: write_image(source / "a/004.png", 99), "a/004.png, 1 file"),
    "pixels, time set back": (set_back, "a/004.png, 1 file"),
    "all pixels": (lambda source: [write_image(path, 99) for path in source.rglob("*.png")], f"a/000.png, {COUNT} fil"),
    "broken": (lambda source: (source / "a/004.png").write_bytes(b""), "a/004.png, 1 file"),
    "added first": (lambda source: write_image(source / "a/0.png", 99), "a/0.png, 1 file"),
    "added last": (lambda source: write_image(source / "b/x.png", 99), "b/x.png, 1 file"),
    "removed": (lambda source: (source / "a/004.png").unlink(), "a/004.png, 1 file"),
    "renamed": (lambda source: (source / "a/004.png").rename(source / "a/x.png"), "a/004.png, 2 files"),
    "new class": (lambda source: write_image(source / "c/x.png", 99), "c/x.png, 1 file"),
    "table": (relabel, "the list of its images with their labels and groups"),
}


@pytest.mark.parametrize("whole", [True, False], ids=["complete", "stopped"])
@pytest.mark.parametrize("change", CHANGES)
def test_changed_source_is_refused_and_overwrite_makes_it_anew(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str, whole: bool
) -> None:
    output = tmp_path / "out"
    stop(source, output, monkeypatch, 9)
    if whole:
        prepare(source, output)
    say_old(output)
    shards = {path: path.read_bytes() for path in output.glob("*.tar")}
    assert shards
    make_change, words = CHANGES[change]
    with (source / "groups.csv").open("a") as table:
        table.write("\n" + "\n".join(f"{name},{name}" for name in ("0", "x")))
    make_change(source)
    for _ in range(2):
        with pytest.raises(ResumeError, match=f"the source has changed since it was checked: {words}"):
            prepare(source, output)
    assert {path: path.read_bytes() for path in output.glob("*.tar")} == shards


def test_overwrite_makes_a_finished_folder_anew(source: Path, tmp_path: Path) -> None:
    prepare(source, tmp_path / "out")
    (tmp_path / "out/.synthmed/left of a former run").touch()
    set_back(source)
    prepare(source, tmp_path / "out", overwrite=True)
    prepare(source, tmp_path / "new")
    files = [sorted(path.relative_to(out) for path in out.rglob("*")) for out in (tmp_path / "out", tmp_path / "new")]
    assert files[0] == files[1]
    for path in (tmp_path / "new").glob("*.tar"):
        assert (tmp_path / "out" / path.name).read_bytes() == path.read_bytes()


def touch(source: Path) -> None:
    (source / "a/004.png").touch()


def move_to_another_disk(source: Path) -> None:
    shutil.copytree(source, source.with_name("copy"))
    shutil.rmtree(source)
    source.with_name("copy").rename(source)


def change_and_restore(source: Path) -> None:
    data = (source / "a/004.png").read_bytes()
    write_image(source / "a/004.png", 99)
    (source / "a/004.png").write_bytes(data)


@pytest.mark.parametrize("whole", [True, False], ids=["complete", "stopped"])
@pytest.mark.parametrize("change", [touch, move_to_another_disk, change_and_restore])
def test_equal_bytes_are_no_change(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Change, whole: bool
) -> None:
    prepare(source, tmp_path / "whole")
    stop(source, tmp_path / "out", monkeypatch, 9)
    if whole:
        prepare(source, tmp_path / "out")
    say_old(tmp_path / "out")
    change(source)
    prepare(source, tmp_path / "out")
    for path in (tmp_path / "whole").glob("*.tar"):
        assert (tmp_path / "out" / path.name).read_bytes() == path.read_bytes()


def test_files_that_nobody_touched_are_not_read_again(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare(source, tmp_path / "out")
    say_old(tmp_path / "out")
    with monkeypatch.context() as patch:
        patch.setattr(preparing, "read_item", None)
        prepare(source, tmp_path / "out")
    assert capsys.readouterr().err.endswith("is already complete\n")


def test_change_in_the_same_tick_of_the_clock_is_noticed(source: Path, tmp_path: Path) -> None:
    prepare(source, tmp_path / "out")
    write_image(source / "a/004.png", 99)
    # As a clock that stands still would have it.
    chunk = tmp_path / "out/.synthmed/scan/000000000.json"
    rows = read_json(chunk)
    (row,) = (row for row in rows if row["source"] == "a/004.png")
    row["stat"] = fingerprint(source / "a/004.png")
    write_json(chunk, rows)
    with pytest.raises(ResumeError, match=r"a/004\.png, 1 file"):
        prepare(source, tmp_path / "out")


def test_image_that_changes_during_the_run_ends_it(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def scan_then_change(*arguments: Any, **options: Any) -> Any:
        found = scan.scan_items(*arguments, **options)
        write_image(source / "b/011.png", 99)
        return found

    monkeypatch.setattr(preparing, "scan_items", scan_then_change)
    with pytest.raises(ResumeError, match=r"changed since it was checked: b/011\.png \("):
        prepare(source, tmp_path / "out")


def test_change_while_images_are_checked_is_noticed_later(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scan, "ITEMS_A_CHUNK", 6)
    check, checked = scan._check_item, list[str]()

    def stopping(item: Any, *rest: Any) -> Any:
        checked.append(item.source)
        if len(checked) == 15:
            raise Interrupted(15, "as a signal would")
        return check(item, *rest)

    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(scan, "_check_item", stopping)
        prepare(source, tmp_path / "out")
    write_image(source / "b/019.png", 99)  # not checked yet
    prepare(source, tmp_path / "other")
    write_image(source / "a/0.png", 98)
    with (source / "groups.csv").open("a") as table:
        table.write("\n0,0")
    with pytest.raises(ResumeError, match=r"a/0\.png, 1 file"):
        prepare(source, tmp_path / "out")


def test_folder_of_an_earlier_version_is_complete(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = prepare(source, tmp_path / "out")
    chunk = tmp_path / "out/.synthmed/scan/000000000.json"
    write_json(chunk, [{"pixels": row["pixels"]} for row in read_json(chunk)])
    assert prepare(source, tmp_path / "out") == report
    assert "is already complete" in capsys.readouterr().err


def test_shards_are_not_mixed_where_too_many_images_became_bad(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (source / "a/004.png").write_bytes(b"")

    def prepare_with(max_bad: float) -> Any:
        release = read_image_folders(source, groups=source / "groups.csv")
        return prepare_release(release, tmp_path / "out", PrepareConfig(size=16, max_bad=max_bad), workers=2)

    prepare_with(0.5)
    (tmp_path / "out/.synthmed/report.json").unlink()
    with pytest.raises(Exception, match="cannot be used"):
        prepare_with(0)
    write_image(source / "a/002.png", 99)
    with pytest.raises(ResumeError, match=r"a/002\.png, 1 file"):
        prepare_with(0.5)


@pytest.mark.parametrize("release", ["airogs", "crcdx", "chexpert", "images"])
def test_every_release_is_compared(tmp_path: Path, run_program: Run, release: str) -> None:
    source, table = tmp_path / "in", dict[str, list[str]]()
    table["airogs"], table["chexpert"] = ["challenge_id,class"], ["Path,Frontal/Lateral,Cardiomegaly"]
    paths = []
    for number in range(COUNT):
        place = {
            "airogs": f"0/{number:03d}.jpg",
            "crcdx": f"{('MSIH', 'nonMSIH')[number % 2]}/blk-TCGA-AA-{1000 + number}-01.png",
            "chexpert": f"train/patient{number:05d}/study1/view1_frontal.jpg",
            "images": f"{'ab'[number % 2]}/{number:03d}.png",
        }[release]
        paths.append(write_image(source / place, number))
        table["airogs"].append(f"{number:03d},{('RG', 'NRG')[number % 2]}")
        table["chexpert"].append(f"{place},Frontal,{number % 2}")
    (source / "train_labels.csv").write_text("\n".join(table["airogs"]))
    (source / "train.csv").write_text("\n".join(table["chexpert"]))
    words = ("prepare", release, source, "--size", 16, "-o", tmp_path / "out")
    assert run_program(*words)[0] == 0
    assert "already complete" in run_program(*words)[2]
    write_image(paths[7], 99)
    code, out, err = run_program(*words)
    assert (code, out) == (3, "")
    assert f"the source has changed since it was checked: {paths[7].relative_to(source)}, 1 file (" in err
    assert run_program(*words, "--overwrite")[0] == 0
    assert "already complete" in run_program(*words)[2]
