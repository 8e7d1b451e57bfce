"""LPIPS: the distance of two images in the features of VGG-16, whose weights come from a file on this machine.

Nothing is downloaded here, and no pickle is read but torchvision's own file, known by its SHA-256.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from synthmed.errors import CheckpointError
from synthmed.files.content import hash_file

VGG_FILE = "vgg16-397923af.pth"
VGG_SHA256 = "397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0"
HOW_TO_GET = f"bring torchvision's {VGG_FILE}, or its weights as safetensors, and use --vgg-weights FILE"
# Ends of the five stages in torchvision's `features`: after the last ReLU before each pooling.
STAGE_ENDS = (4, 9, 16, 23, 30)
MIN_SIZE = 16  # four poolings come before the last stage
# Mean and deviation of ImageNet in [-1, 1], as the reference implementation rounds them.
SHIFT = (-0.030, -0.088, -0.188)
SCALE = (0.458, 0.448, 0.450)
Distance = Callable[[Tensor, Tensor], Tensor]
"""Of images to targets, [N, C, H, W] in [-1, 1] each: one value per image, [N]."""


class Lpips:
    """Learned perceptual image patch similarity (Zhang et al. 2018, eq. 1), all channels weighing the same.

    That is the reference implementation's VGG-16 without its linear calibration, as Medfusion uses it. No module, so
    that whatever holds one neither trains nor stores it.

    Args:
        weights: torchvision's file, or safetensors with `features.*` as in it.
        device: Where the images will be.

    Raises:
        CheckpointError: The file is missing, broken, or holds something else.
    """

    def __init__(self, weights: Path, device: torch.device) -> None:
        self._features = _build_features(weights).to(device)
        self._shift, self._scale = (torch.tensor(values, device=device).view(1, 3, 1, 1) for values in (SHIFT, SCALE))

    def __call__(self, images: Tensor, targets: Tensor) -> Tensor:
        """Return the distance of each image to its target: [N].

        Args:
            images: [N, C, H, W] in [-1, 1], one channel or three, at least 16 pixels per side; gradients flow here.
            targets: The same, without gradients.
        """
        with torch.no_grad():
            wanted = list(self._stages(targets))
        distances = [
            (found - other).square().sum(dim=1).mean(dim=(1, 2))
            for found, other in zip(self._stages(images), wanted, strict=True)
        ]
        return torch.stack(distances).sum(dim=0)

    def _stages(self, images: Tensor) -> Iterator[Tensor]:
        """Yield the features of each stage, every position brought to unit length."""
        x = (images.expand(-1, 3, -1, -1) - self._shift) / self._scale
        for number, layer in enumerate(self._features, start=1):
            x = layer(x)
            if number in STAGE_ENDS:
                # Inside the root: its gradient at zero would not be finite.
                yield x / (x.square().sum(dim=1, keepdim=True) + 1e-10).sqrt()


def _build_features(path: Path) -> nn.Sequential:
    from torchvision.models.vgg import cfgs, make_layers

    with torch.device("meta"):
        # Without the last pooling, and without the classifier, which is nine tenths of the network.
        features: nn.Sequential = make_layers(cfgs["D"])[: STAGE_ENDS[-1]]
    tensors = _read_tensors(path)
    wanted = {f"features.{name}": tensor for name, tensor in features.state_dict().items()}
    for name, tensor in wanted.items():
        if name not in tensors or tensors[name].shape != tensor.shape:
            raise CheckpointError(f"{path} does not hold the weights of VGG-16: no {name} of its shape", HOW_TO_GET)
        if not torch.isfinite(tensors[name]).all():
            raise CheckpointError(f"{path} has weights that are not finite: {name}", HOW_TO_GET)
    state = {name.removeprefix("features."): tensors[name].float() for name in wanted}
    features.load_state_dict(state, assign=True)
    return features.eval().requires_grad_(False)


def _read_tensors(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise CheckpointError(f"no such weights file: {path}", HOW_TO_GET)
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        # A pickle from elsewhere is not even opened; this one has no instruction but to build tensors.
        if (found := hash_file(path)) != VGG_SHA256:
            raise CheckpointError(f"{path} is not {VGG_FILE}: its SHA-256 is {found[:12]}...", HOW_TO_GET)
        tensors: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"cannot read {path}: {error}", HOW_TO_GET) from error
    return tensors
