"""Recipes: strict reading, overrides and ranges."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import pytest

from synthmed.config.fields import MAX_WIDTH
from synthmed.config.recipes import recipe_names
from synthmed.config.tables import from_dict, to_dict, to_toml
from synthmed.errors import RecipeError
from synthmed.generators.diffusion.config import MAX_LEVELS, VaeConfig
from synthmed.generators.diffusion.recipe import DiffusionRecipe
from synthmed.generators.diffusion.training.config import DiffusionConfig
from synthmed.generators.families import FAMILIES, load_recipe
from synthmed.generators.family import Family

RECIPES = recipe_names()


def load(name_or_file: str, overrides: Sequence[str] = ()) -> DiffusionRecipe:
    """Return a recipe of the family that has all kinds of values."""
    recipe = load_recipe(name_or_file, overrides)
    assert isinstance(recipe, DiffusionRecipe)
    return recipe


def write_recipe(folder: Path, text: str) -> str:
    path = folder / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_unknown_recipe_names_the_nearest() -> None:
    with pytest.raises(RecipeError, match=r"unknown recipe: fantom-fundus \(did you mean phantom-fundus\?") as caught:
        load("fantom-fundus")
    assert caught.value.exit_code == 3
    assert all(name in str(caught.value) for name in RECIPES)


def test_missing_file_is_named() -> None:
    with pytest.raises(RecipeError, match=r"no such recipe file: nowhere/mine\.toml"):
        load("nowhere/mine.toml")


@pytest.mark.parametrize("text", ["size =", "a = 1\na = 2", "x = " + "9" * 5000, "x = " + "[" * 100_000])
def test_file_that_is_not_toml_is_named(tmp_path: Path, text: str) -> None:
    with pytest.raises(RecipeError, match=r"cannot read recipe .*mine\.toml"):
        load(write_recipe(tmp_path, text))


def test_file_that_is_not_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecipeError, match=r"cannot read recipe .*mine\.toml"):
        load(str(tmp_path / "mine.toml"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[difusion]\nlr = 1", r"unknown key in mine\.toml: difusion \(did you mean diffusion\?"),
        ("[diffusion]\nlabel_drop = 1", r"mine\.toml: diffusion: label_drop \(did you mean label_dropout\?"),
        ('[diffusion]\nlr = "fast"', r"mine\.toml: diffusion: lr is 'fast' \(float is wanted\)"),
        ("[diffusion]\nlr = true", r"diffusion: lr is True \(float is wanted\)"),
        ("[diffusion]\nsteps = 10.0", r"diffusion: steps is 10\.0 \(int is wanted\)"),
        ("[diffusion]\nsteps = true", r"diffusion: steps is True \(int is wanted\)"),
        ("[diffusion]\nbalanced = 1", r"diffusion: balanced is 1 \(bool is wanted\)"),
        ('[diffusion]\nloss = "mae"', r"diffusion: loss is 'mae' \(did you mean mse\? valid: l1, mse\)"),
        ("[diffusion]\nloss = [1]", r"diffusion: loss is \[1\] \(valid: l1, mse\)"),
        ("[vae]\nwidths = 64", r"vae: widths is 64 \(a list is wanted\)"),
        ("[vae]\nwidths = [64, 1.5]", r"vae: widths is 1\.5 \(int is wanted\)"),
        ("diffusion = 3", r"mine\.toml: diffusion is 3 \(a section is wanted\)"),
        ("dataset = 5", r"mine\.toml: dataset is 5 \(str is wanted\)"),
    ],
)
def test_wrong_key_or_value_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load(write_recipe(tmp_path, text))


def test_integers_pass_for_floats(tmp_path: Path) -> None:
    recipe = load(write_recipe(tmp_path, "[autoencoder]\nlr = 1\n"))
    assert recipe.autoencoder.lr == 1.0
    assert isinstance(recipe.autoencoder.lr, float)


def test_empty_recipe_is_all_defaults_under_its_files_name(tmp_path: Path) -> None:
    assert load(write_recipe(tmp_path, "")) == DiffusionRecipe(name="mine", family="diffusion")


def test_overrides_take_toml_values_and_bare_words() -> None:
    changes = [
        "diffusion.lr=3e-5",
        "diffusion.steps = 7",
        "diffusion.loss=l1",
        'autoencoder.pixel_loss="l1"',
        "diffusion.balanced=false",
        "vae.widths=[8, 16]",
        "vae.strides=[1,2]",
        "dataset=my set",
        "autoencoder.flips=both",
    ]
    recipe = load("phantom-fundus", changes)
    assert (recipe.diffusion.lr, recipe.diffusion.steps, recipe.diffusion.loss) == (3e-5, 7, "l1")
    assert (recipe.autoencoder.pixel_loss, recipe.diffusion.balanced) == ("l1", False)
    assert (recipe.vae.widths, recipe.vae.strides) == ((8, 16), (1, 2))
    assert (recipe.dataset, recipe.autoencoder.flips) == ("my set", "both")


def test_last_override_counts() -> None:
    assert load("phantom-fundus", ["data.size=32", "data.size=128"]).data.size == 128


def test_overrides_make_sections_that_the_file_lacks(tmp_path: Path) -> None:
    assert load(write_recipe(tmp_path, ""), ["schedule.num_timesteps=50"]).schedule.num_timesteps == 50


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("diffusion.lr", r"cannot read --set diffusion\.lr \(write section\.key=value"),
        ("=3", r"cannot read --set =3"),
        ("diffusion.l=3", r"phantom-fundus\.toml: diffusion: l "),
        ("difusion.lr=3", r"phantom-fundus\.toml: difusion \(did you mean diffusion\?"),
        ("diffusion.lr=", r"diffusion: lr is '' \(float is wanted\)"),
        ("diffusion.lr=1e-4x", r"diffusion: lr is '1e-4x' \(float is wanted\)"),
        ("dataset.name=x", r"cannot set dataset\.name: dataset is not a section"),
        ("diffusion=x", r"diffusion is 'x' \(a section is wanted\)"),
    ],
)
def test_wrong_override_is_named(change: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load("phantom-fundus", [change])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("diffusion.steps=0", r"steps is 0 \(it must be at least 1 and at most 100000000\)"),
        ("diffusion.batch_size=-1", "batch_size is -1"),
        ("diffusion.lr=0", "lr is 0"),
        ("diffusion.lr=nan", "lr is nan"),
        ("diffusion.lr=inf", "lr is inf"),
        ("diffusion.warmup_steps=-1", "warmup_steps is -1"),
        ("diffusion.clip_norm=nan", "clip_norm is nan"),
        ("diffusion.beta2=1.0", "beta2 is 1.0"),
        ("diffusion.ema_decay=1", "ema_decay is 1.0"),
        ("diffusion.label_dropout=1.01", "label_dropout is 1.01"),
        ("autoencoder.lpips_weight=-1", "lpips_weight is -1"),
        ("autoencoder.kl_weight=inf", "kl_weight is inf"),
        ("adversarial.discriminator_lr=0", "discriminator_lr is 0"),
        ("adversarial.adversarial_weight=nan", "adversarial_weight is nan"),
        ("adversarial.start_step=-1", "start_step is -1"),
        ("adversarial.deep_weight=-0.5", "deep_weight is -0.5"),
        ("sampler.steps=0", "sampler.steps is 0"),
        ("sampler.guidance_scale=nan", "guidance_scale is nan"),
        ("sampler.eta=0.5", r"dpmpp-2m has no eta \(set eta to 0 or use ddim\)"),
        ("schedule.num_timesteps=0", "num_timesteps is 0"),
        ("schedule.num_timesteps=1000000000000", "num_timesteps is 1000000000000"),
        ("schedule.strategy=sigmoid", "strategy is 'sigmoid'"),
        ("unet.objective=u", r"objective is 'u' \(valid: eps, x_0, v\)"),
        ("unet.clip_x_0=1", r"clip_x_0 is 1 \(bool is wanted\)"),
        ("unet.learned_variance=true", r"unet\.learned_variance cannot be trained"),
        ("unet.self_conditioning=true", r"unet\.self_conditioning cannot be trained"),
        ("schedule.beta_start=0", "beta_start is 0.0"),
        ("schedule.beta_end=1e-5", "beta_end 1e-05"),
        ("data.size=0", "data.size is 0"),
        ("vae.latent_channels=0", "latent_channels is 0"),
        ("vae.deep_supervision=9", "deep_supervision is 9"),
        ("vae.norm_groups=0", "below 1"),
        ("vae.norm_groups=7", "it must be a multiple of norm_groups = 7"),
        ("vae.strides=[2, 2, 2]", "vae.strides starts with 2"),
        ("vae.strides=[1, 2]", "vae has 3 widths and 2 strides"),
        ("unet.widths=[]", "unet has 0 widths"),
        ("unet.emb_channels=20", "emb_channels is 20"),
        (f"unet.widths=[48, 64, {MAX_WIDTH + 16}]", f"at most {MAX_WIDTH}"),
    ],
)
def test_value_out_of_range_is_named(change: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load("tiny", [change])


def test_too_many_levels_are_refused() -> None:
    with pytest.raises(RecipeError, match=f"vae has {MAX_LEVELS + 1} levels"):
        VaeConfig(widths=(8,) * (MAX_LEVELS + 1), strides=(1,) * (MAX_LEVELS + 1))


@pytest.mark.parametrize("family", FAMILIES.values(), ids=list(FAMILIES))
def test_every_value_says_what_it_means(family: Family) -> None:
    for section in dataclasses.fields(family.recipe):
        value = getattr(family.recipe(), section.name)
        for entry in dataclasses.fields(value) if dataclasses.is_dataclass(value) else ():
            assert entry.metadata.get("meaning"), f"{section.name}.{entry.name}"
    assert all(entry.metadata.get("meaning") for entry in dataclasses.fields(family.settings))


def test_plain_values_are_json() -> None:
    plain = to_dict(VaeConfig())
    assert plain["widths"] == [64, 128, 256, 512]
    assert from_dict(DiffusionConfig, to_dict(DiffusionConfig(lr=0.5)), "x") == DiffusionConfig(lr=0.5)


def test_preset_is_laid_over_the_recipe_and_overrides_over_the_preset():
    plain = load("airogs")
    assert (plain.diffusion.label_dropout, plain.diffusion.latent_scale) == (0.1, "measured")
    published = load("airogs", ["preset=medfusion-2023", "diffusion.lr=3e-4"])
    assert published.preset == "medfusion-2023"
    assert (published.diffusion.label_dropout, published.diffusion.label_dropout_of) == (0.5, "batch")
    assert (published.diffusion.latent_scale, published.diffusion.lr) == ("one", 3e-4)
    assert published.data == plain.data


def test_unknown_preset_is_named():
    with pytest.raises(RecipeError, match="medfusion-2023"):
        load("airogs", ["preset=medfusion-2022"])
    with pytest.raises(RecipeError, match="has no preset"):
        load("tiny", ["preset=medfusion-2023"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('family = "gan"', r"mine\.toml: family is 'gan' \(valid: diffusion\)"),
        ('family = "difusion"', r"family is 'difusion' \(did you mean diffusion\?"),
        ("family = 5", r"family is 5 \(valid: diffusion\)"),
        ('family = ["diffusion"]', r"family is \['diffusion'\]"),
        ("[family]\nname = 1", "family is {'name': 1}"),
        ('stages = ["gan"]', r"stages has 'gan' \(diffusion has autoencoder, adversarial, detail, diffusion\)"),
        ('stages = "diffusion"', r"stages is 'diffusion' \(a list is wanted\)"),
    ],
)
def test_family_and_stages_that_there_are_not_are_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load(write_recipe(tmp_path, text))


def test_recipe_trains_the_stages_that_it_names_in_their_order(tmp_path: Path) -> None:
    def stages(text: str) -> list[str]:
        recipe = load(write_recipe(tmp_path, text))
        return [stage.name for stage in FAMILIES[recipe.family].stages_of(recipe)]

    assert stages("") == ["autoencoder", "diffusion"]
    assert stages('stages = ["diffusion", "adversarial", "autoencoder"]') == ["autoencoder", "adversarial", "diffusion"]
    assert stages('stages = ["diffusion"]') == ["diffusion"]


def test_values_of_any_kind_come_back_from_toml(tmp_path: Path) -> None:
    changes = ["diffusion.lr=1e-7", "vae.widths=[8, 16]", "vae.strides=[1, 2]", "diffusion.balanced=true"]
    recipe = load("small-64", [*changes, 'description="a \\"quoted\\" word, # and ümlaut"', "autoencoder.clip_norm=0"])
    path = write_recipe(tmp_path, to_toml(recipe, left_out=("name", "preset")))
    assert dataclasses.replace(load(path), name="small-64") == recipe
