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
from synthmed.data.labels import Classes
from synthmed.data.shards.write import Sample, write_shard
from synthmed.data.verify.folder import verify_folder
from synthmed.errors import CheckpointError, DataError, DeviceError, ResumeError, UsageError
from synthmed.files.content import hash_file
from synthmed.formats.model_files import save_model
from synthmed.generators.diffusion.networks.unet import Denoiser
from synthmed.generators.diffusion.pipeline import Pipeline
from synthmed.generators.diffusion.settings import DiffusionSettings
from synthmed.generators.families import read_header
from synthmed.production.extension import extended
from synthmed.production.plan import ALL, GenerateConfig, Share, plan
from synthmed.production.regenerate import regenerate
from synthmed.production.render import Renderer
from synthmed.production.run import dry_run, generate, stream

SETTINGS = DiffusionSettings(sampler="dpmpp-2m", steps=3, eta=0.0)
MARKS = {"sampler": "dpmpp-2m", "steps": 3, "eta": 0.0, "guidance_scale": 1.0}

CUDA_OUT_OF_MEMORY = torch.OutOfMemoryError("CUDA out of memory")


@pytest.fixture
def config(tiny_model_file) -> GenerateConfig:
    return GenerateConfig(
        checkpoint=tiny_model_file,
        checkpoint_sha256=hash_file(tiny_model_file),
        header=read_header(tiny_model_file),
        counts=(9, 15),
        seed=4,
        settings=SETTINGS,
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
        assert metadata["label_name"] == config.header.classes[metadata["label"]]
        assert metadata["checkpoint_sha256"] == config.checkpoint_sha256
        image = PngImageFile(io.BytesIO(members["png"]))
        image.load()
        assert image.text["synthetic"].lower() == "true"
        assert "trainedAlgorithmicMedia" in image.text["XML:com.adobe.xmp"]
        # Absent means diffusion, as in folders from before there were other families.
        assert "family" not in metadata
        assert {name: metadata[name] for name in MARKS} == MARKS
        assert "detail_steps" not in metadata
    run = json.loads((tmp_path / "out" / ".synthmed" / "run.json").read_text())
    assert "family" not in run and run["sampler"] == MARKS
    glaucoma = [json.loads(members["json"]) for members in samples.values() if members["cls"] == b"1"]
    assert sorted(metadata["index"] for metadata in glaucoma) == list(range(15))


def test_other_than_square_images_and_what_their_folder_says(config, save_tiny_model, tmp_path):
    path = save_tiny_model(tmp_path / "wide.safetensors", size=(16, 40))
    wide = replace(config, checkpoint=path, header=read_header(path), counts=(2, 2))
    generate(wide, tmp_path / "out", device="cpu")
    for members in read_all(tmp_path / "out").values():
        assert Image.open(io.BytesIO(members["png"])).size == (40, 16)
    assert "16 pixels high and 40 wide" in (tmp_path / "out" / "README.md").read_text()
    assert json.loads((tmp_path / "out" / ".synthmed" / "run.json").read_text())["folder"]["size"] == [16, 40]
    assert generate(wide, tmp_path / "out", device="cpu")["made_now"] == 0
    assert verify_folder(tmp_path / "out").problems == ()
    run = json.loads((tmp_path / "out" / ".synthmed" / "run.json").read_text())
    run["folder"]["size"] = [40, 16]
    (tmp_path / "out" / ".synthmed" / "run.json").write_text(json.dumps(run))
    report = verify_folder(tmp_path / "out")
    assert report.num_problems == 4
    assert report.problems[0].problem.endswith("has 40 x 16 pixels, but 16 x 40 are stated")


@pytest.mark.parametrize("image_format", ["png", "webp", "jpg"])
def test_images_of_a_model_of_one_channel_are_grey_to_the_level(
    config, tiny_header, change_header, make_tensors, image_format, tmp_path
):
    header = change_header(tiny_header, vae=replace(tiny_header.build.vae, image_channels=1))
    save_model(tmp_path / "grey.safetensors", header, make_tensors(header))
    path = tmp_path / "grey.safetensors"
    grey = replace(config, checkpoint=path, checkpoint_sha256=hash_file(path), header=header, counts=(2, 2))
    generate(replace(grey, image_format=image_format), tmp_path / "out", device="cpu")
    samples = read_all(tmp_path / "out")
    assert len(samples) == 4
    for members in samples.values():
        image = np.asarray(Image.open(io.BytesIO(members[image_format])))
        assert image.shape == (16, 16, 3) and image.std() > 1
        assert (image == image[..., :1]).all()


def test_unconditional_model_makes_images_of_its_one_class(config, tiny_header, change_header, make_tensors, tmp_path):
    unet = replace(tiny_header.build.unet, conditional=False)
    header = change_header(tiny_header, unet=unet, classes=Classes(("image",)))
    save_model(tmp_path / "free.safetensors", header, make_tensors(header))
    free = replace(config, checkpoint=tmp_path / "free.safetensors", header=header, counts=(3,))
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
        ({"settings": replace(SETTINGS, steps=4)}, "sampler.steps: 3 there, 4 asked for"),
        ({"checkpoint_sha256": "0" * 64}, r"source has changed since it was checked: .*tiny.safetensors \(checkpoint_"),
        ({"counts": (18, 30), "match": "real"}, "has changed since it was checked: real .counts.glaucoma: 15"),
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


@pytest.fixture
def short_of_memory(monkeypatch):
    """A function after which the denoiser has no memory for more than some images: below all that measures or samples.

    It gives the list of the batches that it is then asked for.
    """

    def make_short(most, error=CUDA_OUT_OF_MEMORY):
        forward, asked = Denoiser.forward, []

        def limited(self, x_t, *arguments, **options):
            asked.append(len(x_t))
            if len(x_t) > most:
                raise error
            return forward(self, x_t, *arguments, **options)

        monkeypatch.setattr(Denoiser, "forward", limited)
        return asked

    return make_short


def assert_same_but_for_rounding(one, other):
    """Check that two folders hold the same samples, with pixels that differ by a grey level at most."""
    for a, b in zip(read_all(one).items(), read_all(other).items(), strict=True):
        assert (a[0], a[1]["json"], a[1]["cls"]) == (b[0], b[1]["json"], b[1]["cls"])
        assert max(abs(x - y) for x, y in zip(pixels(a[1]["png"]), pixels(b[1]["png"]), strict=True)) <= 1


@pytest.mark.parametrize(
    "error",
    [
        CUDA_OUT_OF_MEMORY,
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
        MemoryError(),
    ],
)
def test_smaller_batch_after_running_out_of_memory(config, tmp_path, short_of_memory, capsys, error):
    """The cost of a full batch is measured first: there is no memory for that one either."""
    config = replace(config, counts=(12, 20))  # eight shards of four
    generate(config, tmp_path / "enough", device="cpu", batch_size=4)
    asked = short_of_memory(2, error)
    assert generate(config, tmp_path / "short", device="cpu", batch_size=4)["made_now"] == 32
    notes = [line for line in capsys.readouterr().err.splitlines() if "out of memory" in line]
    assert notes == ["note: out of memory with 4 images at once, going on with 2: the same images"]
    assert asked[0] == 4 and set(asked[1:]) == {2}
    assert_same_but_for_rounding(tmp_path / "enough", tmp_path / "short")


def test_stream_takes_smaller_batches_after_running_out_of_memory(config, tmp_path, short_of_memory, capsys):
    generate(config, tmp_path / "enough", device="cpu", batch_size=3)
    short_of_memory(2)
    (tmp_path / "short").mkdir()
    with open(tmp_path / "short" / "all.tar", "wb") as file:
        stream(config, file, device="cpu", batch_size=3)
    assert capsys.readouterr().err.count("out of memory with 3 images at once, going on with 1") == 1
    assert_same_but_for_rounding(tmp_path / "enough", tmp_path / "short")


def test_dry_run_measures_the_batch_that_fits(config, tmp_path, short_of_memory, capsys):
    asked = short_of_memory(2)
    found = dry_run(config, tmp_path / "out", device="cpu", batch_size=16, share=ALL)
    assert (found.images, found.shards) == (24, 8)
    assert found.duration_sec > 0
    notes = [line for line in capsys.readouterr().err.splitlines() if "out of memory" in line]
    assert [note.partition(",")[0] for note in notes] == [
        f"note: out of memory with {size} images at once" for size in (16, 8, 4)
    ]
    assert asked[:4] == [16, 8, 4, 2]
    assert not (tmp_path / "out").exists()


def test_batch_is_halved_again_where_sampling_takes_more_than_the_measurement(config, tmp_path, monkeypatch, capsys):
    """Decoding a batch may be what does not fit, while other programs take memory in the middle of a run."""
    from synthmed.generators.diffusion.pipeline import Pipeline

    generate(config, tmp_path / "enough", device="cpu", batch_size=3)
    sample = Pipeline.sample

    def limited(self, labels, **options):
        if len(labels) > 1:
            raise CUDA_OUT_OF_MEMORY
        return sample(self, labels, **options)

    monkeypatch.setattr(Pipeline, "sample", limited)
    generate(config, tmp_path / "short", device="cpu", batch_size=3)
    notes = [line for line in capsys.readouterr().err.splitlines() if "out of memory" in line]
    assert notes == ["note: out of memory with 3 images at once, going on with 1: the same images"]
    assert_same_but_for_rounding(tmp_path / "enough", tmp_path / "short")


def test_no_memory_for_one_image_is_an_error(config, tmp_path, short_of_memory):
    short_of_memory(0)
    place: dict[str, Any] = {"device": "cpu", "batch_size": 4}
    for run in (
        lambda: generate(config, tmp_path / "out", **place),
        lambda: stream(config, io.BytesIO(), **place),
        lambda: dry_run(config, tmp_path / "out", **place, share=ALL),
    ):
        with pytest.raises(DeviceError, match="out of memory for a single image") as caught:
            run()
        assert caught.value.exit_code == 4
    assert not list((tmp_path / "out").rglob("*.part"))


def test_other_failures_of_a_network_are_not_taken_for_lack_of_memory(config, tmp_path, short_of_memory):
    short_of_memory(2, RuntimeError("shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        generate(config, tmp_path / "out", device="cpu", batch_size=3)


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
    assert (first["made_now"], first["unfinished_shards"], first["shards"]) == (9, 5, 3)
    assert not (tmp_path / "three" / "_info.json").exists()
    second = generate(config, tmp_path / "three", device="cpu", share=Share({1, 4}))
    assert (second["made_now"], second["unfinished_shards"], second["shards"]) == (6, 3, 5)
    last = generate(config, tmp_path / "three", device="cpu")
    assert (last["made_now"], last["unfinished_shards"], last["shards"]) == (9, 0, 8)
    assert last["images"] == {"no-glaucoma": 9, "glaucoma": 15}
    for path in (tmp_path / "one").rglob("*"):
        if path.is_file():
            assert path.read_bytes() == (tmp_path / "three" / path.relative_to(tmp_path / "one")).read_bytes()
    with pytest.raises(UsageError, match="there is no shard 8"):
        generate(config, tmp_path / "one", device="cpu", share=Share({8}))


def test_equal_command_that_finishes_meanwhile_is_not_disturbed(config, tmp_path, monkeypatch):
    """The other one makes the whole folder while this one is in its first shard."""
    out, batches, others = tmp_path / "out", Renderer.batches, []

    def state():
        paths = [*out.glob("train-*.tar"), *out.glob(".synthmed/train-*.json")]
        return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in paths}

    def batches_after_the_other(self, images):
        monkeypatch.setattr(Renderer, "batches", batches)
        others.append(generate(config, out, device="cpu"))
        others.append(state())
        return self.batches(images)

    monkeypatch.setattr(Renderer, "batches", batches_after_the_other)
    mine = generate(config, out, device="cpu")
    other, finished = others
    assert [(run["made_now"], run["unfinished_shards"]) for run in (other, mine)] == [(24, 0), (3, 0)]
    assert state() == finished and len(finished) == 16
    assert verify_folder(out).problems == ()


def test_result_counts_the_images_that_are_there(config, tmp_path):
    """Those of shards that others have made as well, of those to come none."""
    for chosen in ({0, 1}, {6}):
        found = generate(config, tmp_path / "out", device="cpu", share=Share(chosen))
        labels = [int(members["cls"]) for members in read_all(tmp_path / "out").values()]
        assert found["images"] == {"no-glaucoma": labels.count(0), "glaucoma": labels.count(1)}
        assert found["shards"] == len(list((tmp_path / "out").glob("*.tar"))) == 8 - found["unfinished_shards"]
    assert len(labels) == 9


def test_process_makes_every_so_many_of_the_chosen_shards():
    assert Share().indices(4) == [0, 1, 2, 3]
    assert [Share(None, rank, 3).indices(8) for rank in range(3)] == [[0, 3, 6], [1, 4, 7], [2, 5]]
    assert [Share({1, 2, 5, 6}, rank, 2).indices(8) for rank in range(2)] == [[2, 6], [1, 5]]
    with pytest.raises(UsageError, match=r"there is no shard 8 \(this run has shards 0 to 7\)"):
        Share({8}).indices(8)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"counts": (10**30, 1)}, "images: .* is out of range"),
        ({"seed": -1}, "seed: -1 is out of range"),
        ({"seed": 1 << 63}, "seed: .* is out of range"),
        ({"workers": 0}, "workers: 0 is out of range"),
        ({"counts": (10**8, 0), "workers": 1024, "ranks": 1024}, "1048576 shards .at most 999999"),
    ],
)
def test_runs_beyond_all_bounds_are_refused_before_they_are_planned(config, changes, message):
    with pytest.raises(UsageError, match=message):
        replace(config, **changes)


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
    assert found.settings == "sampler dpmpp-2m, 3 steps, eta 0, guidance scale 1"
    assert found.settings in str(found)
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


