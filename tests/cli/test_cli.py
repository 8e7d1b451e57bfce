"""The program as a user meets it: exit codes, both streams, and what options mean."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

import synthmed
from synthmed.cli import app, checkpoints
from synthmed.cli.generate_options import resolve_counts
from synthmed.cli.setting_options import resolve_settings
from synthmed.config.recipes import recipe_names
from synthmed.data.images import encode_image
from synthmed.data.labels import Classes
from synthmed.data.prepare.prepare import PrepareConfig, prepare_release
from synthmed.data.prepare.releases import read_image_folders
from synthmed.data.shards.card import FolderInfo
from synthmed.data.shards.plan import RUN_FILE, shard_name
from synthmed.data.shards.read import open_folder
from synthmed.data.shards.side_files import write_side_files
from synthmed.data.shards.write import Sample, write_shard
from synthmed.errors import DeviceError, IncompleteError, UsageError
from synthmed.files.atomic import write_json
from synthmed.files.content import hash_file
from synthmed.formats.model_files import save_model
from synthmed.generators import registry
from synthmed.generators.diffusion.config import DetailBuild, DetailUnetConfig, ScheduleConfig
from synthmed.generators.diffusion.header import DiffusionHeader
from synthmed.generators.diffusion.settings import DiffusionSettings
from synthmed.generators.families import read_header
from synthmed.phantoms.release import phantom_release

SaveTinyModel = Callable[..., Path]
PHANTOM = ("--dataset", "phantom-fundus", "--balanced", "-n", "8")


class Result(NamedTuple):
    """How a command ended."""

    code: int
    stdout: str
    stderr: str


Run = Callable[..., Result]


@pytest.fixture
def run(run_program: Callable[..., tuple[int, str, str]]) -> Run:
    """A function that runs the program in this process: `run("recipes", "list")`."""
    return lambda *words: Result(*run_program(*words))


def failed(result: Result, code: int, *words: str) -> None:
    """Check that a command ended with one line on stderr and nothing on stdout."""
    assert result.code == code, result
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    for word in words:
        assert word in result.stderr


def write_data(folder: Path, classes: Classes, labels: Sequence[int]) -> Path:
    """Write one shard of training images with these labels in a folder that describes its classes, and return it."""
    image = np.zeros((16, 16, 3), dtype=np.uint8)
    samples = [
        Sample(f"train-{index}", encode_image(image + index, "png"), "png", label, {"label": label, "synthetic": False})
        for index, label in enumerate(labels)
    ]
    (folder / shard_name("train", 0)).unlink(missing_ok=True)  # a finished one would be left
    write_shard(folder / shard_name("train", 0), samples)
    info = FolderInfo(kind="real", dataset="eyes", classes=classes, size=16)
    write_json(folder / RUN_FILE, {"folder": info.as_config()})
    write_side_files(folder, info)
    return folder


def start(code: str) -> subprocess.Popen[str]:
    """Start the program in a process of its own with one command put in its place."""
    setup = "import sys, time, signal, os; from synthmed.cli import app, common\n"
    patch = "for command in app.app.registered_commands: command.callback = replacement\n"
    script = f"{setup}def replacement(): {code}\n{patch}sys.argv = ['synthmed', 'generate']\napp.main()"
    return subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": ""},  # as users have it: short results are written at the end
    )


# ---------------------------------------------------------------------------------------------- the program's frame


def test_program_runs_as_a_module() -> None:
    done = subprocess.run([sys.executable, "-m", "synthmed", "nonsense"], capture_output=True, text=True, check=False)
    failed(Result(done.returncode, done.stdout, done.stderr), 2, "No such command 'nonsense'", "(see synthmed --help)")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["genrate"], "No such command 'genrate'. Did you mean 'generate', 'regenerate'? (see synthmed --help)"),
        (["--nonsense"], "No such option: --nonsense"),
        (["generate", "-o", "x", "--nonsense"], "(see synthmed generate --help)"),
        (["train-classifier"], "Missing option '--real'"),
        (["generate", "-o", "x", "-n", "0"], "Invalid value for '-n' / '--num-images'"),
        (["generate", "-o", "x", "--eta", "2"], "Invalid value for '--eta'"),
        (["generate", "-o", "x", "--steps", "many"], "Invalid value for '--steps'"),
        (["generate", "-o", "x", "--sampler", "euler"], "'euler' is not one of 'ddim', 'dpmpp-2m'"),
        (["prepare", "mri"], "No such command 'mri'"),
        (["recipes", "show"], "Missing argument"),
    ],
)
def test_wrong_usage_is_one_line_and_code_2(run: Run, words: list[str], message: str) -> None:
    failed(run(*words), 2, message)


def test_version_is_printed(run: Run) -> None:
    assert run("--version") == (0, f"synthmed {synthmed.__version__}\n", "")


def test_no_words_give_the_help(run: Run) -> None:
    result = run()
    assert (result.code, result.stderr) == (0, "")
    assert "Usage: synthmed" in result.stdout
    for word in ("prepare", "train-autoencoder", "train-diffusion", "generate", "train-classifier", "Exit codes"):
        assert word in result.stdout


@pytest.mark.parametrize(("error", "code"), [(DeviceError("full\ndisk", "free it"), 4), (IncompleteError("half"), 5)])
def test_errors_become_one_line_and_their_code(
    run: Run, monkeypatch: pytest.MonkeyPatch, error: Exception, code: int
) -> None:
    def fail() -> Path:
        raise error

    monkeypatch.setattr(checkpoints, "models_home", fail)
    failed(run("checkpoints", "list"), code, " ".join(str(error).split()))
    monkeypatch.setenv("SYNTHMED_DEBUG", "1")
    monkeypatch.setattr(sys, "argv", ["synthmed", "checkpoints", "list"])
    with pytest.raises(type(error)):
        app.main()


def test_bug_keeps_its_trace_and_gives_code_1() -> None:
    with start("raise ZeroDivisionError('a bug')") as process:
        stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stdout) == (1, "")
    assert "Traceback" in stderr
    assert "ZeroDivisionError: a bug" in stderr


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signal_ends_with_one_line_and_its_code(number: signal.Signals, code: int) -> None:
    with start("print('ready', flush=True); time.sleep(60)") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        stdout, stderr = process.communicate(timeout=60)
    failed(
        Result(process.returncode, stdout, stderr), code, f"interrupted by {number.name}", "run the same command again"
    )


def test_signal_while_a_model_is_looked_for_ends_the_command(
    run: Run, monkeypatch: pytest.MonkeyPatch, tiny_model_file: Path, tmp_path: Path
) -> None:
    """Its file is not taken for one that cannot be read, for which an older model would be used."""

    def read(path: Path) -> Any:
        if path == tiny_model_file:
            os.kill(os.getpid(), signal.SIGTERM)
        return read_header(path)

    run("checkpoints", "add", tiny_model_file)
    monkeypatch.setattr(registry, "read_header", read)
    words = ("generate", "--dataset", "tiny", "--balanced", "-n", "4", "-o", tmp_path / "out")
    failed(run(*words), 143, "interrupted by SIGTERM")
    assert not (tmp_path / "out").exists()


# Wrong words, and what is missing, are told before torch is imported.
EARLY = [
    (["generate", *PHANTOM, "--shards", "nonsense"], 2, "--shards nonsense"),
    (["generate", *PHANTOM, "--shards", "99"], 2, "there is no shard 99"),
    (["generate", *PHANTOM, "--device", "nonsense"], 2, "unknown device: 'nonsense'"),
    (["generate", *PHANTOM, "-o", "file"], 3, "file is not a folder"),
    (["generate", *PHANTOM, "-o", "file/x"], 4, "a part of the path is a file"),
    (["generate", "--checkpoint", "none", "--balanced", "-n", "4"], 3, "no model file at none"),
    (["train", "--data", "none", "-o", "run", "--recipe", "tiny"], 3, "no such folder of shards: none"),
    (["train", "--data", "none", "-o", "run"], 3, "no such folder of shards: none"),
    (["train", "--data", "none", "-o", "s3://b/run", "--recipe", "tiny"], 2, "a folder of this machine"),
    (["train", "--data", "none", "-o", "run", "--vgg-weights", "none.pth"], 3, "no such file: none.pth"),
    (["train-classifier", "--real", "x", "-o", "y", "--weights", "none.safetensors"], 3, "no such file"),
    (["train-classifier", "--real", "x", "-o", "y", "--device", "tpu"], 2, "unknown device: 'tpu'"),
    (["evaluate-autoencoder", "--checkpoint", "x", "--data", "none"], 3, "no such folder of shards: none"),
    (["checkpoints", "export", "x", "-o", "folder"], 4, "there is a folder of that name"),
]
RUN_ALL = """
import contextlib, io, json, sys
from synthmed.cli import app
found = []
for words in json.load(sys.stdin):
    sys.argv, stderr = ["synthmed", *words], io.StringIO()
    try:
        with contextlib.redirect_stderr(stderr):
            app.main()
    except SystemExit as end:
        found.append([end.code, stderr.getvalue(), "torch" in sys.modules])
