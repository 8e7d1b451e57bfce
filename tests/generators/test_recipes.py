"""The recipes that synthmed brings: they load, fit their images and can be copied; and which suits which data."""

import dataclasses
import json
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from synthmed.config.recipes import RECIPE_FOLDERS, recipe_names
from synthmed.config.tables import from_dict, to_dict
from synthmed.data.images import encode_image
from synthmed.data.labels import Classes
from synthmed.data.prepare.report import REPORT_FILE
from synthmed.data.shards.card import FolderInfo
from synthmed.data.shards.plan import RUN_FILE, shard_name
from synthmed.data.shards.side_files import write_side_files
from synthmed.data.shards.write import Sample, write_shard
from synthmed.errors import DataError, RecipeError
from synthmed.files.atomic import write_json
from synthmed.generators.choice import choose_recipe, fit_channels
from synthmed.generators.diffusion.config import ScheduleConfig
from synthmed.generators.diffusion.recipe import DiffusionRecipe
from synthmed.generators.families import FAMILIES, load_recipe

RECIPES = recipe_names()
RunProgram = Callable[..., tuple[int, str, str]]


def load(name_or_file: str, overrides: Sequence[str] = ()) -> DiffusionRecipe:
    """Return a recipe of a diffusion model, as all are that synthmed brings so far."""
    recipe = load_recipe(name_or_file, overrides)
    assert isinstance(recipe, DiffusionRecipe)
    return recipe


