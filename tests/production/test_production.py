"""The plan of a run, what each image says about itself, and resuming."""

import errno
import io
import itertools
import json
import os
import tarfile
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from synthmed.data.images import encode_image
from synthmed.data.shards.write import Sample, write_shard
from synthmed.errors import CheckpointError, DataError, DeviceError, ResumeError, UsageError
from synthmed.files.content import hash_file
from synthmed.formats.model_files import read_config, save_model
from synthmed.generators.diffusion.config import SamplerConfig
from synthmed.generators.diffusion.pipeline import Pipeline
from synthmed.production.plan import GenerateConfig, extended, plan
from synthmed.production.regenerate import regenerate
from synthmed.production.run import ALL, Share, dry_run, generate, stream

SAMPLER = DiffusionSettings(sampler="dpmpp-2m", steps=3, eta=0.0)


@pytest.fixture
def config(tiny_model_file) -> GenerateConfig:
    return GenerateConfig(
        checkpoint=tiny_model_file,
        checkpoint_sha256=hash_file(tiny_model_file),
        model=read_config(tiny_model_file),
        counts=(9, 15),
        seed=4,
        sampler=SAMPLER,
    )


def read_all(folder):
    """Return key -> {extension: bytes} of all shards in order."""
    samples: dict[str, dict[str, bytes]] = {}
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as archive:
            for member in archive:
                key, _, extension = member.name.partition(".")
                file = archive.extractfile(member)
                assert file is not None
                samples.setdefault(key, {})[extension] = file.read()
    return samples


def pixels(data: bytes) -> bytes:
    return Image.open(io.BytesIO(data)).tobytes()


def test_plan_holds_every_image_once_and_mixes_classes(config):
    shards = [images for _, images in plan(replace(config, counts=(5000, 5000)))]
    assert [len(shard) for shard in shards] == [625] * 16
    assert {(image.label, image.index) for shard in shards for image in shard} == {
        (label, index) for label in (0, 1) for index in range(5000)
    }
    for shard in shards:
        assert abs(sum(image.label for image in shard) - 312.5) <= 0.5


def test_samples_say_that_they_are_synthetic(config, tmp_path):
    generate(config, tmp_path / "out", device="cpu", batch_size=7)
    samples = read_all(tmp_path / "out")
    assert len(samples) == 24
    assert list(samples) == sorted(samples)
    for key, members in samples.items():
        assert list(members) == ["cls", "json", "png"]
        metadata = json.loads(members["json"])
        assert key.startswith("synthetic-s4-")
        assert metadata["synthetic"] is True
        assert metadata["label"] == int(members["cls"])
        assert metadata["label_name"] == config.model.classes[metadata["label"]]
        assert metadata["checkpoint_sha256"] == config.checkpoint_sha256
        image = PngImageFile(io.BytesIO(members["png"]))
        image.load()
        assert image.text["synthetic"].lower() == "true"
        assert "trainedAlgorithmicMedia" in image.text["XML:com.adobe.xmp"]
    glaucoma = [json.loads(members["json"]) for members in samples.values() if members["cls"] == b"1"]
    assert sorted(metadata["index"] for metadata in glaucoma) == list(range(15))


def test_other_than_square_images_and_what_their_folder_says(config, save_tiny_model, tmp_path):
    path = save_tiny_model(tmp_path / "wide.safetensors", size=(16, 40))
    wide = replace(config, checkpoint=path, model=read_config(path), counts=(2, 2))
    generate(wide, tmp_path / "out", device="cpu")
    for members in read_all(tmp_path / "out").values():
        assert Image.open(io.BytesIO(members["png"])).size == (40, 16)
    assert "16 pixels high and 40 wide" in (tmp_path / "out" / "README.md").read_text()
    assert json.loads((tmp_path / "out" / ".synthmed" / "run.json").read_text())["folder"]["size"] == [16, 40]
    assert generate(wide, tmp_path / "out", device="cpu")["made_now"] == 0


