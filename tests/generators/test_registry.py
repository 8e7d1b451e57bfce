"""Which model `generate --dataset` finds."""

import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from synthmed.errors import CheckpointError
from synthmed.files.atomic import write_json
from synthmed.files.content import hash_file, read_json
from synthmed.generators import registry
from synthmed.generators.families import read_header
from synthmed.generators.registry import find_model, list_entries, register, resolve_path

SaveTinyModel = Callable[..., Path]


@pytest.fixture
def embedded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder in place of the models that synthmed brings."""
    folder = tmp_path / "embedded"
    folder.mkdir()
    monkeypatch.setattr(registry, "EMBEDDED_FOLDER", folder)
    return folder


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that goes on by one second a look, so that the order of registering is certain."""
    times = iter(range(1_000_000, 2_000_000))
    monkeypatch.setattr(time, "time", lambda: float(next(times)))


pytestmark = pytest.mark.usefixtures("embedded", "clock")


def test_latest_registered_model_of_the_data_set_wins(
    synthmed_home: Path, tmp_path: Path, save_tiny_model: SaveTinyModel
) -> None:
    # Names and files' own times say nothing: the order of registering counts.
    paths = [save_tiny_model(tmp_path / f"{name}.safetensors", training={"run": name}) for name in "bca"]
    for path in (paths[2], paths[0], paths[1]):
        register(synthmed_home, path)
    register(synthmed_home, save_tiny_model(tmp_path / "other.safetensors", dataset="other"))
    register(synthmed_home, save_tiny_model(tmp_path / "first.safetensors", kind="autoencoder"))
    assert find_model(synthmed_home, "tiny").path == paths[1]
    assert find_model(synthmed_home, "other").path.name == "other.safetensors"
    assert find_model(synthmed_home, "tiny", kind="autoencoder").path.name == "first.safetensors"
    register(synthmed_home, paths[2])
    assert find_model(synthmed_home, "tiny").path == paths[2]
    assert len(list_entries(synthmed_home)) == 5