json.dump(found, sys.stdout)
"""


def test_what_can_be_told_early_is_told_without_torch(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    asked = json.dumps([words for words, _, _ in EARLY])
    done = subprocess.run(
        [sys.executable, "-c", RUN_ALL], cwd=tmp_path, input=asked, capture_output=True, text=True, check=True
    )
    for (words, code, message), (found, line, with_torch) in zip(EARLY, json.loads(done.stdout), strict=True):
        assert (found, with_torch, line.count("\n")) == (code, False, 1), (words, line)
        assert message in line
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["file", "folder"]


@pytest.mark.parametrize(
    ("home", "message"), [("file", "the variable SYNTHMED_HOME is"), ("file/x", "models cannot be registered")]
)
def test_home_that_cannot_be_one_is_wrong_usage(
    run: Run, monkeypatch: pytest.MonkeyPatch, tiny_model_file: Path, tmp_path: Path, home: str, message: str
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("SYNTHMED_HOME", str(tmp_path / home))
    failed(run("checkpoints", "add", tiny_model_file), 2, message, "SYNTHMED_HOME")


@pytest.mark.parametrize("length", [10, 1_000_000])
def test_reader_that_has_gone_ends_the_program_quietly(length: int) -> None:
    # As in `synthmed ... | head`; a short result fails at the last flush only.
    with start(f"sys.stdin.readline(); sys.stdout.write('x' * {length})") as process:
        assert process.stdin and process.stdout and process.stderr
        process.stdout.close()
        process.stdin.write("go on\n")
        process.stdin.close()
        assert process.stderr.read() == ""
    assert process.returncode == 0


def test_tables_that_nobody_reads_end_the_program_quietly() -> None:
    table = "common.print_table('title', ['column'], [['x' * 100]] * 2000)"
    with start(f"sys.stdin.readline(); {table}; {table}") as process:
        assert process.stdin and process.stdout and process.stderr
        process.stdout.close()
        process.stdin.write("go on\n")
        process.stdin.close()
        assert process.stderr.read() == ""
    assert process.returncode == 0


def test_other_broken_pipe_is_not_taken_for_success() -> None:
    with start("raise BrokenPipeError(32, 'a worker has died')") as process:
        stdout, stderr = process.communicate(timeout=60)
    failed(Result(process.returncode, stdout, stderr), 4, "the system refused: a worker has died")


@pytest.mark.parametrize(("shell", "sign"), [("bash", "complete -o default"), ("zsh", "compdef"), ("fish", "complete")])
def test_completion_script_calls_the_program_by_its_name(shell: str, sign: str) -> None:
    environment = {**os.environ, "_SYNTHMED_COMPLETE": f"source_{shell}"}
    done = subprocess.run(
        [sys.executable, "-m", "synthmed"], env=environment, capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert sign in done.stdout
    assert "_SYNTHMED_COMPLETE=complete_" + shell in done.stdout


def test_show_completion_needs_a_shell_only() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "synthmed", "--show-completion", "bash"],
        env={**os.environ, "SHELL": "/bin/bash", "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "_SYNTHMED_COMPLETE=complete_bash" in done.stdout


def test_completion_offers_commands_and_options() -> None:
    def complete(words: str) -> list[str]:
        environment = {"_SYNTHMED_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
        done = subprocess.run(
            [sys.executable, "-m", "synthmed"],
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        return done.stdout.split()

    assert complete("synthmed gen") == ["generate"]
    assert "--sampler" in complete("synthmed generate --sam")


# ------------------------------------------------------------------------------------------ recipes and checkpoints


def test_recipes_are_listed(run: Run) -> None:
    table, listed = run("recipes", "list"), run("recipes", "list", "--json")
    assert (table.code, listed.code, table.stderr + listed.stderr) == (0, 0, "")
    assert all(name in table.stdout for name in recipe_names())
    assert [recipe["name"] for recipe in json.loads(listed.stdout)] == recipe_names()


def test_recipe_is_shown_with_meanings_and_changes(run: Run) -> None:
    table = run("recipes", "show", "phantom-fundus", "--set", "diffusion.lr=3e-5", "--set", "diffusion.loss=l1")
    assert table.code == 0
    for word in ("diffusion.lr", "3e-05", "peak learning rate", "vae.widths", "[24, 48, 96]"):
        assert word in table.stdout
    shown = json.loads(run("recipes", "show", "phantom-fundus", "--set", "data.size=32", "--json").stdout)
    assert (shown["name"], shown["data"]["size"], shown["vae"]["widths"]) == ("phantom-fundus", 32, [24, 48, 96])


def test_recipe_file_that_is_shown_is_the_same_recipe(run: Run, tmp_path: Path) -> None:
    shown = run("recipes", "show", "phantom-fundus", "--set", "diffusion.lr=3e-5", "--toml")
    assert (shown.code, shown.stderr) == (0, "")
    assert "lr = 3e-05 # peak learning rate\n" in shown.stdout
    (tmp_path / "mine.toml").write_text(shown.stdout)
    words = ("recipes", "show", "phantom-fundus", "--set", "diffusion.lr=3e-5", "--json")
    wanted, found = (
        json.loads(result.stdout) for result in (run(*words), run("recipes", "show", tmp_path / "mine.toml", "--json"))
    )
    assert found == {**wanted, "name": "mine"}
    failed(run("recipes", "show", "tiny", "--toml", "--json"), 2, "--toml and --json")


def test_unknown_recipe_names_the_nearest(run: Run) -> None:
    failed(run("recipes", "show", "phantom-fundu"), 3, "unknown recipe: phantom-fundu (did you mean phantom-fundus?")
    words = ("--data", "nowhere", "-o", "nowhere")
    failed(run("train-autoencoder", "--recipe", "phantom-fundu", *words), 3, "did you mean phantom-fundus?")
    failed(run("train-diffusion", "-r", "phantom-fundus", "--set", "x.y=1", *words), 3, "unknown key", ": x")


def test_adversarial_stage_needs_a_trained_autoencoder(run: Run, tmp_path: Path) -> None:
    words = ("train-autoencoder", "--recipe", "tiny", "--data", "nowhere", "-o", tmp_path)
    failed(run(*words, "--autoencoder", "x"), 2, "--autoencoder without --adversarial")
    failed(run(*words, "--adversarial"), 3, f"no trained autoencoder in {tmp_path}", "--autoencoder")
    failed(run(*words, "--adversarial", "--autoencoder", "x"), 3, "no such autoencoder: x")


@pytest.mark.parametrize("with_weights", [False, True])
def test_lpips_has_a_column_where_its_weights_are_given(
    run: Run, tiny_model_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, with_weights: bool
) -> None:
    from synthmed.generators.diffusion import reconstruction
    from synthmed.metrics.bands import BandFigures

    weights = tiny_model_file if with_weights else None
    bands = BandFigures((1.0, 0.75, 0.5, 0.25, 0.125, None), (0.0, 0.25, 0.5, 0.75, 0.875, None))

    def measured(paths: list[Path], *_: object, **options: object) -> reconstruction.ReconstructionReport:
        assert (paths, options["vgg_weights"]) == ([tiny_model_file], weights)
        lpips = None if weights is None else (0.25, 0.125)
        figures = ((0.9, 0.1), (1e-3, 1e-4), (30.0, 2.0), bands, lpips)
        row = reconstruction.ReconstructionRow("m", "test", "all", 3, *figures)
        published = reconstruction.PUBLISHED["airogs"]
        return reconstruction.ReconstructionReport((row,), "airogs", 256, 5, published, "sheet.png")

    monkeypatch.setattr(reconstruction, "evaluate_autoencoders", measured)
    words = ["evaluate-autoencoder", "--checkpoint", tiny_model_file, "--data", tmp_path]
    (tmp_path / shard_name("test", 0)).touch()
    table = run(*words, *(["--vgg-weights", weights] if weights else []))
    assert table.code == 0
    assert "30.0 ± 2.0" in table.stdout
    assert ("LPIPS (VGG-16)" in table.stdout) == ("0.250 ± 0.125" in table.stdout) == (weights is not None)
    # A table of their own, in which what originals do not have is a dash.
    rows = [line.replace("│", " ").split() for line in table.stdout.splitlines()]
    assert ["m", "test", "kept", "1.000", "0.750", "0.500", "0.250", "0.125", "-"] in rows
    assert ["m", "test", "error", "0.000", "0.250", "0.500", "0.750", "0.875", "-"] in rows


def test_models_are_added_listed_and_shown(run: Run, tiny_model_file: Path) -> None:
    added = json.loads(run("checkpoints", "add", tiny_model_file, "--json").stdout)
    sha256 = hash_file(tiny_model_file)
    assert added == {"dataset": "tiny", "kind": "generator", "path": str(tiny_model_file), "sha256": sha256}
    listed = json.loads(run("checkpoints", "list", "--json").stdout)
    assert (listed[0]["path"], listed[0]["sha256"], listed[0]["labels"]["names"]) == (
        str(tiny_model_file),
        sha256,
        ["no-glaucoma", "glaucoma"],
    )
    shown = json.loads(run("checkpoints", "info", tiny_model_file, "--json").stdout)
    assert (shown["sha256"], shown["image"]) == (sha256, {"height": 16, "width": 16})
    assert shown["parameters"].keys() == {"autoencoder", "denoiser"}
    assert sha256 in run("checkpoints", "info", tiny_model_file).stdout
    assert "tiny" in run("checkpoints", "add", tiny_model_file).stdout
    assert "no-glaucoma, glaucoma" in run("checkpoints", "list").stdout


@pytest.fixture
def checkpoint(lightning_file: Callable[..., Path]) -> Path:
    """A checkpoint of the published code."""
    return lightning_file(name="eye.ckpt", estimator_objective="x_0", clip_x0=True)


def test_import_takes_the_place_of_no_file_that_it_reads(run: Run, checkpoint: Path) -> None:
    before = checkpoint.read_bytes()
    failed(run("checkpoints", "import", checkpoint, "--dataset", "airogs", "-o", checkpoint), 2, "take the place of")
    other = checkpoint.rename(checkpoint.with_suffix(".safetensors"))
    failed(run("checkpoints", "import", other, "--dataset", "airogs"), 2, "give another name with --output")
    assert other.read_bytes() == before


def test_import_info_and_export(run: Run, checkpoint: Path, tiny_tensors: dict[str, Any], tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    words = ("--dataset", "my-eyes", "--classes", "sick, healthy", "--size", "16x24", "--json")
    imported = json.loads(run("checkpoints", "import", checkpoint, *words).stdout)
    path = tmp_path / "eye.safetensors"
    assert imported == {"dataset": "my-eyes", "kind": "generator", "path": str(path), "sha256": hash_file(path)}
    assert "16x24" in run("checkpoints", "list").stdout
    shown = json.loads(run("checkpoints", "info", path, "--json").stdout)
    assert (shown["image"], shown["labels"]["names"]) == ({"height": 16, "width": 24}, ["sick", "healthy"])
    assert shown["sha256"] == hash_file(path)
    assert shown["training"]["steps"] == 1234
    assert shown["training"]["imported_sha256"] == hash_file(checkpoint)
    assert shown["parameters"]["denoiser"] > 1000
    table = {
        line.split("│")[1].strip(): line for line in run("checkpoints", "info", path).stdout.splitlines() if "│" in line
    }
    for field, value in {
        "build.unet.objective": "x_0",
        "build.unet.clip_x_0": "True",
        "build.unet.learned_variance": "False",
        "build.unet.self_conditioning": "False",
        "build.unet.conditional": "True",
        "build.schedule.strategy": "scaled_linear",
        "labels.names": "['sick', 'healthy']",
        "training.steps": "1234",
        "parameters.autoencoder": str(shown["parameters"]["autoencoder"]),
        "sha256": hash_file(path),
    }.items():
        assert value in table[field]
    assert run("checkpoints", "export", path, "-o", tmp_path / "back.safetensors").code == 0
    back = load_file(tmp_path / "back.safetensors")
    assert back.keys() == tiny_tensors.keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in tiny_tensors.items())


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("--size", "0"), 2, "--size 0: not a size"),
        (("--size", "16x"), 2, "not a size"),
        (("--size", "16x24x3"), 2, "not a size"),
        (("--size", "16,24"), 2, "not a size"),
        (("--size", "99999"), 2, "not a size"),
        (("--size", "18"), 2, "--size 18: sides must be multiples of 4"),
        (("--classes", "a,,b"), 2, "--classes a,,b"),
        (("--classes", "a,a"), 2, "two classes have the same name: a"),
        (("--classes", "a,b\u202e"), 2, "cannot be the name of a class"),
        (("--classes", "a,b", "--dataset", "../../x"), 2, "cannot be the name of a data set"),
        (("--classes", "a,b,c"), 3, "has 2 classes, airogs has 3"),
    ],
)
def test_imports_that_cannot_be(run: Run, checkpoint: Path, words: tuple[str, ...], code: int, message: str) -> None:
    failed(run("checkpoints", "import", checkpoint, "--dataset", "airogs", *words), code, message)
    assert not checkpoint.with_suffix(".safetensors").exists()


def test_weights_that_are_not_finite_leave_no_file(
    run: Run, lightning_file: Callable[..., Path], tiny_tensors: dict[str, Any], tmp_path: Path
) -> None:
    name = "latent_embedder.outc.conv.bias"
    path = lightning_file(name="eye.ckpt", tensors={**tiny_tensors, name: tiny_tensors[name] * float("nan")})
    result = run("checkpoints", "import", path, "--dataset", "airogs", "--size", "16")
    failed(result, 3, f"eye.ckpt has weights that are not finite: {name}")
    assert [entry.name for entry in tmp_path.iterdir()] == ["eye.ckpt"]


def test_import_for_an_unknown_family_is_refused(run: Run, checkpoint: Path) -> None:
    words = ("checkpoints", "import", checkpoint, "--dataset", "airogs", "--family", "nonsense")
    failed(run(*words), 2, "unknown family: nonsense", "diffusion")
    assert not checkpoint.with_suffix(".safetensors").exists()


@pytest.mark.parametrize("command", ["info", "add"])
def test_what_is_no_model_gives_code_3(run: Run, tmp_path: Path, command: str) -> None:
    failed(run("checkpoints", command, tmp_path / "none"), 3, "no model file at")
    (tmp_path / "a.safetensors").write_bytes(b"nothing")
    failed(run("checkpoints", command, tmp_path / "a.safetensors"), 3, "is not a safetensors file")


# -------------------------------------------------------------------------------------------------------- generate


def test_generate_needs_a_model(run: Run, tmp_path: Path) -> None:
    failed(run("generate", "-o", tmp_path / "out"), 2, "neither --dataset nor --checkpoint")
    assert not (tmp_path / "out").exists()


def test_unknown_data_set_says_how_to_get_a_model(run: Run, tmp_path: Path) -> None:
    result = run("generate", "--dataset", "airogs", "--label", "glaucoma", "-n", 4, "-o", tmp_path / "out")
    failed(
        result,
        3,
        "no generator for data set airogs",
        "synthmed prepare airogs",
        "`synthmed train ...`",
        "checkpoints add FILE",
        "--checkpoint FILE",
        "--dataset phantom-fundus",
    )
    assert not (tmp_path / "out").exists()


def test_unknown_label_lists_labels_and_aliases(run: Run, tmp_path: Path, tiny_model_file: Path) -> None:
    words = ("generate", "--checkpoint", tiny_model_file, "--label", "glaucom", "-n", 4, "-o", tmp_path / "out")
    failed(
        run(*words), 2, "unknown label: 'glaucom'", "did you mean glaucoma?", "no-glaucoma (or NRG)", "glaucoma (or RG)"
    )
    assert not (tmp_path / "out").exists()


def test_autoencoder_alone_cannot_generate(run: Run, tmp_path: Path, save_tiny_model: SaveTinyModel) -> None:
    path = save_tiny_model(tmp_path / "a.safetensors", kind="autoencoder")
    words = ("generate", "--checkpoint", path, "--balanced", "-n", 4, "-o", tmp_path / "out")
    failed(run(*words), 3, "holds an autoencoder only", "whole model")
    assert not (tmp_path / "out").exists()


def test_options_reach_the_production_resolved(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_model_file: Path
) -> None:
    seen: dict[str, Any] = {}

    def record(config: object, output: Path, **options: object) -> dict[str, Any]:
        seen.update(config=config, output=output, **options)
        return {"shards": 1}

    monkeypatch.setattr("synthmed.production.run.generate", record)
    run("checkpoints", "add", tiny_model_file)
    words = ["--label", "rg=3", "--label", "no glaucoma=1", "--sampler", "dpmpp-2m", "--guidance", "2", "--seed", "9"]
    result = run("generate", "--dataset", "tiny", *words, "-o", tmp_path / "out", "--batch-size", "2", "--json")
    assert (result.code, json.loads(result.stdout)) == (0, {"shards": 1})
    config = seen["config"]
    assert (config.counts, config.seed, config.checkpoint) == ((1, 3), 9, tiny_model_file)
    assert config.checkpoint_sha256 == hash_file(tiny_model_file)
    assert config.settings == DiffusionSettings(sampler="dpmpp-2m", steps=20, eta=0.0, guidance_scale=2.0)
    assert (seen["output"], seen["batch_size"], seen["device"], seen["overwrite"]) == (
        tmp_path / "out",
        2,
        "auto",
        False,
    )


@pytest.mark.parametrize(
    ("labels", "number", "balanced", "counts"),
    [
        (["glaucoma"], 7, False, (0, 7)),
        (["RG"], 7, False, (0, 7)),
        (["nrg"], 7, False, (7, 0)),
        (["No_Glaucoma"], 7, False, (7, 0)),
        (["glaucoma=3"], None, False, (0, 3)),
        (["glaucoma=3"], 3, False, (0, 3)),
        (["RG=3", "NRG=5"], None, False, (5, 3)),
        (["RG=3", "NRG=5"], 8, False, (5, 3)),
        ([], 10, True, (5, 5)),
        ([], 11, True, (6, 5)),
        ([], 1, True, (1, 0)),
    ],
)
def test_labels_and_numbers_become_counts(
    tiny_header: DiffusionHeader, labels: list[str], number: int | None, balanced: bool, counts: tuple[int, ...]
) -> None:
    assert resolve_counts(tiny_header, labels, number, balanced) == counts


def test_model_of_one_class_needs_a_number_alone(tiny_header: DiffusionHeader) -> None:
    one = dataclasses.replace(tiny_header, classes=Classes(("image",)))
    assert resolve_counts(one, [], 7, False) == (7,)
    assert resolve_counts(one, ["image=3"], None, False) == (3,)
    with pytest.raises(UsageError, match="how many images of image"):
        resolve_counts(one, [], None, False)


@pytest.mark.parametrize(
    ("labels", "number", "balanced", "message"),
    [
        ([], None, False, "no --label is given .*labels: no-glaucoma, glaucoma"),
        ([], 5, False, "no --label is given"),
        ([], None, True, "--balanced needs -n"),
        (["RG"], 5, True, "--balanced needs -n and no --label"),
        (["RG"], None, False, "how many images of RG"),
        (["RG", "NRG"], 5, False, "how many images of RG"),
        (["RG=3", "NRG"], 5, False, "how many images of NRG"),
        (["RG=3", "glaucoma=4"], None, False, "label glaucoma is given twice"),
        (["RG=3", "NRG=4"], 8, False, "-n 8 but the labels add up to 7"),
        (["RG=0"], None, False, "RG=0: not a number of images"),
        (["RG=-1"], None, False, "not a number of images"),
        (["RG=1.5"], None, False, "not a number of images"),
        (["RG="], None, False, "not a number of images"),
        (["cat=3"], None, False, "unknown label: 'cat'"),
        (["=3"], None, False, "unknown label: ''"),
    ],
)
def test_options_that_do_not_go_together_are_usage_errors(
    tiny_header: DiffusionHeader, labels: list[str], number: int | None, balanced: bool, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        resolve_counts(tiny_header, labels, number, balanced)


def test_sampler_settings_are_the_models_own_unless_said(tiny_header: DiffusionHeader) -> None:
    own = DiffusionSettings(sampler="ddim", steps=30, eta=0.5, guidance_scale=3.0)
    model = dataclasses.replace(tiny_header, sampling=own)
    assert resolve_settings(model, {}) == own
    assert resolve_settings(model, {"sampler": "ddim"}) == own
    assert resolve_settings(model, {"steps": 10, "eta": 0.0, "guidance_scale": 1.0}) == DiffusionSettings(
        "ddim", 10, 0.0, 1.0
    )


def test_other_sampler_brings_its_usual_settings(tiny_header: DiffusionHeader) -> None:
    ddim = dataclasses.replace(tiny_header, sampling=DiffusionSettings("ddim", 30, 0.5, 3.0))
    assert resolve_settings(ddim, {"sampler": "dpmpp-2m"}) == DiffusionSettings("dpmpp-2m", 20, 0.0, 3.0)
    assert resolve_settings(ddim, {"sampler": "dpmpp-2m", "steps": 12}) == DiffusionSettings("dpmpp-2m", 12, 0.0, 3.0)
    dpm = dataclasses.replace(tiny_header, sampling=DiffusionSettings("dpmpp-2m", 15, 0.0, 2.0))
    assert resolve_settings(dpm, {"sampler": "ddim"}) == DiffusionSettings("ddim", 150, 1.0, 2.0)


def test_settings_that_the_sampler_cannot_follow_are_usage_errors(
    tiny_header: DiffusionHeader, change_header: Callable[..., DiffusionHeader]
) -> None:
    with pytest.raises(UsageError, match="dpmpp-2m has no eta"):
        resolve_settings(tiny_header, {"sampler": "dpmpp-2m", "eta": 0.5})
    with pytest.raises(UsageError, match="guidance_scale is nan"):
        resolve_settings(tiny_header, {"guidance_scale": float("nan")})
    short = change_header(tiny_header, schedule=ScheduleConfig(num_timesteps=50))
    with pytest.raises(UsageError, match=r"steps is 51 \(the model has 50 timesteps\)"):
        resolve_settings(short, {"steps": 51})


def test_detail_can_be_left_out_and_leaves_no_mark(
    run: Run,
    tmp_path: Path,
    tiny_header: DiffusionHeader,
    make_tensors: Callable[..., dict[str, Any]],
    change_header: Callable[..., DiffusionHeader],
) -> None:
    detail = DetailBuild(DetailUnetConfig(widths=(8, 8, 16), norm_groups=8, emb_channels=16))
    header = change_header(tiny_header, detail=detail, sampling=DiffusionSettings(steps=3, detail_steps=2))
    model = tmp_path / "model.safetensors"
    save_model(model, header, make_tensors(header))
    words = ("generate", "--checkpoint", model, "--balanced", "-n", 4, "--device", "cpu")
    failed(run(*words, "-o", tmp_path / "x", "--no-detail", "--detail-steps", 3), 2, "--no-detail with --detail-steps")
    failed(run(*words, "-o", tmp_path / "x", "--detail-steps", 1001), 2, "the detail stage has 1000")
    said = {}
    for name, options in {"with": (), "without": ("--no-detail",)}.items():
        assert run(*words, "-o", tmp_path / name, *options).code == 0
        config = json.loads((tmp_path / name / ".synthmed" / "run.json").read_text())
        said[name] = config["sampler"].get("detail_steps")
        key = open_folder(tmp_path / name, "train").entries[0].key
        again = run("regenerate", tmp_path / name, key, "--checkpoint", model, "--device", "cpu")
        assert again.code == 0, again.stderr
    assert said == {"with": 2, "without": None}


@pytest.mark.parametrize(
    ("classes", "counts"),
    [
        (Classes(("RG", "NRG")), (2, 0)),
        (Classes(("Glaucoma", "healthy"), {"nrg": "healthy"}), (2, 0)),
        (Classes(("NRG", "RG")), (0, 2)),
    ],
)
def test_match_finds_classes_by_their_aliases_in_any_order(
    tiny_header: DiffusionHeader, tmp_path: Path, classes: Classes, counts: tuple[int, ...]
) -> None:
    """Three images of label 0, one of label 1: what is missing is of the class that label 1 is called."""
    data = write_data(tmp_path / "data", classes, (0, 0, 1, 0))
    assert resolve_counts(tiny_header, [], None, False, match=data) == counts


def test_match_makes_what_the_real_shards_lack(run: Run, tmp_path: Path, tiny_model_file: Path) -> None:
    data = write_data(tmp_path / "data", Classes(("RG", "NRG")), (0, 0, 1, 0))
    words = ("generate", "--checkpoint", tiny_model_file, "--match", data, "-o", tmp_path / "out", "--device", "cpu")
    failed(run(*words, "-n", "3"), 2, "--match says how many images")
    result = run(*words, "--steps", "2", "--json")
    assert json.loads(result.stdout)["images"] == {"no-glaucoma": 2, "glaucoma": 0}
    other = write_data(tmp_path / "other", Classes(("cat", "dog")), (0, 0, 1, 0))
    failed(run("generate", "--checkpoint", tiny_model_file, "--match", other, "-o", tmp_path / "no"), 3, "cat, dog")
    assert not (tmp_path / "no").exists()


def test_model_or_set_that_has_changed_is_refused(
    run: Run, tmp_path: Path, tiny_model_file: Path, save_tiny_model: SaveTinyModel
) -> None:
    classes = Classes(("RG", "NRG"))
    data = write_data(tmp_path / "data", classes, (0, 0, 1, 0))
    words = ("generate", "--checkpoint", tiny_model_file, "--match", data, "-o", tmp_path / "out", "--steps", "1")
    said = "the source has changed since it was checked: "
    assert run(*words).code == 0
    write_data(data, classes, (0, 0, 1, 0, 0, 0))
    failed(run(*words), 3, f"{said}{data} (counts.no-glaucoma: 2 there, 4 asked for)")
    write_data(data, classes, (0, 0, 1, 0))
    assert json.loads(run(*words, "--json").stdout)["made_now"] == 0
    save_tiny_model(tiny_model_file, half=True)
    failed(run(*words), 3, f"{said}{tiny_model_file} (checkpoint_sha256: ")
    assert json.loads(run(*words, "--overwrite", "--json").stdout)["made_now"] == 2


# ----------------------------------------------------------------------------------------------------------- train


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepared shards of drawn eyes of 32 px."""
    folder = tmp_path_factory.mktemp("data") / "shards"
    prepare_release(phantom_release(24), folder, PrepareConfig(size=32))
    return folder