def test_unconditional_model_makes_images_of_its_one_class(config, tiny_header, make_tensors, tmp_path):
    unet = replace(tiny_header.unet, conditional=False)
    model = replace(tiny_header, unet=unet, classes=("image",), aliases={}, positive="")
    save_model(tmp_path / "free.safetensors", model, make_tensors(model))
    free = replace(config, checkpoint=tmp_path / "free.safetensors", model=model, counts=(3,))
    assert generate(free, tmp_path / "out", device="cpu")["images"] == {"image": 3}
    for members in read_all(tmp_path / "out").values():
        assert members["cls"] == b"0"
        assert json.loads(members["json"])["label_name"] == "image"


def test_data_card_says_how_the_images_were_made(config, tmp_path):
    generate(replace(config, counts=(1, 1), source_terms="CC BY 4.0"), tmp_path / "out", device="cpu")
    card = (tmp_path / "out" / "README.md").read_text()
    for words in (config.checkpoint_sha256, "seed 4", "dpmpp-2m, 3 steps, eta 0, guidance scale 1, fp32"):
        assert words in card
    assert "Terms of the data that the model was trained on: CC BY 4.0." in card
    assert "| train | 1 | 1 | 2 | 2 |" in card


@pytest.mark.parametrize("image_format", ["webp", "jpg"])
def test_other_formats_carry_the_digital_source_type(config, tmp_path, image_format):
    generate(replace(config, counts=(1, 1), image_format=image_format), tmp_path / "out", device="cpu")
    for members in read_all(tmp_path / "out").values():
        assert b"trainedAlgorithmicMedia" in members[image_format]


def test_image_depends_on_seed_label_and_index_alone(config, tmp_path):
    """Another number of images, other classes beside it, another batch: the same pixels."""
    generate(config, tmp_path / "a", device="cpu", batch_size=24)
    generate(replace(config, counts=(0, 5)), tmp_path / "b", device="cpu", batch_size=1)
    generate(replace(config, counts=(0, 5), seed=5), tmp_path / "c", device="cpu", batch_size=1)

    def images(folder):
        found = {}
        for members in read_all(folder).values():
            metadata = json.loads(members["json"])
            found[metadata["label"], metadata["index"]] = pixels(members["png"])
        return found

    a, b, c = (images(tmp_path / name) for name in "abc")
    for place, image in b.items():
        assert max(abs(x - y) for x, y in zip(image, a[place], strict=True)) <= 1
        assert image != c[place]


def test_finished_folder_is_left_alone(config, tmp_path):
    assert generate(config, tmp_path / "out", device="cpu")["made_now"] == 24
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.tar")}
    assert generate(config, tmp_path / "out", device="cpu")["made_now"] == 0
    assert before == {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.tar")}


def test_missing_shard_is_made_again_with_the_same_bytes(config, tmp_path):
    generate(config, tmp_path / "out", device="cpu")
    shard = tmp_path / "out" / "train-000003.tar"
    before = shard.read_bytes()
    shard.unlink()
    assert generate(config, tmp_path / "out", device="cpu")["made_now"] == 3
    assert shard.read_bytes() == before


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"seed": 5}, "seed: 4 there, 5 asked for"),
        ({"counts": (9, 16)}, "counts.glaucoma: 15 there, 16 asked for"),
        ({"sampler": replace(SAMPLER, steps=4)}, "sampler.steps: 3 there, 4 asked for"),
        ({"checkpoint_sha256": "0" * 64}, "checkpoint_sha256"),
    ],
)
def test_resume_refuses_another_command(config, tmp_path, change, named):
    generate(config, tmp_path / "out", device="cpu")
    with pytest.raises(ResumeError, match=named) as caught:
        generate(replace(config, **change), tmp_path / "out", device="cpu")
    assert caught.value.exit_code == 3