KEY = "synthetic-s4-00000000-glaucoma-00000000"


@pytest.fixture
def write_sample(config, tmp_path):
    """A function that writes a folder with one grey image, which says what is given of how it was made."""
    metadata: dict[str, Any] = {
        **{"label": 1, "index": 0, "seed": 4, "precision": "fp32", "checkpoint_sha256": config.checkpoint_sha256},
        **MARKS,
    }

    def write(**changes):
        image = encode_image(np.full((16, 16, 3), 77, dtype=np.uint8), "png")
        said = {name: value for name, value in {**metadata, **changes}.items() if value is not ...}
        write_shard(tmp_path / "out" / "train-000000.tar", [Sample(KEY, image, "png", 1, said)])
        return tmp_path / "out"

    return write


@pytest.mark.parametrize("family", [..., "diffusion"])
def test_image_of_other_pixels_is_not_the_same(config, write_sample, family):
    found = regenerate(write_sample(family=family), KEY, [(config.checkpoint, config.checkpoint_sha256)], "cpu")
    assert not found.same and found.largest_difference > 1


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"seed": ...}, DataError, f"{KEY}.json does not say how the image was made: 'seed'"),
        ({"eta": ...}, DataError, "has no eta"),
        ({"steps": "many"}, DataError, "steps is 'many'"),
        ({"sampler": "euler"}, DataError, "'euler' (valid: ddim, dpmpp-2m)"),
        ({"index": -1}, DataError, "label, seed and index must be whole numbers"),
        ({"label": 2}, DataError, "has the label 2, its model 2 classes"),
        ({"steps": 1001}, DataError, "the model has 1000 timesteps"),
        ({"family": "gan"}, DataError, f"{KEY} was made by the family 'gan', its model is of the family diffusion"),
        ({"family": "gaussian"}, DataError, "was made by the family 'gaussian', its model is of the family diffusion"),
        ({"family": ["gan"]}, DataError, "was made by the family ['gan']"),
        ({"precision": "fp16"}, DataError, "precision is 'fp16'"),
        ({"precision": ["fp32"]}, DataError, "precision is ['fp32']"),
        ({"label": True}, DataError, "label, seed and index must be whole numbers"),
        ({"seed": 10**30}, DataError, "label, seed and index must be whole numbers"),
        ({"guidance_scale": 1e30}, DataError, "it must be in 0 .. 100"),
    ],
)
def test_sample_that_does_not_say_how_it_was_made_is_named(config, write_sample, changes, error, said):
    with pytest.raises(error) as caught:
        regenerate(write_sample(**changes), KEY, [(config.checkpoint, config.checkpoint_sha256)], "cpu")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.fixture
