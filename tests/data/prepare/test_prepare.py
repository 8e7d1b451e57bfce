"""From a release to shards: contents, resume, errors and the command line."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import synthmed.data.prepare.samples as prepare_samples
import synthmed.data.prepare.scan as scan
from synthmed.data.images import decode_image, encode_image
from synthmed.data.prepare.chexpert import read_chexpert
from synthmed.data.prepare.prepare import PrepareConfig, prepare_release
from synthmed.data.prepare.releases import read_airogs, read_image_folders
from synthmed.data.prepare.splits import assign_splits
from synthmed.data.shards.plan import SPLITS
from synthmed.data.shards.read import open_folder
from synthmed.data.shards.samples import read_image_bytes
from synthmed.errors import DataError, Interrupted, ResumeError, UsageError
from synthmed.phantoms.release import phantom_release

SHARED = Path(__file__).resolve().parents[3] / ".." / "shared" / "data"
CONFIG = PrepareConfig(size=16)


def write_image(path: Path, seed: int, size: tuple[int, int] = (20, 24)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    path.write_bytes(encode_image(image, "png"))


def make_airogs(source: Path, num_images: int = 120) -> Path:
    """Write a release of noise in which every third image is glaucoma and a patient has two images."""
    rows, groups = ["challenge_id,class"], ["challenge_id,group"]
    for number in range(num_images):
        name = f"TRAIN{number:06d}"
        write_image(source / str(number % 3) / f"{name}.png", number)
        rows.append(f"{name},{'RG' if number % 3 == 0 else 'NRG'}")
        groups.append(f"{name},{number // 2}")
    (source / "train_labels.csv").write_text("\n".join(rows) + "\n")
    (source / "groups.csv").write_text("\n".join(groups) + "\n")
    return source


@pytest.fixture(scope="module")
def airogs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_airogs(tmp_path_factory.mktemp("airogs"))


def prepare_airogs(source: Path, output: Path, **changes: Any) -> Any:
    config = PrepareConfig(**{"size": 16, **changes})
    return prepare_release(read_airogs(source, source / "groups.csv"), output, config, workers=2)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(run_program: Run) -> Run:
    """Return a function that runs `synthmed prepare` in this process and gives its exit code, stdout and stderr."""
    return lambda *arguments: run_program("prepare", *arguments)


def test_shards_hold_every_image_once_and_share_no_group(airogs: Path, tmp_path: Path) -> None:
    report = prepare_airogs(airogs, tmp_path)
    folders = {split: open_folder(tmp_path, split) for split in SPLITS}
    groups = {split: {entry.group for entry in folder.entries} for split, folder in folders.items()}
    assert sum(len(folder.entries) for folder in folders.values()) == 120
    for one, other in (("train", "validation"), ("train", "test"), ("validation", "test")):
        assert not groups[one] & groups[other]
    for split, folder in folders.items():
        counts = Counter(folder.classes[entry.label] for entry in folder.entries)
        assert counts == report.splits[split]
        assert len(groups[split]) == report.groups[split]
    assert folders["train"].kind == "real"
    assert (folders["train"].dataset, folders["train"].classes.positive) == ("airogs", "glaucoma")


def test_samples_say_where_they_come_from(airogs: Path, tmp_path: Path) -> None:
    prepare_airogs(airogs, tmp_path)
    rows = [json.loads(line) for line in (tmp_path / ".synthmed/manifest.jsonl").read_text().splitlines()]
    assert {frozenset((key, type(value)) for key, value in row.items()) for row in rows} == {
        frozenset(
            {
                ("dataset", str),
                ("group", str),
                ("key", str),
                ("label", int),
                ("label_name", str),
                ("sha256", str),
                ("shard", str),
                ("source", str),
                ("split", str),
                ("synthetic", bool),
            }
        )
    }
    assert {row["source"] for row in rows} == {f"{number % 3}/TRAIN{number:06d}.png" for number in range(120)}
    assert not any(row["synthetic"] for row in rows)


def test_every_shard_has_nearly_the_mixture_of_its_split(airogs: Path, tmp_path: Path) -> None:
    prepare_airogs(airogs, tmp_path)
    entries = open_folder(tmp_path, "train").entries
    for shard in {entry.shard for entry in entries}:
        labels = [entry.label for entry in entries if entry.shard == shard]
        assert abs(sum(labels) - len(labels) / 3) < 1.5


def test_two_runs_give_the_same_bytes_whatever_the_threads(airogs: Path, tmp_path: Path) -> None:
    release = read_airogs(airogs, airogs / "groups.csv")
    prepare_release(release, tmp_path / "one", CONFIG, workers=1)
    prepare_release(release, tmp_path / "two", CONFIG, workers=5)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_stop_and_resume_give_the_same_bytes(airogs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare_airogs(airogs, tmp_path / "whole")
    make = prepare_samples.SampleMaker.make
    made: list[int] = []

    def stopping(maker: prepare_samples.SampleMaker, split: str, position: int, item: Any) -> Any:
        made.append(position)
        if len(made) == 30:
            os.kill(os.getpid(), signal.SIGTERM)
        return make(maker, split, position, item)

    monkeypatch.setattr(prepare_samples.SampleMaker, "make", stopping)
    with pytest.raises(Interrupted) as error:
        prepare_airogs(airogs, tmp_path / "stopped")
    assert error.value.exit_code == 143
    monkeypatch.undo()
    shards = list((tmp_path / "stopped").glob("*.tar"))
    assert 0 < len(shards) < 8
    assert not list((tmp_path / "stopped").rglob("*.part"))
    # What a killed process leaves.
    (tmp_path / "stopped/train-000099.tar.part").write_bytes(b"half a shard")
    times = {path: path.stat().st_mtime_ns for path in shards}
    prepare_airogs(airogs, tmp_path / "stopped")
    assert contents(tmp_path / "stopped") == contents(tmp_path / "whole")
    assert times == {path: path.stat().st_mtime_ns for path in shards}


def test_stop_while_checking_goes_on_later(airogs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "ITEMS_A_CHUNK", 25)
    check = scan._check_item
    checked: list[str] = []

    def stopping(item: Any, *limits: Any) -> Any:
        checked.append(item.source)
        if len(checked) == 60:
            os.kill(os.getpid(), signal.SIGINT)
        return check(item, *limits)

    monkeypatch.setattr(scan, "_check_item", stopping)
    with pytest.raises(Interrupted) as error:
        prepare_airogs(airogs, tmp_path)
    assert error.value.exit_code == 130
    assert not list(tmp_path.glob("*.tar"))
    before = len(checked)
    prepare_airogs(airogs, tmp_path)
    assert len(checked) - before == 120 - 50


def test_finished_folder_is_reported_at_once(
    airogs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    report = prepare_airogs(airogs, tmp_path)
    monkeypatch.setattr(prepare_samples.SampleMaker, "make", None)
    capsys.readouterr()
    assert prepare_airogs(airogs, tmp_path) == report
    captured = capsys.readouterr()
    assert "already complete" in captured.err
    assert captured.out == ""


def test_lost_shard_is_written_again(airogs: Path, tmp_path: Path) -> None:
    prepare_airogs(airogs, tmp_path)
    before = contents(tmp_path)
    (tmp_path / "test-000003.tar").unlink()
    prepare_airogs(airogs, tmp_path)
    assert contents(tmp_path) == before


def test_other_settings_are_refused_unless_overwritten(airogs: Path, tmp_path: Path) -> None:
    prepare_airogs(airogs, tmp_path)
    with pytest.raises(ResumeError, match=r"settings\.seed: 0 there, 1 asked for"):
        prepare_airogs(airogs, tmp_path, seed=1)
    config = PrepareConfig(size=16, seed=1)
    prepare_release(read_airogs(airogs, airogs / "groups.csv"), tmp_path, config, overwrite=True)
    assert open_folder(tmp_path, "train").entries
    with pytest.raises(ResumeError, match="is not empty"):
        prepare_airogs(airogs, airogs)


def test_max_bad_does_not_count_as_another_setting(airogs: Path, tmp_path: Path) -> None:
    report = prepare_airogs(airogs, tmp_path)
    assert prepare_airogs(airogs, tmp_path, max_bad=0.5) == report


def spoil(source: Path) -> None:
    """Make one image missing, one unreadable, one too small, one a copy of its class and one of the other class."""
    (source / "0/TRAIN000003.png").unlink()
    (source / "1/TRAIN000004.png").write_bytes(b"no image")
    write_image(source / "2/TRAIN000005.png", 5, (7, 40))
    (source / "0/TRAIN000006.png").write_bytes((source / "1/TRAIN000001.png").read_bytes())
    (source / "1/TRAIN000007.png").write_bytes((source / "2/TRAIN000002.png").read_bytes())


def test_bad_images_are_counted_named_and_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, output = make_airogs(tmp_path / "in"), tmp_path / "out"
    spoil(source)
    report = prepare_airogs(source, output, max_bad=0.05)
    assert report.left_out == {"duplicate": 1, "label conflict": 2, "missing": 1, "unreadable": 1, "wrong size": 1}
    rows = [json.loads(line) for line in (output / ".synthmed/left_out.jsonl").read_text().splitlines()]
    assert [(row["source"], row["reason"]) for row in rows] == [
        ("1/TRAIN000001.png", "label conflict"),
        ("TRAIN000003.jpg", "missing"),
        ("1/TRAIN000004.png", "unreadable"),
        ("2/TRAIN000005.png", "wrong size"),
        ("0/TRAIN000006.png", "label conflict"),
        ("1/TRAIN000007.png", "duplicate"),
    ]
    assert rows[0]["detail"] == "no-glaucoma here, same pixels as 0/TRAIN000006.png, which is glaucoma"
    assert rows[4]["detail"] == "glaucoma here, same pixels as 1/TRAIN000001.png, which is no-glaucoma"
    assert rows[5]["detail"] == "same pixels as 2/TRAIN000002.png"
    assert "2/TRAIN000005.png: wrong size: 40 x 7 pixels, at least 16 are needed" in capsys.readouterr().err
    kept = {entry.key[-11:] for split in SPLITS for entry in open_folder(output, split).entries}
    assert len(kept) == 114
    assert not kept & {f"TRAIN00000{number}" for number in (1, 3, 4, 5, 6, 7)}


def test_too_many_bad_images_end_the_run_before_any_shard(tmp_path: Path) -> None:
    source, output = make_airogs(tmp_path / "in"), tmp_path / "out"
    spoil(source)
    with pytest.raises(DataError, match=r"6 of 120 images \(5\.0%\) cannot be used: 1 duplicate, 2 label") as error:
        prepare_airogs(source, output)
    assert "--max-bad" in str(error.value)
    assert not list(output.glob("*.tar"))
    assert len((output / ".synthmed/left_out.jsonl").read_text().splitlines()) == 6
    for number in range(3, 8):
        write_image(source / str(number % 3) / f"TRAIN{number:06d}.png", number)
    assert prepare_airogs(source, output).left_out == {}


def test_refused_files_end_the_run_before_any_image_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "_check_item", None)
    for name in ("a", "b"):
        for number in range(10):
            write_image(tmp_path / "in" / name / f"{number}.png", number)
    os.rename(tmp_path / "in/a/3.png", os.fsencode(tmp_path / "in/a") + b"/\xfc.png")
    with pytest.raises(DataError, match=r"1 refused; the first: a/\\udcfc.png: its name is not UTF-8"):
        prepare_release(read_image_folders(tmp_path / "in"), tmp_path / "out", CONFIG)


def test_class_too_small_for_its_splits_is_named_before_images_are_opened(tmp_path: Path) -> None:
    source = make_airogs(tmp_path / "in", 20)
    text = (source / "train_labels.csv").read_text().replace(",RG", ",NRG")
    (source / "train_labels.csv").write_text(text)
    with pytest.raises(DataError, match="lists no image of class 'glaucoma'"):
        prepare_airogs(source, tmp_path / "out")
    (source / "train_labels.csv").write_text(text.replace(",NRG", ",RG", 2))
    with pytest.raises(DataError, match="class 'glaucoma' has too few images for the validation split"):
        prepare_airogs(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "changes", [{"validation": 0.0}, {"test": 0.0}, {"validation": 0.5, "test": 0.5}, {"max_bad": 2.0}, {"name": "a b"}]
)
def test_settings_out_of_range_are_usage_errors(changes: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        PrepareConfig(**{"size": 16, **changes})


def test_image_changed_since_it_was_checked_is_a_data_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = make_airogs(tmp_path / "in")

    def failing(item: Any, *limits: Any) -> Any:
        if item.key == "TRAIN000009":
            raise DataError(f"{item.source} cannot be read")
        return scan.load_file(item)

    monkeypatch.setattr(prepare_samples, "load_file", failing)
    with pytest.raises(DataError, match=r"0/TRAIN000009\.png cannot be read"):
        prepare_airogs(source, tmp_path / "out")


def test_counts_of_a_part_are_told_from_the_whole_release(airogs: Path, tmp_path: Path) -> None:
    release = read_airogs(airogs, airogs / "groups.csv")
    assert prepare_release(release, tmp_path / "part", CONFIG).verdict == "a part of the release"
    release.counts.update(release.info.published)
    assert prepare_release(release, tmp_path / "whole", CONFIG).verdict == "the whole release, as published"
    release.counts["images"] += 1
    assert prepare_release(release, tmp_path / "other", CONFIG).verdict == "not the published counts"


def test_chexpert_is_grey_stretched_and_uses_the_full_range(tmp_path: Path) -> None:
    lines = ["Path,Frontal/Lateral,Cardiomegaly"]
    for number in range(40):
        inside = f"train/patient{number:05d}/study1/view1_frontal.png"
        image = np.random.default_rng(number).integers(60, 120, (32, 48, 3), dtype=np.uint8)
        (tmp_path / "in" / inside).parent.mkdir(parents=True)
        (tmp_path / "in" / inside).write_bytes(encode_image(image, "png"))
        lines.append(f"CheXpert-v1.0-small/{inside},Frontal,{number % 2}.0")
    (tmp_path / "in/train.csv").write_text("\n".join(lines))
    release = read_chexpert(tmp_path / "in")
    prepare_release(release, tmp_path / "out", PrepareConfig(size=16, resize="stretch"))
    for entry in open_folder(tmp_path / "out", "test").entries:
        image = decode_image(read_image_bytes(entry), entry.key)
        assert (image.min(), image.max()) == (0, 255)
        assert np.array_equal(image[:, :, 0], image[:, :, 2])


@pytest.mark.parametrize("image_format", ["webp", "jpg"])
def test_other_image_formats_are_read_back(tmp_path: Path, image_format: Any) -> None:
    for name in ("a", "b"):
        for number in range(10):
            write_image(tmp_path / "in" / name / f"{number}.png", 100 * ord(name) + number)
    prepare_release(read_image_folders(tmp_path / "in"), tmp_path / "out", PrepareConfig(16, image_format=image_format))
    entries = open_folder(tmp_path / "out", "train").entries
    assert {entry.extension for entry in entries} == {image_format}
    assert decode_image(read_image_bytes(entries[0]), "x").shape == (16, 16, 3)


def test_phantoms_carry_their_truth_and_say_that_they_are_drawn(tmp_path: Path) -> None:
    report = prepare_release(phantom_release(40), tmp_path, PrepareConfig(size=32))
    assert {split: sum(counts.values()) for split, counts in report.splits.items()} == {
        "train": 24,
        "validation": 4,
        "test": 12,
    }
    rows = [json.loads(line) for line in (tmp_path / ".synthmed/manifest.jsonl").read_text().splitlines()]
    assert all(row["synthetic"] is True and row["generator"] == "phantom" for row in rows)
    means = [np.mean([row["cup_to_disc"] for row in rows if row["label"] == label]) for label in (0, 1)]
    assert 0.2 < means[0] < means[1] < 0.9
    folder = open_folder(tmp_path, "train")
    assert (folder.kind, folder.synthetic) == ("phantom", False)
    assert b"digitalsourcetype/algorithmicMedia" in read_image_bytes(folder.entries[0])
    assert "No patient was imaged" in (tmp_path / "README.md").read_text()


def test_too_few_phantoms_are_a_usage_error() -> None:
    with pytest.raises(UsageError, match="too few phantoms: 19"):
        phantom_release(19)


def test_data_card_says_how_the_images_were_made_and_on_whose_terms(airogs: Path, tmp_path: Path, run: Run) -> None:
    arguments = ("airogs", airogs, "--groups", airogs / "groups.csv", "--size", 16, "--seed", 3)
    assert run(*arguments, "--source-license", "as its authors say", "-o", tmp_path)[0] == 0
    card = (tmp_path / "README.md").read_text()
    assert "Terms of the source: as its authors say." in card
    for words in ("the short side was brought to 16 pixels", "drawn with seed 3", "share no patient", "| train | 48 |"):
        assert words in card


def test_command_prints_the_counts_and_nothing_else_on_stdout(airogs: Path, tmp_path: Path, run: Run) -> None:
    arguments = ("airogs", airogs, "--groups", airogs / "groups.csv", "--size", 16, "-o", tmp_path)
    code, stdout, stderr = run(*arguments)
    assert (code, stderr) == (0, "")
    assert "train" in stdout
    assert "a part of the release" in stdout
    code, stdout, stderr = run(*arguments, "--json")
    result = json.loads(stdout)
    assert result["splits"]["train"] == {"no-glaucoma": 48, "glaucoma": 24}
    assert list(result["splits"]) == list(SPLITS)
    assert (code, stderr) == (0, f"{tmp_path} is already complete\n")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("airogs", "nowhere", "-o", "out"), 3, "error: no such file: nowhere/train_labels.csv"),
        (("chexpert", "nowhere", "-o", "out", "--finding", "Edma"), 2, "error: unknown finding: 'Edma' (did you mean"),
        (("crcdx", "nowhere", "-o", "out"), 3, "error: no such folder: nowhere"),
        (("images", "nowhere", "-o", "out"), 3, "error: no such folder: nowhere"),
        (("images", ".", "-o", "out", "--exclude", ""), 2, "error: --exclude '' fits nothing"),
        (("crcdx", ".", "-o", "out", "--exclude", "a", "--exclude", "./"), 2, "error: --exclude './' fits nothing"),
        (("phantom", "-n", "5", "-o", "out"), 2, "error: too few phantoms: 5"),
        (("phantom", "-n", "50", "--test", "0.95", "-o", "out"), 2, "error: --validation 0.1 and --test 0.95"),
        (("airogs", "x"), 2, "error: Missing option '--output'"),
        (("airogs", "x", "-o", "out", "--resize", "bend"), 2, "error: Invalid value for '--resize'"),
    ],
)
def test_wrong_use_and_bad_input_have_their_exit_codes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run, arguments: tuple[str, ...], code: int, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    found, stdout, stderr = run(*arguments)
    assert (found, stdout) == (code, "")
    assert stderr.startswith(message)
    assert stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["airogs", "crcdx", "chexpert", "images", "phantom"])
def test_help_shows_an_example(run: Run, command: str) -> None:
    code, stdout, _ = run(command, "--help")
    assert code == 0
    assert f"Example: synthmed prepare {command}" in " ".join(stdout.split())


def test_signal_leaves_whole_shards_and_the_same_command_goes_on(tmp_path: Path, run: Run) -> None:
    arguments = ("phantom", "-n", 100, "--size", 64, "--workers", 1, "-o", tmp_path / "stopped")
    process = subprocess.Popen(
        [sys.executable, "-m", "synthmed", "prepare", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for(lambda: bool(list((tmp_path / "stopped").glob("*.tar"))))
    process.send_signal(signal.SIGTERM)
    stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stdout) == (143, "")
    assert stderr.startswith("error: interrupted by SIGTERM: finished shards are whole; run the same command again")
    assert not list((tmp_path / "stopped").rglob("*.part"))
    assert run(*arguments)[0] == 0
    prepare_release(phantom_release(100), tmp_path / "whole", PrepareConfig(size=64))
    assert contents(tmp_path / "stopped") == contents(tmp_path / "whole")


def wait_for(condition: Callable[[], bool], timeout_sec: float = 60) -> None:
    end = time.monotonic() + timeout_sec
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


@pytest.mark.skipif(not SHARED.is_dir(), reason="the real images are not on this machine")
def test_real_fundus_photographs_are_split_by_patient() -> None:
    source = SHARED / "airogs-mini"
    release = read_airogs(source, source / "groups.csv")
    splits = assign_splits(release.items, release.info.classes, {"validation": 0.1, "test": 0.3}, 0)
    of_split = {name: {i.group for i, s in zip(release.items, splits, strict=True) if s == name} for name in SPLITS}
    assert sum(map(len, of_split.values())) == len(set().union(*of_split.values())) == 504
    counts = Counter(zip(splits, (item.label for item in release.items), strict=True))
    assert [counts[split, 1] for split in SPLITS] == [182, 30, 91]


def write_deep_images(folder: Path, top: int) -> Path:
    for number in range(20):
        path = folder / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        values = np.random.default_rng(number).integers(0, top + 1, (20, 20), dtype=np.uint16)
        Image.fromarray(values).save(path)
    return folder


@pytest.mark.parametrize(("top", "bits", "said"), [(4095, None, "give --bits 12"), (9000, None, ""), (4095, 12, "")])
def test_dark_set_of_16_bits_is_noticed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], top: int, bits: int | None, said: str
) -> None:
    release = read_image_folders(write_deep_images(tmp_path / "in", top), None, None, None, None)
    prepare_release(release, tmp_path / "out", PrepareConfig(size=16, bits=bits))
    stderr = capsys.readouterr().err
    assert ("none of 20 images with 16 bits has a value above" in stderr) is bool(said)
    assert said in stderr
    entry = open_folder(tmp_path / "out", "train").entries[0]
    assert bool(decode_image(read_image_bytes(entry), "x").max() > 200) is (bits is not None)
    settings = json.loads((tmp_path / "out/.synthmed/run.json").read_text())["settings"]
    assert settings.get("bits") == bits
    assert ("bits" in settings) is (bits is not None)


def test_value_beyond_the_given_bits_is_left_out(tmp_path: Path) -> None:
    release = read_image_folders(write_deep_images(tmp_path / "in", 4095), None, None, None, None)
    with pytest.raises(DataError, match=r"20 unreadable.*more than 10 bits hold"):
        prepare_release(release, tmp_path / "out", PrepareConfig(size=16, bits=10))