def test_larger_run_extends_a_smaller_one_and_is_then_the_same_folder(config, tmp_path):
    config = replace(config, counts=(16, 16))
    generate(config, tmp_path / "out", device="cpu", batch_size=4)
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.tar")}
    larger = replace(config, counts=(32, 32))
    assert generate(larger, tmp_path / "out", device="cpu", batch_size=4)["made_now"] == 32
    after = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.tar")}
    assert len(after) == 16 and before.items() <= after.items()
    assert generate(larger, tmp_path / "out", device="cpu")["made_now"] == 0
    samples = [json.loads(members["json"]) for members in read_all(tmp_path / "out").values()]
    assert sorted((sample["label"], sample["index"]) for sample in samples) == [
        (label, index) for label in (0, 1) for index in range(32)
    ]
    info = json.loads((tmp_path / "out" / "_info.json").read_text())
    assert info["splits"]["train"]["shard_lengths"] == [4] * 16


@pytest.mark.parametrize(
    ("counts", "shards", "larger", "expected"),
    [
        ((5000, 5000), 16, (10_000, 10_000), 32),
        ((0, 10_000), 16, (0, 12_500), 20),
        ((300, 700), 8, (600, 1400), 16),
        ((8, 8), 8, (9, 9), None),  # nine shards do not suit four workers
        ((8, 8), 8, (8, 24), None),  # another mixture
        ((8, 8), 8, (4, 4), None),
        ((8, 8), 8, (8, 8), None),
    ],
)
def test_run_extends_another_where_its_first_shards_are_the_same(config, counts, shards, larger, expected):
    small, large = (replace(config, counts=numbers) for numbers in (counts, larger))
    assert extended(large, counts, shards) == expected
    if expected:
        first = list(plan(replace(small, num_shards=shards)))
        assert list(itertools.islice(plan(replace(large, num_shards=expected)), shards)) == first


def test_smaller_batch_after_running_out_of_memory(config, tmp_path, monkeypatch, capsys):
    generate(config, tmp_path / "enough", device="cpu", batch_size=3)
    sample = Pipeline.sample

    def short_of_memory(self, labels, **options):
        if len(labels) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return sample(self, labels, **options)

    monkeypatch.setattr(Pipeline, "sample", short_of_memory)
    generate(config, tmp_path / "short", device="cpu", batch_size=3)
    notes = [line for line in capsys.readouterr().err.splitlines() if "out of memory" in line]
    assert notes == ["note: out of memory with 3 images at once, going on with 1: the same images"]
    pairs = zip(read_all(tmp_path / "enough").values(), read_all(tmp_path / "short").values(), strict=True)
    for one, other in pairs:
        assert one["json"] == other["json"]
        assert max(abs(x - y) for x, y in zip(pixels(one["png"]), pixels(other["png"]), strict=True)) <= 1


def test_no_memory_for_one_image_is_an_error(config, tmp_path, monkeypatch):
    def never(*_args, **_options):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Pipeline, "sample", never)
    with pytest.raises(DeviceError, match="out of memory for a single image"):
        generate(config, tmp_path / "out", device="cpu")
    assert not list((tmp_path / "out").rglob("*.part"))


def test_full_disk_keeps_what_is_finished_and_the_same_command_goes_on(config, tmp_path, monkeypatch):
    generate(config, tmp_path / "whole", device="cpu", batch_size=3)
    replace_file, calls = os.replace, []

    def full_after_three_shards(source, target):
        calls.append(target)
        if str(target).endswith("train-000003.tar"):
            raise OSError(errno.ENOSPC, "No space left on device")
        replace_file(source, target)

    monkeypatch.setattr(os, "replace", full_after_three_shards)
    with pytest.raises(DeviceError, match=r"train-000003\.tar: the disk is full") as caught:
        generate(config, tmp_path / "out", device="cpu", batch_size=3)
    assert caught.value.exit_code == 4
    monkeypatch.undo()
    finished = sorted(path.name for path in (tmp_path / "out").glob("*.tar"))
    assert finished[:3] == [f"train-{number:06d}.tar" for number in range(3)]
    assert "train-000003.tar" not in finished
    assert not list((tmp_path / "out").rglob("*.part"))
    assert generate(config, tmp_path / "out", device="cpu", batch_size=3)["made_now"] == 24 - 3 * len(finished)
    assert read_all(tmp_path / "out") == read_all(tmp_path / "whole")