SHORT = [
    word
    for stage in ("autoencoder", "detail", "diffusion")
    for change in ("steps=2", "batch_size=2", "preview_every=0")
    for word in ("--set", f"{stage}.{change}")
]


def test_train_trains_all_stages_and_registers_the_whole_model(run: Run, shards: Path, tmp_path: Path) -> None:
    words = ["train", "--recipe", "tiny", "--data", shards, "-o", tmp_path / "run", "--device", "cpu", *SHORT]
    result = run(*words, "--json")
    assert result.code == 0, result
    stages = json.loads(result.stdout)
    assert [stage["stage"] for stage in stages] == ["autoencoder", "diffusion"]
    for stage in stages:
        path = tmp_path / "run" / stage["stage"] / "model.safetensors"
        assert (stage["model"], stage["sha256"], stage["step"]) == (str(path), hash_file(path), 2)
        assert stage["dataset"] == "phantom-fundus"
    listed = json.loads(run("checkpoints", "list", "--json").stdout)
    mine = [(entry["path"], entry["kind"]) for entry in listed if str(tmp_path) in entry["path"]]
    assert mine == [(stages[1]["model"], "generator")]
    again = run(*words)
    assert again.code == 0
    assert "trained autoencoder" in again.stdout and "trained diffusion" in again.stdout
    assert hash_file(Path(stages[1]["model"])) == stages[1]["sha256"]