def break_images(monkeypatch):
    """A function that spoils what the networks give for the images that it is told."""

    def spoil(change):
        decode = Pipeline.decode
        monkeypatch.setattr(Pipeline, "decode", lambda self, latents: change(decode(self, latents)))

    return spoil


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_image_that_is_not_finite_ends_the_run_and_is_named(config, tmp_path, break_images, write_sample, value):
    def change(images):
        images[-1, 0, 3, 5] = value
        return images

    break_images(change)
    with pytest.raises(CheckpointError, match=r"makes an image that is not finite: .*, index [0-9]+, seed 4") as caught:
        generate(config, tmp_path / "made", device="cpu", batch_size=4)
    assert caught.value.exit_code == 3 and config.checkpoint.name in str(caught.value)
    assert not list((tmp_path / "made").glob("*.tar*"))
    with pytest.raises(CheckpointError, match="not finite: glaucoma, index 0, seed 4"):
        regenerate(write_sample(), KEY, [(config.checkpoint, config.checkpoint_sha256)], "cpu")


def test_batch_of_blank_images_is_said_once(config, tmp_path, break_images, capsys):
    break_images(lambda images: images * 0)
    generate(config, tmp_path / "out", device="cpu", batch_size=2)
    assert capsys.readouterr().err.count("note: all images of a batch of") == 1


@pytest.mark.parametrize("overwrite", [False, True])
def test_model_that_cannot_be_loaded_claims_and_empties_no_folder(config, tmp_path, overwrite):
    if overwrite:
        generate(config, tmp_path / "out", device="cpu")
    before = sorted(tmp_path.glob("out/**/*"))
    content = bytearray(config.checkpoint.read_bytes())
    content[-4:] = b"\xff" * 4
    (tmp_path / "broken.safetensors").write_bytes(content)
    broken = replace(config, checkpoint=tmp_path / "broken.safetensors")
    with pytest.raises(CheckpointError, match="weights that are not finite"):
        generate(broken, tmp_path / "out", device="cpu", overwrite=overwrite)
    assert sorted(tmp_path.glob("out/**/*")) == before


def test_overwrite_starts_anew(config, tmp_path):
    generate(config, tmp_path / "out", device="cpu")
    for _ in range(2):
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