def test_shares_of_several_processes_make_up_the_whole(config, tmp_path):
    generate(config, tmp_path / "one", device="cpu")
    first = generate(config, tmp_path / "three", device="cpu", share=Share(None, 0, 3))
    assert (first["made_now"], first["unfinished_shards"]) == (9, 5)
    assert not (tmp_path / "three" / "_info.json").exists()
    generate(config, tmp_path / "three", device="cpu", share=Share({1, 4}))
    last = generate(config, tmp_path / "three", device="cpu")
    assert (last["made_now"], last["unfinished_shards"]) == (9, 0)
    for path in (tmp_path / "one").rglob("*"):
        if path.is_file():
            assert path.read_bytes() == (tmp_path / "three" / path.relative_to(tmp_path / "one")).read_bytes()
    with pytest.raises(UsageError, match="there is no shard 8"):
        generate(config, tmp_path / "one", device="cpu", share=Share({8}))


def test_stream_of_one_shard_is_the_file(config, tmp_path):
    generate(config, tmp_path / "out", device="cpu")
    for number in (0, 5):
        file = io.BytesIO()
        stream(config, file, device="cpu", share=Share({number}))
        assert file.getvalue() == (tmp_path / "out" / f"train-{number:06d}.tar").read_bytes()


def test_dry_run_estimates_what_is_missing_and_writes_nothing(config, tmp_path):
    options: dict[str, Any] = {"device": "cpu", "batch_size": 4, "share": ALL}
    found = dry_run(config, tmp_path / "out", **options)
    assert (found.images, found.shards, found.images_a_shard) == (24, 8, 3)
    assert found.duration_sec > 0 and found.disk_mib > 0 and found.memory_gib > 0
    assert not (tmp_path / "out").exists()
    generate(config, tmp_path / "out", device="cpu", share=Share({0, 1}))
    assert dry_run(config, tmp_path / "out", **options).images == 18


def test_regenerated_image_is_the_one_in_the_folder(config, tmp_path):
    generate(config, tmp_path / "out", device="cpu")
    key = list(read_all(tmp_path / "out"))[7]
    found = regenerate(tmp_path / "out", key, [(config.checkpoint, config.checkpoint_sha256)], "cpu")
    assert found.same and found.largest_difference <= 1
    with pytest.raises(CheckpointError, match="no model with the SHA-256"):
        regenerate(tmp_path / "out", key, [(config.checkpoint, "0" * 64)], "cpu")
    with pytest.raises(DataError, match="holds no sample nobody"):
        regenerate(tmp_path / "out", "nobody", [], "cpu")


def test_image_of_other_pixels_is_not_the_same(config, tmp_path):
    shard = tmp_path / "out" / "train-000000.tar"
    key = "synthetic-s4-00000000-glaucoma-00000000"
    metadata: dict[str, Any] = {
        "label": 1,
        "index": 0,
        "seed": 4,
        "sampler": "dpmpp-2m",
        "steps": 3,
        "eta": 0.0,
        "precision": "fp32",
    }
    metadata |= {"guidance_scale": 1.0, "checkpoint_sha256": config.checkpoint_sha256}
    image = encode_image(np.full((16, 16, 3), 77, dtype=np.uint8), "png")
    write_shard(shard, [Sample(key, image, "png", 1, metadata)])
    found = regenerate(tmp_path / "out", key, [(config.checkpoint, config.checkpoint_sha256)], "cpu")
    assert not found.same and found.largest_difference > 1


def test_overwrite_starts_anew(config, tmp_path):
    generate(config, tmp_path / "out", device="cpu")
    found = generate(replace(config, counts=(8, 8)), tmp_path / "out", device="cpu", overwrite=True)
    assert found["made_now"] == 16
    assert len(read_all(tmp_path / "out")) == 16


def test_foreign_folder_is_not_touched(config, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ResumeError):
        generate(config, tmp_path, device="cpu", overwrite=True)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_nothing_to_make_is_an_error(config, tmp_path):
    with pytest.raises(UsageError):
        generate(replace(config, counts=(0, 0)), tmp_path / "out", device="cpu")