def test_there_are_recipes() -> None:
    files = {path.stem for folder in RECIPE_FOLDERS for path in folder.glob("*.toml")}
    assert set(RECIPES) == files
    assert "phantom-fundus" in RECIPES


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_loads_and_survives_a_round_trip(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe.description
    assert recipe.device in ("cpu", "gpu", "")
    assert from_dict(FAMILIES[recipe.family].recipe, json.loads(json.dumps(to_dict(recipe))), "copy") == recipe


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_as_toml_is_a_file_of_the_same_recipe(run_program: RunProgram, tmp_path: Path, name: str) -> None:
    for changes in ([], ["data.size=128"]):
        words = [word for change in changes for word in ("--set", change)]
        code, text, _ = run_program("recipes", "show", name, *words, "--toml")
        path = tmp_path / "mine.toml"
        path.write_text(text, encoding="utf-8")
        assert code == 0
        found, wanted = load_recipe(str(path)), load_recipe(name, changes)
        assert (found.name, found.preset) == ("mine", "")
        assert dataclasses.replace(found, name=wanted.name, preset=wanted.preset) == wanted
        # What a value means stands beside it, and none is left out.
        assert "side of the square images in pixels" in text
        assert tomllib.loads(text)["data"]["size"] == wanted.data.size


def test_preset_is_written_out_in_toml(run_program: RunProgram, tmp_path: Path) -> None:
    """The file has no presets of its own."""
    _, text, _ = run_program("recipes", "show", "airogs", "--set", "preset=medfusion-2023", "--toml")
    (tmp_path / "mine.toml").write_text(text, encoding="utf-8")
    found, wanted = load(str(tmp_path / "mine.toml")), load("airogs", ["preset=medfusion-2023"])
    assert found == dataclasses.replace(wanted, name="mine", preset="")
    assert found.diffusion.label_dropout_of == "batch"


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_fits_its_image_size(name: str) -> None:
    recipe = load(name)
    side, downsampling = recipe.data.size, 1
    for stride in recipe.vae.strides:
        downsampling *= stride
    assert side % downsampling == 0
    # The denoiser joins its way up with its way down: every level must halve without a rest.
    side //= downsampling
    for stride in recipe.unet.strides[1:-1]:
        assert side % stride == 0
        side //= stride
    assert recipe.sampler.steps <= recipe.schedule.num_timesteps


@pytest.mark.parametrize("name", ["airogs", "crcdx", "chexpert"])
def test_published_losses_are_in_the_large_recipes_and_their_preset(name):
    for changes in ([], ["preset=medfusion-2023"]):
        recipe = load(name, changes)
        assert recipe.autoencoder.lpips_weight == recipe.adversarial.lpips_weight == 1
        # Medfusion sums over pixels, of which an output of half the side has a quarter.
        assert recipe.autoencoder.deep_weight == recipe.adversarial.deep_weight == 0.25
        assert (recipe.autoencoder.pixel_loss, recipe.adversarial.pixel_loss) == ("mse", "l1")
        assert recipe.adversarial.lr == recipe.adversarial.discriminator_lr == 1e-6
        # What is published are the last weights.
        assert {recipe.autoencoder.keep, recipe.diffusion.keep} == {"last" if changes else "best"}
        assert recipe.adversarial.keep == "last"


PRESETS = [(name, "medfusion-2023") for name in ("airogs", "crcdx", "chexpert")]
PRESETS += [(name, "plain") for name in ("airogs-64-cpu", "chexpert-64-cpu", "small-64", "phantom-fundus")]


@pytest.mark.parametrize(("name", "preset"), PRESETS)
def test_presets_have_nothing_that_came_after_the_published_code(name, preset):
    recipe = load(name, [f"preset={preset}"])
    assert recipe.stages == ("autoencoder", "diffusion")
    assert (recipe.unet, recipe.schedule) == (
        dataclasses.replace(recipe.unet, objective="eps", conditional=True, clip_x_0=False),
        ScheduleConfig("scaled_linear", 1000, 0.002, 0.02),
    )
    assert recipe.diffusion.timesteps == "uniform"
    assert {recipe.autoencoder.keep, recipe.diffusion.keep} == {"last"}
    assert recipe.sampler.detail_steps == 0


@pytest.mark.parametrize("name", [name for name in RECIPES if name != "tiny"])
def test_recipes_train_a_detail_stage_and_sample_with_it(name):
    recipe = load(name)
    assert recipe.stages == ("autoencoder", "detail", "diffusion")
    assert (recipe.unet.objective, recipe.detail_unet.objective) == ("v", "v")
    assert recipe.diffusion.timesteps == recipe.detail.timesteps == "normal"
    assert recipe.sampler.detail_steps == 12
    # Whatever the denoiser mirrors, the detail stage may mirror too.
    assert recipe.detail.flips in (recipe.autoencoder.flips, recipe.diffusion.flips)


@pytest.mark.parametrize("name", ["airogs-64-cpu", "chexpert-64-cpu", "phantom-fundus", "small-64", "tiny"])
def test_small_recipes_need_no_weights_from_elsewhere(name):
    recipe = load(name)
    assert recipe.autoencoder.lpips_weight == recipe.adversarial.lpips_weight == 0


# ------------------------------------------------------------------------------------------- which suits which data


@pytest.fixture
def make_shards(tmp_path: Path) -> Callable[..., Path]:
    """A function that writes a folder of shards with two images in its training split."""

    def make(dataset: str = "mine", *, size: int | tuple[int, int] = 64, grey: bool = False) -> Path:
        height, width = (size, size) if isinstance(size, int) else size
        generator, folder = np.random.default_rng(0), tmp_path / "shards"
        samples = []
        for label in (0, 1):
            image = generator.integers(0, 256, (height, width, 3), dtype=np.uint8)
            image = np.repeat(image[..., :1], 3, axis=2) if grey else image
            data = encode_image(image, "png")
            samples.append(Sample(f"train-{label:07d}", data, "png", label, {"label": label, "synthetic": False}))
        write_shard(folder / shard_name("train", 0), samples)
        info = FolderInfo("real", dataset, Classes(("no", "yes")), size=size)
        write_json(folder / RUN_FILE, {"folder": info.as_config()})
        write_side_files(folder, info)
        return folder

    return make


@pytest.mark.parametrize(
    ("dataset", "size", "device", "chosen"),
    [
        ("mine", 64, "cpu", "small-64"),
        ("mine", 64, "cuda", "small-64"),
        ("airogs", 64, "cpu", "airogs-64-cpu"),
        ("airogs", 64, "cuda", "airogs-64-cpu"),
        ("chexpert", 64, "cpu", "chexpert-64-cpu"),
        ("phantom-fundus", 64, "cpu", "phantom-fundus"),
        # A CPU has no time for a recipe of a GPU, however well its size would fit.
        ("mine", 256, "cpu", "small-64"),
        ("airogs", 256, "cpu", "airogs-64-cpu"),
        ("crcdx", 512, "cpu", "small-64"),
        ("mine", 256, "cuda", "full-256"),
        ("mine", 300, "cuda", "full-256"),
        ("mine", 200, "cuda", "small-64"),
        ("airogs", 256, "cuda", "airogs"),
        ("crcdx", 512, "cuda", "crcdx"),
        ("chexpert", 256, "cuda", "chexpert"),
        # Nothing smaller is there.
        ("mine", 32, "cpu", "small-64"),
        # The shorter side counts.
        ("mine", (100, 256), "cuda", "small-64"),
    ],
)
def test_recipe_is_chosen_by_size_data_set_and_device(
    make_shards: Callable[..., Path], dataset: str, size: int | tuple[int, int], device: str, chosen: str
) -> None:
    choice = choose_recipe(make_shards(dataset, size=size), device)
    recipe = load_recipe(choice.name, choice.changes)
    assert (choice.name, choice.changes, recipe.image_channels) == (chosen, (), 3)
    assert device != "cpu" or recipe.device == "cpu"
    side = size if isinstance(size, int) else min(size)
    assert f"{recipe.data.size} px, the shards have {side}" in choice.reason
    assert ("made for any data set" in choice.reason) == (recipe.dataset == "")
    assert recipe.dataset in choice.reason
    assert ("runs on a CPU" in choice.reason) == (device == "cpu")


def test_grey_shards_get_a_model_of_one_channel(make_shards: Callable[..., Path]) -> None:
    choice = choose_recipe(make_shards(grey=True), "cpu")
    assert (choice.name, choice.changes) == ("small-64", ("vae.image_channels=1",))
    assert load_recipe(choice.name, choice.changes).image_channels == 1
    assert "the images are grey: one channel" in choice.reason


def say(folder: Path, grey: bool | None) -> Path:
    """Write what `synthmed prepare` has found of the images into a folder of shards."""
    write_json(folder / REPORT_FILE, {"dataset": "mine"} if grey is None else {"grey": grey})
    return folder


@pytest.mark.parametrize("looks_grey", [False, True])
@pytest.mark.parametrize("said", [False, True, None])
def test_what_prepare_found_counts_before_what_some_images_look_like(
    make_shards: Callable[..., Path], said: bool | None, looks_grey: bool
) -> None:
    """A grey JPEG has a little colour, and behind 32 grey images there may be others."""
    data = say(make_shards(grey=looks_grey), said)
    wanted = ["vae.image_channels=1"] if (looks_grey if said is None else said) else []
    assert list(choose_recipe(data, "cpu").changes) == wanted
    assert fit_channels(load("tiny"), data) == wanted
    assert fit_channels(load("chexpert"), data) == wanted


def test_named_recipe_that_is_published_or_fits_already_stays(make_shards: Callable[..., Path]) -> None:
    data = say(make_shards(grey=True), True)
    assert fit_channels(load("chexpert", ["preset=medfusion-2023"]), data) == []
    assert fit_channels(load("tiny", ["vae.image_channels=1"]), data) == []


@pytest.mark.parametrize(
    ("begun", "wanted"), [(3, []), (1, ["vae.image_channels=1"]), (None, ["vae.image_channels=1"])]
)
def test_run_keeps_the_channels_that_it_was_begun_with(
    make_shards: Callable[..., Path], tmp_path: Path, begun: int | None, wanted: list[str]
) -> None:
    data, run = say(make_shards(grey=True), True), tmp_path / "run"
    write_json(run / "diffusion" / "config.json", {"data": {"size": 64}})
    if begun is not None:
        write_json(run / "autoencoder" / "config.json", {"vae": {"image_channels": begun, "widths": [8, 16]}})
    assert fit_channels(load("tiny"), data, run) == list(choose_recipe(data, "cpu", run).changes) == wanted


def test_shards_that_are_not_there_and_devices_without_a_recipe_are_named(
    make_shards: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DataError, match="nowhere"):
        choose_recipe(tmp_path / "nowhere", "cpu")
    monkeypatch.setattr("synthmed.generators.choice.recipe_names", lambda: ["airogs", "full-256", "tiny"])
    with pytest.raises(RecipeError, match=r"there is no recipe for cpu \(name one: --recipe"):
        choose_recipe(make_shards(), "cpu")
