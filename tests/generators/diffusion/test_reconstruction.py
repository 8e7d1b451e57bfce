"""Evaluation of autoencoders on shards."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from synthmed.data.pixels import to_float, to_unit
from synthmed.data.prepare.prepare import PrepareConfig, prepare_release
from synthmed.data.sets.image_set import open_images
from synthmed.data.shards.read import open_folder
from synthmed.errors import DataError
from synthmed.formats.model_files import save_model
from synthmed.generators.diffusion.config import DetailBuild, DetailUnetConfig
from synthmed.generators.diffusion.pipeline import load_pipeline
from synthmed.generators.diffusion.reconstruction import evaluate_autoencoders
from synthmed.metrics.bands import band_powers
from synthmed.metrics.perceptual import Lpips
from synthmed.phantoms.release import phantom_release


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "shards"
    prepare_release(phantom_release(40), folder, PrepareConfig(size=32))
    return folder


def test_figures_are_means_over_the_images_of_a_class(shards, tiny_model_file, tmp_path):
    report = evaluate_autoencoders([tiny_model_file], shards, tmp_path / "out", splits=["test"], device="cpu")
    assert [row.label for row in report.rows] == ["all", "no-glaucoma", "glaucoma"]
    assert [row.images for row in report.rows] == [12, 6, 6]
    images = open_images(open_folder(shards, "test"), size=16)
    model = load_pipeline(tiny_model_file)
    original = to_float(images.load(range(12)))
    decoded = model.decode(model.moments(original)[0])
    errors = (to_unit(decoded) - to_unit(original)).pow(2).mean(dim=(1, 2, 3)).numpy()
    chosen = images.labels == 1
    assert report.rows[2].mse == pytest.approx((errors[chosen].mean(), errors[chosen].std()), rel=1e-4)
    assert report.rows[0].psnr_db[0] == pytest.approx(np.mean(-10 * np.log10(errors)), rel=1e-4)
    assert report.ms_ssim_scales == 2
    assert json.loads((tmp_path / "out" / "reconstruction.json").read_text())["size"] == 16


def test_bands_are_those_of_the_unrounded_reconstructions(shards, tiny_model_file, tmp_path):
    """Means over images of linear power, of all classes and of each, as the definition gives them."""
    report = evaluate_autoencoders([tiny_model_file], shards, tmp_path / "out", splits=["test"], device="cpu")
    images = open_images(open_folder(shards, "test"), size=16)
    model = load_pipeline(tiny_model_file)
    original = to_float(images.load(range(12)))
    with torch.no_grad():
        decoded = to_unit(model.decode(model.moments(original)[0]))
    unit = to_unit(original)
    made, whole, error = (255**2 * band_powers(part) for part in (decoded, unit, decoded - unit))
    for row, chosen in zip(report.rows, (images.labels >= 0, images.labels == 0, images.labels == 1), strict=True):
        assert row.bands.kept == pytest.approx(made[chosen].mean(axis=0) / whole[chosen].mean(axis=0), rel=1e-3)
        assert row.bands.error == pytest.approx(error[chosen].mean(axis=0) / whole[chosen].mean(axis=0), rel=1e-3)
    stored = json.loads((tmp_path / "out" / "reconstruction.json").read_text())
    assert stored["band_edges"] == [0, 0.0625, 0.125, 0.1875, 0.25, 0.375]
    assert tuple(stored["rows"][2]["bands"]["kept"]) == report.rows[2].bands.kept


def test_detail_stage_is_measured_beside_the_autoencoder_alone(
    shards, tiny_header, change_header, make_tensors, tmp_path
):
    unet = DetailUnetConfig(widths=(8, 8), strides=(1, 2), norm_groups=8)
    header = change_header(tiny_header, detail=DetailBuild(unet))
    path = tmp_path / "model.safetensors"
    save_model(path, header, make_tensors(header))
    report = evaluate_autoencoders([path], shards, tmp_path / "out", splits=["test"], device="cpu")
    plain, detailed = (row for row in report.rows if row.label == "all")
    assert (plain.checkpoint, detailed.checkpoint) == (str(path), f"{path} + detail")
    images = open_images(open_folder(shards, "test"), size=16)
    model, original = load_pipeline(path), to_float(images.load(range(12)))
    structure = model.decode(model.moments(original)[0])
    for row, made in ((plain, structure), (detailed, model.refine(structure, range(12), 12))):
        assert row.mse[0] == pytest.approx((to_unit(made) - to_unit(original)).square().mean().item(), rel=1e-4)
    assert detailed.mse != plain.mse


def test_several_checkpoints_share_one_sheet(shards, tiny_model_file, save_tiny_model, tmp_path):
    other = save_tiny_model(tmp_path / "other.safetensors", kind="autoencoder")
    report = evaluate_autoencoders([tiny_model_file, other], shards, tmp_path / "out", device="cpu")
    assert {row.split for row in report.rows} == {"train", "validation", "test"}
    assert len(report.rows) == 2 * 3 * 3
    # A row of originals, and two for each model, of 16 pixels each and their titles.
    with Image.open(report.sheet) as sheet:
        assert sheet.height > 5 * 16


def test_models_of_different_sizes_are_refused(shards, tiny_model_file, save_tiny_model, tmp_path):
    other = save_tiny_model(tmp_path / "other.safetensors", size=32)
    with pytest.raises(DataError, match="different sizes"):
        evaluate_autoencoders([tiny_model_file, other], shards, tmp_path / "out", device="cpu")


def test_model_of_other_than_square_images_is_refused(shards, save_tiny_model, tmp_path):
    model = save_tiny_model(tmp_path / "model.safetensors", size=(16, 32))
    with pytest.raises(DataError, match="images of 16 x 32 pixels"):
        evaluate_autoencoders([model], shards, tmp_path / "out", device="cpu")


def test_sheet_shows_differences_around_grey(shards, save_tiny_model, tmp_path):
    """An autoencoder that gives back what it gets would leave the difference rows grey; a random one does not."""
    model = save_tiny_model(tmp_path / "model.safetensors")
    report = evaluate_autoencoders([model], shards, tmp_path / "out", splits=["test"], device="cpu")
    with Image.open(report.sheet) as sheet:
        assert np.array(sheet).std() > 10


def test_lpips_is_measured_where_its_weights_are_given(shards, tiny_model_file, vgg_file, tmp_path):
    report = evaluate_autoencoders(
        [tiny_model_file], shards, tmp_path / "out", splits=["test"], device="cpu", vgg_weights=vgg_file
    )
    images = open_images(open_folder(shards, "test"), size=16)
    model = load_pipeline(tiny_model_file)
    original = to_float(images.load(range(12)))
    decoded = model.decode(model.moments(original)[0]).clamp(-1, 1)
    distances = Lpips(vgg_file, torch.device("cpu"))(decoded, original)[images.labels == 0].numpy()
    assert report.rows[1].lpips == pytest.approx((distances.mean(), distances.std()), rel=1e-3)
    assert distances.mean() > 0.01
    stored = json.loads((tmp_path / "out" / "reconstruction.json").read_text())
    assert tuple(stored["rows"][1]["lpips"]) == report.rows[1].lpips


def test_lpips_refuses_images_that_are_too_small(shards, save_tiny_model, vgg_file, tmp_path):
    model = save_tiny_model(tmp_path / "model.safetensors", size=8)
    with pytest.raises(DataError, match="LPIPS cannot be measured on images of 8 pixels"):
        evaluate_autoencoders([model], shards, tmp_path / "out", device="cpu", vgg_weights=vgg_file)
