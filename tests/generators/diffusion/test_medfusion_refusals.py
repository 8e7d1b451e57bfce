"""Checkpoints that cannot be imported: each gets one line with file and reason, in bounded memory, and runs nothing."""

from __future__ import annotations

import codecs
import contextlib
import dataclasses
import os
import pickle
import subprocess
import sys
import types
import zipfile
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from synthmed.data.datasets import AIROGS
from synthmed.errors import CheckpointError
from synthmed.formats.model_files import AUTOENCODER_PREFIX, DENOISER_PREFIX
from synthmed.generators.diffusion.medfusion import import_checkpoint

# Python loads these when it first needs them to read old strings and names; later tests count what is loaded.
for codec in ("raw_unicode_escape", "unicode_escape", "cp437"):
    codecs.lookup(codec)

OUT = DENOISER_PREFIX + "outc.conv.conv."
FIRST = DENOISER_PREFIX + "in_conv.conv.weight"


def state(edit):
    """Return a change of a checkpoint that edits its state dict."""
    return lambda checkpoint: edit(checkpoint["state_dict"])


def refused(path: Path, reason: str, **options) -> None:
    """Check that an import fails with one line that names the file and the reason."""
    with pytest.raises(CheckpointError, match=reason) as caught:
        for tensor in import_checkpoint(path, AIROGS, **options)[1].values():
            assert tensor is not None
    assert caught.value.exit_code == 3
    assert path.name in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000


def add(name, value):
    return state(lambda tensors: tensors.update({name: value}))


UNFITTING = {
    "no state_dict": lambda checkpoint: checkpoint.pop("state_dict"),
    "is no tensor": add(FIRST, "text"),
    "not floats": add(FIRST, torch.zeros(8, 4, 3, 3, dtype=torch.int64)),
    "not finite": add(FIRST, torch.full((8, 4, 3, 3), float("nan"))),
    "not finite: noise_estimator.in_conv": add(FIRST, torch.full((8, 4, 3, 3), 1e300, dtype=torch.float64)),
    "has 3 classes": add(DENOISER_PREFIX + "cond_embedder.embedding.weight", torch.zeros(3, 16)),
    "KeyError": state(lambda tensors: tensors.pop(DENOISER_PREFIX + "time_embedder.time_emb.1.weight")),
    "lacks the tensor noise_estimator.in_conv.conv.bias": state(lambda tensors: tensors.pop(FIRST[:-6] + "bias")),
    "no place for: noise_estimator.extra.weight": add(DENOISER_PREFIX + "extra.weight", torch.zeros(2)),
    "no place for: latent_embedder.stray": add("stray", torch.zeros(2)),
    r"has shape \[9, 8, 1, 1\]": add(OUT + "weight", torch.zeros(9, 8, 1, 1)),
    "none of a tensor": add("a\nb", torch.zeros(2)),
    "VQ": add(AUTOENCODER_PREFIX + "quantizer.weight", torch.zeros(2)),
    "3-D": add(FIRST, torch.zeros(8, 4, 3, 3, 3)),
}


@pytest.mark.parametrize("reason", UNFITTING)
@pytest.mark.parametrize("legacy", [False, True])
def test_unfitting_contents_are_refused(lightning_file, reason, legacy):
    refused(lightning_file(UNFITTING[reason], legacy=legacy), reason)


UNSUPPORTED = {
    "use_attention": {"use_attention": ["none", "linear"]},
    "strides": {"strides": [1, 2, 4]},
    "kernel_sizes": {"kernel_sizes": [1, 3, 3]},
    "act_name": {"act_name": ("LEAKYRELU", {})},
    "use_res_block": {"use_res_block": False},
    "learnable_interpolation": {"learnable_interpolation": False},
    "num_res_blocks": {"num_res_blocks": 3},
    "time_embedder_kwargs": {"time_embedder_kwargs": {"emb_dim": 16, "pos_embedder": torch.nn.Identity}},
    "norm": {"norm_name": ("BATCH", {})},
}


@pytest.mark.parametrize("option", UNSUPPORTED)
def test_options_that_synthmed_cannot_compute_are_refused_by_name(lightning_file, option):
    refused(lightning_file(noise_estimator_kwargs=UNSUPPORTED[option]), option)


@pytest.mark.parametrize(
    ("hyper", "reason"),
    [
        ({"estimator_objective": "v"}, "predicts 'v'"),
        ({"noise_scheduler_kwargs": {"schedule_strategy": "exponential"}}, "schedule 'exponential'"),
        ({"noise_scheduler_kwargs": {"betas": [0.1] * 10}}, "betas"),
        ({"noise_scheduler_kwargs": {"timesteps": 10**12}}, "num_timesteps"),
        ({"noise_scheduler_kwargs": {"timesteps": float("inf")}}, "OverflowError"),
        ({"noise_estimator_kwargs": {"norm_name": ("GROUP", {"num_groups": 7})}}, "norm_groups"),
        ({"estimator_objective": [["x" * 10_000] * 100] * 100}, "predicts"),
    ],
)
def test_hyper_parameters_beyond_reason_are_refused(lightning_file, hyper, reason):
    refused(lightning_file(**hyper), reason)


