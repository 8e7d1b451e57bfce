"""LPIPS against its definition and against another implementation; what is refused as its weights."""

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional

from synthmed.errors import CheckpointError
from synthmed.metrics import perceptual
from synthmed.metrics.perceptual import Lpips

CPU = torch.device("cpu")


def images(count=2, channels=3, size=32, seed=0):
    return torch.rand(count, channels, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def by_definition(state, x, y):
    """Return LPIPS layer by layer, written out from the paper for VGG-16: conv, ReLU, and five stages."""
    convolutions = {1: (0, 2), 2: (5, 7), 3: (10, 12, 14), 4: (17, 19, 21), 5: (24, 26, 28)}
    shift = torch.tensor([-0.030, -0.088, -0.188])[:, None, None]
    scale = torch.tensor([0.458, 0.448, 0.450])[:, None, None]
    distance = torch.zeros(len(x))
    a, b = (x - shift) / scale, (y - shift) / scale
    for stage, numbers in convolutions.items():
        if stage > 1:
            a, b = functional.max_pool2d(a, 2), functional.max_pool2d(b, 2)
        for number in numbers:
            weight, bias = state[f"features.{number}.weight"], state[f"features.{number}.bias"]
            a, b = (functional.relu(functional.conv2d(z, weight, bias, padding=1)) for z in (a, b))
        unit_a, unit_b = a / a.norm(dim=1, keepdim=True), b / b.norm(dim=1, keepdim=True)
        distance += ((unit_a - unit_b) ** 2).sum(dim=1).mean(dim=(1, 2))
    return distance


def test_equals_the_definition(vgg_file, vgg_state):
    x, y = images(), images(seed=1)
    found = Lpips(vgg_file, CPU)(x, y)
    assert found.shape == (2,)
    assert found.min() > 0.01
    torch.testing.assert_close(found, by_definition(vgg_state, x, y), rtol=1e-4, atol=1e-6)


def test_equals_torchmetrics_with_all_channels_weighing_one(vgg_file, vgg_state):
    from torchmetrics.functional.image.lpips import _LPIPS

    with torch.device("meta"):
        other = _LPIPS(pretrained=False, net="vgg", pnet_rand=True)
    other.scaling_layer = type(other.scaling_layer)()
    ones = {f"lins.{n}.model.1.weight": torch.ones(1, width, 1, 1) for n, width in enumerate(other.chns)}
    other.load_state_dict(ones, strict=False, assign=True)
    slices = {name: name.split(".")[-2] + "." + name.split(".")[-1] for name in other.net.state_dict()}
    other.net.load_state_dict({name: vgg_state[f"features.{rest}"] for name, rest in slices.items()}, assign=True)
    x, y = images(), images(seed=1)
    torch.testing.assert_close(Lpips(vgg_file, CPU)(x, y), other.eval()(x, y).flatten(), rtol=1e-4, atol=1e-6)


def test_greyscale_counts_as_three_equal_channels(vgg_file):
    lpips, x, y = Lpips(vgg_file, CPU), images(channels=1), images(channels=1, seed=1)
    assert torch.equal(lpips(x, y), lpips(x.repeat(1, 3, 1, 1), y.repeat(1, 3, 1, 1)))


def test_is_zero_for_equal_images(vgg_file):
    assert torch.equal(Lpips(vgg_file, CPU)(images(), images()), torch.zeros(2))


def test_features_that_are_all_zero_have_a_finite_gradient(vgg_state, tmp_path):
    """The mean colour through a network without biases: a vector without a direction."""
    path = tmp_path / "vgg.safetensors"
    save_file({name: tensor * (not name.endswith("bias")) for name, tensor in vgg_state.items()}, path)
    mean = torch.tensor(perceptual.SHIFT)[None, :, None, None].expand(1, 3, 32, 32)
    x = mean.clone().requires_grad_()
    distance = Lpips(path, CPU)(x, images(1))
    distance.sum().backward()
    assert distance.isfinite().all()
    assert x.grad is not None and x.grad.isfinite().all()


def test_gradient_leads_to_the_target_and_leaves_the_network_alone(vgg_file):
    lpips, target = Lpips(vgg_file, CPU), images(1)
    x = (target + 0.3 * images(1, seed=1)).requires_grad_()
    before = lpips(x, target)
    before.sum().backward()
    with torch.no_grad():
        assert (lpips(x - 0.05 * x.grad.sign(), target) < before).all()
    assert all(not parameter.requires_grad for parameter in lpips._features.parameters())


def test_smallest_size_still_works(vgg_file):
    assert Lpips(vgg_file, CPU)(images(size=16), images(size=16, seed=1)).min() > 0


def test_torchvisions_own_file_is_read_without_its_classifier(vgg_file, vgg_state, tmp_path):
    path = tmp_path / "vgg16-397923af.pth"
    whole = {**vgg_state, "classifier.0.weight": torch.full((2, 2), torch.nan)}
    torch.save(whole, path, _use_new_zipfile_serialization=False)
    x, y = images(), images(seed=1)
    assert torch.equal(Lpips(path, CPU)(x, y), Lpips(vgg_file, CPU)(x, y))


class Evil:
    def __reduce__(self):
        return exec, ("raise SystemExit('a pickle was run')",)


def test_pickle_is_never_run(tmp_path):
    path = tmp_path / "vgg16-397923af.pth"
    torch.save({"features.0.weight": Evil()}, path)
    with pytest.raises(CheckpointError, match=r"397923af\.pth: its pickle wants .*exec called") as caught:
        Lpips(path, CPU)
    assert caught.value.exit_code == 3


def test_missing_file_says_what_to_bring(tmp_path):
    for name in ("no.pth", "no.safetensors"):
        with pytest.raises(CheckpointError, match=r"no such weights file: .*bring torchvision's vgg16-397923af\.pth"):
            Lpips(tmp_path / name, CPU)


def test_wrong_weights_are_named(vgg_state, tmp_path):
    def refused(state, match):
        save_file(state, tmp_path / "x.safetensors")
        with pytest.raises(CheckpointError, match=match):
            Lpips(tmp_path / "x.safetensors", CPU)

    first = vgg_state["features.0.weight"]
    refused({"features.0.weight": first}, r"features\.0\.bias is missing \(25 of 26 tensors\)")
    refused(
        {"features.0.weight": first[:8].clone()}, r"features\.0\.weight has shape \[8, 3, 3, 3\], not \[64, 3, 3, 3\]"
    )
    refused({**vgg_state, "features.0.weight": first * torch.nan}, r"not finite: features\.0\.weight")
    (tmp_path / "x.safetensors").write_bytes(b"{}")
    with pytest.raises(CheckpointError, match="neither safetensors nor"):
        Lpips(tmp_path / "x.safetensors", CPU)
