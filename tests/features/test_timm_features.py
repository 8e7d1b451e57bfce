"""timm's networks as extractors: pooled features, their own preprocessing, weights from files and the cache."""

import re
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional

from synthmed.errors import CheckpointError, UsageError
from synthmed.features import timm_features
from synthmed.features.extractor import open_extractor
from synthmed.features.timm_features import TimmExtractor, find_timm_weights
from synthmed.runtime.seeds import torch_generator

LITE = Path(__file__).resolve().parents[3] / "shared" / "weights" / "tf_efficientnet_lite0.safetensors"
TINY = "test_resnet"
CPU = torch.device("cpu")


def images(count=3, height=40, width=48):
    return torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8, generator=torch_generator(0, "images"))


@pytest.fixture(scope="module")
def state():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return timm.create_model(TINY, num_classes=1000).state_dict()


@pytest.fixture
def weights(state, tmp_path):
    save_file(state, tmp_path / "tiny.safetensors")
    return tmp_path / "tiny.safetensors"


@pytest.mark.parametrize("size", [(40, 48), (200, 180)])
@pytest.mark.parametrize("model", [TINY, "test_byobnet"])
def test_equals_timm_by_hand(model, size, tmp_path):
    """Resized whole, scaled by the network's mean and deviation, pooled where its head would begin."""
    with torch.random.fork_rng(devices=[]):
        network: Any = timm.create_model(model, num_classes=1000).eval()
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    extractor = open_extractor(f"timm:{model}", weights=tmp_path / "w.safetensors", device=CPU)
    facts: dict[str, Any] = network.pretrained_cfg
    x = images(2, *size).float()
    x = functional.interpolate(x, facts["input_size"][1:], mode=facts["interpolation"], antialias=True)
    mean, std = (torch.tensor(facts[key]).view(3, 1, 1) for key in ("mean", "std"))
    with torch.no_grad():
        x = (x.clamp(0, 255) / 255 - mean) / std
        expected = network.forward_head(network.forward_features(x), pre_logits=True)
    found = extractor(images(2, *size))
    assert found.shape == (2, extractor.num_features) and found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_row_depends_on_its_image_alone(weights):
    extractor = TimmExtractor(TINY, weights, CPU)
    torch.testing.assert_close(extractor(images(9))[5:6], extractor(images(9)[5:6]), rtol=1e-5, atol=1e-6)


def test_head_may_be_missing_and_precision_half(weights, state, tmp_path):
    body = {key: value.half() if value.ndim > 1 else value for key, value in state.items() if key[:3] != "fc."}
    save_file(body, tmp_path / "half.safetensors")
    found = TimmExtractor(TINY, tmp_path / "half.safetensors", CPU)(images())
    torch.testing.assert_close(found, TimmExtractor(TINY, weights, CPU)(images()), rtol=0.02, atol=0.02)


def test_states_what_it_is_and_leaves_global_randomness_alone(weights, state, tmp_path):
    before = torch.get_rng_state()
    extractor = TimmExtractor(TINY, weights, CPU)
    assert torch.equal(torch.get_rng_state(), before)
    assert extractor.name == "timm:test_resnet"
    assert "whole image" in extractor.resize and "antialiasing" in extractor.resize
    save_file(state | {"fc.bias": torch.ones(1000)}, tmp_path / "other.safetensors")
    other = TimmExtractor(TINY, tmp_path / "other.safetensors", CPU)
    assert len({extractor.fingerprint, other.fingerprint, TimmExtractor(TINY, weights, CPU).fingerprint}) == 2


def test_weights_of_another_network_are_refused(state, tmp_path):
    def refused(changes, match, model=TINY):
        wrong = {key: value for key, value in (state | changes).items() if value is not None}
        save_file(wrong, tmp_path / "wrong.safetensors")
        with pytest.raises(CheckpointError, match=rf"wrong\.safetensors .*{match}"):
            TimmExtractor(model, tmp_path / "wrong.safetensors", CPU)

    refused({"bn1.weight": None}, r"bn1\.weight is missing.*timm:test_resnet")
    refused({"extra": torch.zeros(1)}, "extra is not part of it")
    refused({}, "does not hold the weights of test_vit", model="test_vit")


