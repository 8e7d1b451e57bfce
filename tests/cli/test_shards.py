"""`synthmed inspect`, `verify`, `pack` and `unpack` as a user meets them: exit codes and both streams."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from synthmed.data.images import decode_image
from synthmed.data.prepare.prepare import PrepareConfig, prepare_release
from synthmed.phantoms.release import phantom_release

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("whole") / "shards"
    prepare_release(phantom_release(80), path, PrepareConfig(size=32))
    return path


def failed(result: tuple[int, str, str], code: int, *words: str) -> None:
    """Check that a command ended with one line on stderr and nothing on stdout."""
    assert result[:2] == (code, ""), result
    assert result[2].startswith("error: ")
    assert result[2].count("\n") == 1
    for word in words:
        assert word in result[2]


# -------------------------------------------------------------------------------------------------------------- verify


def test_verify_of_a_whole_folder_prints_what_there_is(run_program: Run, whole: Path) -> None:
    code, out, err = run_program("verify", whole)
    assert (code, err) == (0, "")
    assert "train" in out
    assert "MB read" in out
    assert "problem" not in out
    assert "not checked" not in out


def test_verify_names_problems_on_stdout_and_ends_with_code_3(run_program: Run, whole: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(whole, tmp_path / "shards")
    (folder / "notes.txt").touch()
    (folder / "sizes.json").write_text("{}")
    code, out, err = run_program("verify", folder)
    assert code == 3
    assert err == f"error: {folder}: 25 problems, first: notes.txt: does not belong in a folder of shards\n"
    assert "25 problems" in out
    assert "train-000000.tar is not listed: 6" in out
    code, out, err = run_program("verify", folder, "--json", "--threads", "1")
    assert code == 3
    report = json.loads(out)
    assert report["num_problems"] == 25
    assert report["problems"][0] == {"file": "notes.txt", "problem": "does not belong in a folder of shards"}


def test_verify_says_what_it_could_not_check(run_program: Run, whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "foreign"
    folder.mkdir()
    for path in whole.glob("*.tar"):
        shutil.copy(path, folder)
    code, out, err = run_program("verify", folder)
    assert (code, err) == (0, "")
    assert "not checked" in out
    assert "hashes of the images: no .synthmed/manifest.jsonl" in out


def test_names_of_files_cannot_reach_the_terminal_as_codes(run_program: Run, whole: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(whole, tmp_path / "shards")
    (folder / "\x1b[2J[red]x").touch()
    (folder / b"\xff.bin".decode("utf-8", "surrogateescape")).touch()
    code, out, err = run_program("verify", folder)
    assert code == 3
    assert "\x1b" not in out + err
    assert r"\x1b[2J[red]x" in out
    assert r"\udcff.bin" in out
    assert r"\x1b[2J[red]x" in err


@pytest.mark.parametrize("command", ["verify", "inspect"])
def test_missing_folder_is_one_line_and_code_3(run_program: Run, tmp_path: Path, command: str) -> None:
    failed(run_program(command, tmp_path / "nowhere"), 3, "no such folder of shards")
    failed(run_program(command, tmp_path), 3, "holds no shards")
    failed(run_program(command), 2, "Missing argument 'DIR'", f"(see synthmed {command} --help)")


# ------------------------------------------------------------------------------------------------------------- inspect


def test_inspect_prints_facts_and_writes_a_sheet(run_program: Run, whole: Path, tmp_path: Path) -> None:
    code, out, err = run_program("inspect", whole, "--workers", 4, "--ranks", 2, "-o", tmp_path / "sheet.png")
    assert (code, err) == (0, "")
    for word in ("phantom", "phantom-fundus", "glaucoma", "32 x 32 pixels, png", "settings.seed", "each of 8 readers"):
        assert word in out
    assert decode_image((tmp_path / "sheet.png").read_bytes(), "sheet").shape[0] > 2 * 32


def test_inspect_warns_where_readers_starve(run_program: Run, whole: Path) -> None:
    code, out, err = run_program("inspect", whole, "--split", "train", "--workers", 4, "--ranks", 8, "--batch-size", 2)
    assert code == 0
    assert err.startswith("warning: train: 8 shards do not divide by 32 readers: 24 get none; an epoch of 16 images")
    assert err.endswith("of timm shows 16 of 48 samples\n")
    code, out, err = run_program("inspect", whole, "--workers", 3, "--json")
    report = json.loads(out)
    assert report["readers"]["train"]["idle"] == 0
    assert "do not divide by 3 readers" in report["readers"]["train"]["warning"]
    assert report["splits"]["test"]["counts"] == {"no-glaucoma": 12, "glaucoma": 12}
    assert "warning: train" in err


def test_inspect_of_a_split_that_is_not_there(run_program: Run, whole: Path) -> None:
    failed(run_program("inspect", whole, "--split", "holdout"), 3, "there are: train, validation, test")
    failed(run_program("inspect", whole, "--workers", 0), 2, "Invalid value for '--workers'")


# ----------------------------------------------------------------------------------------------------- pack and unpack


def test_unpack_and_pack_go_round(run_program: Run, whole: Path, tmp_path: Path) -> None:
    files, shards = tmp_path / "files", tmp_path / "shards"
    code, out, err = run_program("unpack", whole, "-o", files, "--split", "train", "--labels", "stylegan")
    assert (code, err) == (0, "")
    assert "SPLIT/dataset.json" in out
    words = ["pack", files / "train", "-o", shards, "--kind", "real", "--dataset", "again", "--positive", "glaucoma"]
    code, out, err = run_program(*words, "--ranks", 4)
    assert code == 0
    assert "16 shards of 32 x 32 png, train" in out
    assert err == "48 images in 2 classes, labels from dataset.json\n"
    assert run_program("verify", shards)[0] == 0
    code, out, _ = run_program(*words, "--ranks", 4, "--json")
    assert json.loads(out) == {
        "output": str(shards),
        "dataset": "again",
        "split": "train",
        "images": {"no-glaucoma": 24, "glaucoma": 24},
        "shards": 16,
        "image_format": "png",
        "width": 32,
        "height": 32,
        "left_out": {},
        "duplicates": 0,
    }
    failed(run_program(*words), 3, "was made with other settings", "ranks: 4 there, 1 asked for")
    code, out, _ = run_program("unpack", whole, "-o", files, "--split", "train", "--labels", "stylegan", "--json")
    assert json.loads(out)["splits"] == {"train": {"no-glaucoma": 24, "glaucoma": 24}}


def test_pack_names_what_it_leaves_out(run_program: Run, whole: Path, tmp_path: Path) -> None:
    run_program("unpack", whole, "-o", tmp_path / "files", "--split", "test")
    source = tmp_path / "files/test"
    (source / "metadata.jsonl").unlink()
    (source / "glaucoma/broken.png").write_bytes(b"no image")
    words = ["pack", source, "-o", tmp_path / "out", "--class", "glaucoma", "--class", "no-glaucoma"]
    code, out, err = run_program(*words)
    assert (code, out) == (3, "")
    assert err.splitlines()[1].startswith("left out: glaucoma/broken.png: unreadable")
    assert "1 of 25 images (4.0%) cannot be used" in err.splitlines()[2]
    code, out, err = run_program(*words, "--max-bad", 0.1)
    assert code == 0
    assert "left out" in out
    failed(run_program(*words, "--positive", "owl"), 2, "unknown label: 'owl'")
    failed(run_program(*words, "--split", "holdout"), 2, "'holdout' is not one of 'train', 'validation', 'test'")
    failed(run_program("pack", tmp_path / "nowhere", "-o", tmp_path / "x"), 3, "no such folder, zip or tar")