def test_registering_names_the_file_and_leaves_it_in_place(
    synthmed_home: Path, tmp_path: Path, tiny_model_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    entry = register(synthmed_home, Path("tiny.safetensors"))
    assert (entry.path, entry.sha256, entry.embedded) == (tiny_model_file, hash_file(tiny_model_file), False)
    (record,) = (synthmed_home / "models").iterdir()
    assert read_json(record)["path"] == str(tiny_model_file)
    monkeypatch.chdir("/")
    assert find_model(synthmed_home, "tiny") == entry


def test_moved_file_is_skipped(synthmed_home: Path, tmp_path: Path, save_tiny_model: SaveTinyModel) -> None:
    old, new = (save_tiny_model(tmp_path / f"{name}.safetensors", training={"run": name}) for name in ("old", "new"))
    register(synthmed_home, old)
    register(synthmed_home, new)
    new.rename(tmp_path / "moved.safetensors")
    assert find_model(synthmed_home, "tiny").path == old
    register(synthmed_home, tmp_path / "moved.safetensors")
    assert find_model(synthmed_home, "tiny").path.name == "moved.safetensors"


def test_file_that_is_trained_anew_stands_once_with_its_new_hash(
    synthmed_home: Path, tmp_path: Path, save_tiny_model: SaveTinyModel
) -> None:
    path = save_tiny_model(tmp_path / "a.safetensors", training={"run": 1})
    register(synthmed_home, path)
    save_tiny_model(path, training={"run": 2})
    register(synthmed_home, path)
    assert [entry.sha256 for entry in list_entries(synthmed_home)] == [hash_file(path)]


def test_embedded_model_is_found_after_registered_ones(
    synthmed_home: Path, tmp_path: Path, embedded: Path, save_tiny_model: SaveTinyModel
) -> None:
    own = save_tiny_model(embedded / "own.safetensors")
    entry = find_model(synthmed_home, "tiny")
    assert (entry.path, entry.embedded, entry.sha256) == (own, True, hash_file(own))
    trained = register(synthmed_home, save_tiny_model(tmp_path / "trained.safetensors"))
    assert find_model(synthmed_home, "tiny") == trained
    assert [entry.embedded for entry in list_entries(synthmed_home)] == [False, True]


def test_missing_model_says_what_there_is_and_how_to_get_one(
    synthmed_home: Path, tmp_path: Path, embedded: Path, save_tiny_model: SaveTinyModel
) -> None:
    with pytest.raises(CheckpointError, match="no generator for data set mri; there are models for: none"):
        find_model(synthmed_home, "mri")
    save_tiny_model(embedded / "own.safetensors", dataset="phantom-fundus")
    register(synthmed_home, save_tiny_model(tmp_path / "a.safetensors"))
    register(synthmed_home, save_tiny_model(tmp_path / "b.safetensors", kind="autoencoder", dataset="mri"))
    with pytest.raises(CheckpointError) as caught:
        find_model(synthmed_home, "mri")
    assert caught.value.exit_code == 3
    for words in (
        "there are models for: phantom-fundus, tiny",
        "synthmed prepare mri",
        "synthmed train ...",
        "synthmed checkpoints import FILE.ckpt --dataset mri",
        "synthmed checkpoints add FILE",
        "--checkpoint FILE",
        "--dataset phantom-fundus",
    ):
        assert words in str(caught.value)


def test_what_is_no_model_is_not_registered(synthmed_home: Path, tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match=r"a\.safetensors is not a safetensors file"):
        register(synthmed_home, tmp_path / "a.safetensors")
    assert not (synthmed_home / "models").exists()


def test_kind_in_a_model_file_does_not_lead_out_of_the_folder(
    synthmed_home: Path, tmp_path: Path, save_tiny_model: SaveTinyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another family may take other kinds than this one does."""
    path = save_tiny_model(tmp_path / "a.safetensors")
    header = read_header(path)
    object.__setattr__(header, "kind", "../../out")
    monkeypatch.setattr(registry, "read_header", lambda _: header)
    assert register(synthmed_home, path).header.kind == "../../out"
    (record,) = (synthmed_home / "models").iterdir()
    assert "out" in record.name


def test_model_of_no_data_set_is_not_registered(
    synthmed_home: Path, tmp_path: Path, save_tiny_model: SaveTinyModel
) -> None:
    with pytest.raises(CheckpointError, match="is of no data set, by which it could be found"):
        register(synthmed_home, save_tiny_model(tmp_path / "a.safetensors", dataset="", kind="autoencoder"))
    assert not (synthmed_home / "models").exists()


def test_unfinished_training_is_not_registered(
    synthmed_home: Path, tmp_path: Path, save_tiny_model: SaveTinyModel
) -> None:
    path = save_tiny_model(tmp_path / "a.safetensors", training={"steps": 10, "finished": False})
    with pytest.raises(CheckpointError, match=r"the training of .*a\.safetensors is not finished"):
        register(synthmed_home, path)
    assert list_entries(synthmed_home) == []


def test_model_whose_training_was_begun_anew_is_not_found_until_it_is_finished(
    synthmed_home: Path, tmp_path: Path, save_tiny_model: SaveTinyModel
) -> None:
    """An aborted trial run has put its first weights where the registered model was."""
    older = register(synthmed_home, save_tiny_model(tmp_path / "older.safetensors", training={"finished": True}))
    path = tmp_path / "run.safetensors"
    register(synthmed_home, save_tiny_model(path, training={"steps": 500, "finished": True}))
    assert find_model(synthmed_home, "tiny").path == path
    save_tiny_model(path, training={"steps": 10, "finished": False})
    assert find_model(synthmed_home, "tiny") == older
    assert list_entries(synthmed_home) == [older]
    older.path.unlink()
    with pytest.raises(CheckpointError, match="no generator for data set tiny; there are models for: none"):
        find_model(synthmed_home, "tiny")
    again = register(synthmed_home, save_tiny_model(path, training={"steps": 20, "finished": True}))
    assert find_model(synthmed_home, "tiny") == again


WHOLE: dict[str, Any] = {"path": "/none.safetensors", "sha256": "", "registered": 1}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"{", "is not JSON: "),
        (b"\xff\xfe\x00", "is not JSON: "),
        (b"[" * 100_000, "nested more than 100 deep"),
        ({}, "it is not a record of a model"),
        ([], "it is not a record of a model"),
        ({**WHOLE, "path": 5}, "it is not a record of a model"),
        ({**WHOLE, "path": ""}, "it is not a record of a model"),
        ({**WHOLE, "registered": "x"}, "it is not a record of a model"),
        ({**WHOLE, "registered": float("nan")}, "is not finite as a double"),
        ({**WHOLE, "registered": float("inf")}, "is not finite as a double"),
        ({**WHOLE, "registered": 10**400}, "is not finite as a double"),
        (WHOLE, "no such model file: /none.safetensors"),
        ({**WHOLE, "path": "/"}, "cannot read /: it is no file"),
        ({**WHOLE, "path": "a\0b"}, "cannot read a.*b: embedded null byte"),
        ({**WHOLE, "path": "a\ud800"}, "half a surrogate pair"),
        ({**WHOLE, "path": "/dev/zero"}, "it is no file"),
        ({**WHOLE, "path": "x" * 5000}, "File name too long"),
    ],
)
def test_broken_record_is_named_and_passed_over(
    synthmed_home: Path, tmp_path: Path, save_tiny_model: SaveTinyModel, capsys: Any, content: Any, said: str
) -> None:
    good = register(synthmed_home, save_tiny_model(tmp_path / "a.safetensors"))
    record = synthmed_home / "models" / "x.json"
    if isinstance(content, bytes):
        record.write_bytes(content)
    else:
        write_json(record, content)
    assert list_entries(synthmed_home) == [good] == [find_model(synthmed_home, "tiny")]
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert re.match(rf"note: passed over {record}: .*{said}.*; remove it", lines[0])


def test_record_that_is_a_folder_or_a_loop_of_links_is_passed_over(
    synthmed_home: Path, tmp_path: Path, save_tiny_model: SaveTinyModel, capsys: Any
) -> None:
    good = register(synthmed_home, save_tiny_model(tmp_path / "a.safetensors"))
    (synthmed_home / "models" / "folder.json").mkdir()
    (synthmed_home / "models" / "loop.json").symlink_to("loop.json")
    (synthmed_home / "models" / "nowhere.json").symlink_to("nowhere")
    (tmp_path / "b.safetensors").symlink_to("b.safetensors")
    write_json(synthmed_home / "models" / "to-loop.json", {**WHOLE, "path": str(tmp_path / "b.safetensors")})
    assert list_entries(synthmed_home) == [good]
    assert capsys.readouterr().err.count("note: passed over") == 4


def test_file_cut_short_after_it_was_registered_is_passed_over(
    synthmed_home: Path, tmp_path: Path, save_tiny_model: SaveTinyModel, capsys: Any
) -> None:
    older, newer = (
        register(synthmed_home, save_tiny_model(tmp_path / f"{n}.safetensors", training={"n": n})) for n in "ab"
    )
    newer.path.write_bytes(newer.path.read_bytes()[:-1])
    assert find_model(synthmed_home, "tiny") == older
    assert "b.safetensors has" in capsys.readouterr().err


def break_weight(path: Path, change: Callable[[bytearray, int], None]) -> None:
    content = bytearray(path.read_bytes())
    change(content, 8 + int.from_bytes(content[:8], "little"))
    path.write_bytes(content)


BROKEN: dict[str, Callable[[bytearray, int], None]] = {
    "it is broken or cut short": lambda content, begin: content.__delitem__(slice(-4, None)),
    "its tensors end at": lambda content, begin: content.extend(b"more"),
    "not finite": lambda content, begin: content.__setitem__(slice(begin, begin + 4), b"\xff" * 4),
    "is not a safetensors file": lambda content, begin: content.__setitem__(7, 255),
}


@pytest.mark.parametrize("said", BROKEN)
def test_file_whose_weights_are_broken_is_not_registered(synthmed_home: Path, tiny_model_file: Path, said: str) -> None:
    break_weight(tiny_model_file, BROKEN[said])
    with pytest.raises(CheckpointError, match=said):
        register(synthmed_home, tiny_model_file)
    assert not (synthmed_home / "models").exists()


def test_two_programs_that_register_at_once_leave_whole_records(
    synthmed_home: Path, tmp_path: Path, save_tiny_model: SaveTinyModel
) -> None:
    paths = [save_tiny_model(tmp_path / f"{number}.safetensors", training={"n": number % 4}) for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda path: register(synthmed_home, path), paths))
    records = list((synthmed_home / "models").iterdir())
    assert len(records) == 4 == len(list_entries(synthmed_home))
    assert {record.suffix for record in records} == {".json"}


def test_path_of_a_run_folder_means_its_trained_model(tmp_path: Path) -> None:
    run = tmp_path / "run"
    for stage in ("autoencoder", "diffusion"):
        (run / stage).mkdir(parents=True)
        (run / stage / "model.safetensors").touch()
    assert resolve_path(run) == run / "diffusion" / "model.safetensors"
    assert resolve_path(run / "autoencoder") == run / "autoencoder" / "model.safetensors"
    assert resolve_path(run / "diffusion" / "model.safetensors") == run / "diffusion" / "model.safetensors"
    for nothing in (tmp_path / "none", tmp_path):
        with pytest.raises(CheckpointError, match="no model file at"):
            resolve_path(nothing)


def test_adversarial_stage_stands_for_the_autoencoder_it_went_on_with(tmp_path: Path) -> None:
    for stage in ("autoencoder", "adversarial"):
        (tmp_path / stage).mkdir()
        (tmp_path / stage / "model.safetensors").touch()
    assert resolve_path(tmp_path) == tmp_path / "adversarial" / "model.safetensors"