def test_train_without_a_recipe_says_which_it_took_and_why(run: Run, shards: Path, tmp_path: Path) -> None:
    words = ["train", "--data", shards, "-o", tmp_path / "run", "--device", "cpu", *SHORT, "--json"]
    result = run(*words)
    assert result.code == 0, result
    assert [stage["stage"] for stage in json.loads(result.stdout)] == ["autoencoder", "detail", "diffusion"]
    (line,) = (line for line in result.stderr.splitlines() if line.startswith("recipe: "))
    assert line.startswith("recipe: phantom-fundus (made for phantom-fundus; runs on a CPU; 64 px, the shards have 32")
    shown = json.loads(run("checkpoints", "info", tmp_path / "run", "--json").stdout)
    assert (shown["kind"], shown["training"]["recipe"]) == ("generator", "phantom-fundus")


@pytest.fixture(scope="module")
def grey_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepared shards of grey noise of 32 px."""
    home = tmp_path_factory.mktemp("grey")
    for number in range(24):
        path = home / "images" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        grey = np.random.default_rng(number).integers(0, 256, (32, 32, 1), dtype=np.uint8)
        path.write_bytes(encode_image(np.repeat(grey, 3, axis=2), "png"))
    prepare_release(read_image_folders(home / "images"), home / "shards", PrepareConfig(size=32))
    return home / "shards"


def _channels(model: Path) -> int:
    channels: int = read_header(model).build.vae.image_channels
    return channels


FITTED = "recipe: tiny --set vae.image_channels=1 (the images are grey: one channel)\n"


def test_named_recipe_takes_one_channel_for_grey_images_and_keeps_to_it(
    run: Run, grey_shards: Path, tmp_path: Path
) -> None:
    words = ["--recipe", "tiny", "--data", grey_shards, "-o", tmp_path / "run", "--device", "cpu", *SHORT]
    for command in ("train-autoencoder", "train-diffusion", "train"):
        result = run(command, *words)
        assert result.code == 0, result
        assert FITTED in result.stderr and "is not built as" not in result.stderr
    assert _channels(tmp_path / "run" / "diffusion" / "model.safetensors") == 1


def test_user_and_the_run_that_is_there_decide_on_the_channels(run: Run, grey_shards: Path, tmp_path: Path) -> None:
    words = ["train", "--recipe", "tiny", "--data", grey_shards, "-o", tmp_path / "run", "--device", "cpu", *SHORT]
    model = tmp_path / "run" / "diffusion" / "model.safetensors"
    result = run(*words, "--set", "vae.image_channels=3")
    assert result.code == 0 and "recipe:" not in result.stderr, result
    assert _channels(model) == 3
    before = hash_file(model)
    # As it was begun by a version that did not look.
    result = run(*words)
    assert result.code == 0 and "recipe:" not in result.stderr, result
    assert hash_file(model) == before
    result = run(*words, "--overwrite")
    assert result.code == 0 and FITTED in result.stderr, result
    assert _channels(model) == 1


def test_train_refuses_what_is_wrong_in_one_line(run: Run, shards: Path, tmp_path: Path) -> None:
    words = ("train", "--data", shards, "-o", tmp_path / "run", "--device", "cpu")
    failed(run(*words, "--recipe", "tiyn"), 3, "unknown recipe: tiyn (did you mean tiny?")
    failed(run(*words, "--recipe", "tiny", "--set", 'stages=["autoencodr"]'), 3, "stages has 'autoencodr'")
    failed(run("train", "--recipe", "tiny", "--data", tmp_path / "none", "-o", tmp_path / "run"), 3, "none")
    assert not (tmp_path / "run").exists()