def test_steps_beyond_reason_are_not_believed(lightning_file):
    for steps in (10**300, -5, "many", None):
        path = lightning_file(lambda checkpoint, steps=steps: checkpoint.update(global_step=steps))
        assert import_checkpoint(path, AIROGS, size=16)[0].training["steps"] == -1


def reduce_to(function, *arguments):
    class Evil:
        def __reduce__(self):
            return function, arguments

    return Evil()


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("place", ["state_dict", "hyper_parameters", "callbacks"])
def test_attack_anywhere_in_a_checkpoint_is_refused_and_never_run(lightning_file, tmp_path, place, legacy):
    marker = tmp_path / "touched"
    for name, evil in {
        "system": reduce_to(os.system, f"touch {marker}"),
        "eval": reduce_to(eval, f"open({str(marker)!r}, 'w')"),
        "__import__": reduce_to(getattr, reduce_to(__import__, "os"), "system"),
    }.items():

        def plant(checkpoint, evil=evil):
            checkpoint.setdefault(place, {})["planted"] = evil

        refused(lightning_file(plant, legacy=legacy), rf"wants \w+\.{name} called")
    assert not marker.exists()


class SetsAttributes:
    """An object whose state would be set on load."""

    def __init__(self) -> None:
        self.x = 1

    def __setstate__(self, state):
        raise AssertionError("called")


@pytest.mark.parametrize("legacy", [False, True])
def test_object_that_sets_attributes_on_load_does_not(lightning_file, monkeypatch, legacy):
    """It is a record: refused in the place of tensors, and never brought to life elsewhere."""
    module = types.ModuleType("planted")
    module.SetsAttributes = SetsAttributes  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "planted", module)
    monkeypatch.setattr(SetsAttributes, "__module__", "planted")

    def as_state(checkpoint):
        checkpoint["state_dict"] = SetsAttributes()

    refused(lightning_file(as_state, legacy=legacy), "no state_dict")
    refused(lightning_file(add(FIRST, SetsAttributes()), legacy=legacy), "is no tensor")
    header, _ = import_checkpoint(lightning_file(optimizer=SetsAttributes(), legacy=legacy), AIROGS, size=16)
    assert header.kind == "generator"


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.9, 0.999])
def test_truncated_checkpoint_is_refused(lightning_file, tmp_path, share, legacy):
    whole = lightning_file(legacy=legacy).read_bytes()
    (tmp_path / "cut.ckpt").write_bytes(whole[: int(len(whole) * share)])
    refused(tmp_path / "cut.ckpt", r"cut\.ckpt")


def test_path_that_escapes_is_refused(lightning_file, tmp_path):
    with zipfile.ZipFile(lightning_file()) as old, zipfile.ZipFile(tmp_path / "climb.ckpt", "w") as new:
        for info in old.infolist():
            new.writestr(info.filename.replace("model/data/0", "model/../../0"), old.read(info))
    refused(tmp_path / "climb.ckpt", "escapes")


def test_many_tensors_in_few_bytes_are_refused(lightning_file):
    """All biases and weights views of one storage, as large as the largest."""

    def share(tensors):
        storage = torch.zeros(max(tensor.numel() for tensor in tensors.values()))
        for name, tensor in tensors.items():
            tensors[name] = storage[: tensor.numel()].view(tensor.shape)

    refused(lightning_file(state(share)), "weights in .* bytes")


needs_proc = pytest.mark.skipif(
    not os.access("/proc/self/clear_refs", os.W_OK), reason="needs Linux's /proc to see a process's memory"
)
MEASURE = """
import re, sys
from pathlib import Path
import torch, safetensors.torch
from synthmed.formats.model_files import save_model
from synthmed.data.datasets import AIROGS
from synthmed.generators.diffusion.pipeline import load_pipeline
from synthmed.errors import CheckpointError
from synthmed.generators.diffusion.medfusion import import_checkpoint

def kilobytes(what):
    # Not from getrusage: its peak comes down from the process that started this one.
    return int(re.search(what + r":\\s*(\\d+) kB", Path("/proc/self/status").read_text())[1])

def grown(work):
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    resident = kilobytes("VmRSS")
    try:
        kept = work()
        outcome = "done"
    except CheckpointError:
        outcome = "refused"
    print(outcome, 1024 * (kilobytes("VmHWM") - resident))

for path in map(Path, sys.argv[1:]):
    grown(lambda: save_model(path.with_suffix(".safetensors"), *import_checkpoint(path, AIROGS)))
    if path.with_suffix(".safetensors").exists():
        grown(lambda: load_pipeline(path.with_suffix(".safetensors")))
"""