def test_names_from_before_timms_own_are_understood(tmp_path):
    """The names that ConvNeXt's authors gave, in which some published files still are."""
    with torch.random.fork_rng(devices=[]):
        own = timm.create_model("test_convnext", num_classes=0).state_dict()
    save_file(own, tmp_path / "own.safetensors")
    renamed = {}
    for name, value in own.items():
        name = re.sub(r"^stem\.", "downsample_layers.0.", name)
        name = re.sub(r"^stages\.(\d)\.downsample", r"downsample_layers.\1", name)
        name = name.replace(".blocks.", ".").replace("conv_dw", "dwconv").replace("mlp.fc", "pwconv")
        renamed[name.replace("head.norm", "norm")] = value
    save_file(renamed, tmp_path / "renamed.safetensors")
    assert not renamed.keys() & own.keys()
    found = [
        TimmExtractor("test_convnext", tmp_path / name, CPU)(images())
        for name in ("own.safetensors", "renamed.safetensors")
    ]
    assert torch.equal(*found)


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("incepton", "did you mean inception"),
        ("timm:", "unknown feature extractor"),
        ("resnet50", "valid: inception, radiomic, timm:MODEL"),
        ("timm:resnet5O", "did you mean resnet50"),
        ("timm:resnet50.nothing", r"timm has no weights resnet50\.nothing .*resnet50\.a1_in1k"),
    ],
)
def test_unknown_name_is_a_usage_error_with_the_nearest(name, match):
    with pytest.raises(UsageError, match=match) as caught:
        open_extractor(name, device=CPU)
    assert caught.value.exit_code == 2


def test_missing_weights_say_what_to_bring_and_fetch_nothing(monkeypatch, tmp_path):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", None)
    bring = (
        r"bring model\.safetensors of huggingface\.co/timm/resnet18\S+ and use --feature-weights FILE, or --download"
    )
    with pytest.raises(CheckpointError, match=bring) as caught:
        open_extractor("timm:resnet18", device=CPU)
    assert caught.value.exit_code == 3 and "\n" not in str(caught.value)


def test_file_in_hugging_faces_cache_is_found(monkeypatch, tmp_path):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    folder = tmp_path / "models--timm--resnet18.a1_in1k"
    file = folder / "snapshots" / "abc" / "model.safetensors"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"")
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("abc")
    assert find_timm_weights("resnet18.a1_in1k", download=False) == file


def test_failed_download_says_what_to_bring(monkeypatch, tmp_path):
    def fetch(*words, **options):
        raise ConnectionError("no route to host")

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(timm_features, "check_connection", fetch)
    with pytest.raises(CheckpointError, match=r"cannot fetch the weights of resnet18: no route to host .*bring"):
        open_extractor("timm:resnet18", device=CPU, download=True)


@pytest.mark.skipif(not LITE.is_file(), reason="the real weights are not on this machine")
def test_real_weights_give_their_1280_features():
    extractor = open_extractor("timm:tf_efficientnet_lite0", weights=LITE, device=CPU)
    found = extractor(images(2))
    assert found.shape == (2, 1280) and extractor.num_features == 1280
    network: Any = timm.create_model("tf_efficientnet_lite0").eval()
    network.load_state_dict({key: value.float() for key, value in load_file(LITE).items()})
    with torch.no_grad():
        x = functional.interpolate(images(2).float(), (224, 224), mode="bicubic", antialias=True).clamp(0, 255)
        logits = network((x / 255 - 0.5) / 0.5)
        torch.testing.assert_close(network.classifier(found), logits, rtol=1e-4, atol=1e-4)