def measure(*paths: Path) -> list[tuple[str, int]]:
    """Import and load in a process of its own; return outcomes, and bytes by which the process grew."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, *map(str, paths)], capture_output=True, text=True, check=True, timeout=120
    )
    return [(word, int(number)) for word, number in map(str.split, done.stdout.splitlines())]


@needs_proc
def test_memory_stays_below_one_and_a_half_times_the_file(lightning_file, tiny_header, change_header, make_tensors):
    """20 M parameters; those of two copies at once, as files and as random networks to load into, do not pass."""
    unet = dataclasses.replace(tiny_header.build.unet, widths=(64, 128, 256, 256), strides=(1, 2, 2, 2), norm_groups=8)
    tensors = make_tensors(change_header(tiny_header, unet=unet))
    norm = {"norm_name": ("GROUP", {"num_groups": 8})}
    paths = [
        lightning_file(name=f"large{legacy}.ckpt", tensors=tensors, legacy=legacy, noise_estimator_kwargs=norm)
        for legacy in (False, True)
    ]
    size = min(path.stat().st_size for path in paths)
    assert size > 50e6
    outcomes = measure(*paths)
    assert {outcome for outcome, _ in outcomes} == {"done"}
    for (_, import_grown), (_, load_grown) in (outcomes[:2], outcomes[2:]):
        assert import_grown < 0.75 * size  # one tensor at a time
        assert load_grown < 1.5 * size


@needs_proc
def test_ten_gigabytes_declared_in_a_small_file_cost_no_memory(lightning_file, tmp_path):
    paths = []
    for legacy in (False, True):
        content = lightning_file(legacy=legacy).read_bytes()
        shape = b"K\x08K\x04K\x03K\x03"
        assert shape in content
        # Lengths of pickles do not change, nor do sums of a zip's members matter before its pickle is read.
        paths.append(tmp_path / f"huge{legacy}.ckpt")
        paths[-1].write_bytes(content.replace(shape, b"K\xffK\xffK\xffK\xff"))
    for outcome, bytes_grown in measure(*paths):
        assert outcome == "refused"
        assert bytes_grown < 100e6


CALLS: list[object] = []


def sentinel(*arguments: object) -> None:
    """Be called by nobody: files name it, and only an interpreter that runs them would."""
    CALLS.append(arguments)


@pytest.fixture
def seeds_of_mutants(lightning_file, monkeypatch):
    """Checkpoints of both formats in which every name is one that could be imported and called."""
    module = types.ModuleType("planted")
    module.sentinel = sentinel  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "planted", module)
    monkeypatch.setattr(sentinel, "__module__", "planted")
    files = []
    for legacy in (False, True):
        path = lightning_file(optimizer=reduce_to(sentinel, 1), lr_scheduler=sentinel, legacy=legacy)
        assert import_checkpoint(path, AIROGS, size=16)[0].kind == "generator"
        files.append(path.read_bytes())
    return files


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_mutated_checkpoints_neither_crash_nor_import_nor_call(seeds_of_mutants, tmp_path, data):
    content = bytearray(data.draw(st.sampled_from(seeds_of_mutants)))
    # Most of a file is numbers; what decides lies in its pickles, at its beginning, and in a zip's list at its end.
    ends = st.one_of(st.integers(0, 20_000), st.integers(-20_000, -1), st.integers(0, len(content) - 1))
    for _ in range(data.draw(st.integers(1, 5))):
        place = data.draw(ends) % len(content)
        match data.draw(st.sampled_from(["byte", "cut", "copy", "drop"])):
            case "byte":
                content[place] = data.draw(st.integers(0, 255))
            case "cut":
                del content[max(place, 1) :]
            case "copy":
                content[place:place] = content[place : place + data.draw(st.integers(1, 40))]
            case "drop":
                del content[place : place + data.draw(st.integers(1, 40))]
        if not content:
            break
    path = tmp_path / "mutant.ckpt"
    path.write_bytes(content)
    modules = set(sys.modules)
    with contextlib.suppress(CheckpointError):
        for tensor in import_checkpoint(path, AIROGS, size=16)[1].values():
            assert tensor.dtype == torch.float32
    assert set(sys.modules) == modules
    assert CALLS == []


def test_sentinel_would_be_called_by_pythons_own_unpickler(seeds_of_mutants):
    """The test above can fail: whoever executes such a pickle calls it."""
    pickle.loads(pickle.dumps(reduce_to(sentinel, 1)))
    assert CALLS.pop() == (1,)
