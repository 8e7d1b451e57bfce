"""LPIPS: the distance of two images in the features of VGG-16, whose weights come from a file on this machine.

Nothing is downloaded here, and nothing in the file is run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from synthmed.formats.weight_files import fit_weights, read_weights

VGG_FILE = "vgg16-397923af.pth"
PART = "features."
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
        weights: torchvision's file, or another one with `features.*` as in it.
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
    # torchvision's file holds its classifier too, which is nine tenths of it.
    wanted = {f"{PART}{name}": tensor for name, tensor in features.state_dict().items()}
    found = read_weights(path, wanted, part=PART, remedy=HOW_TO_GET)
    tensors = fit_weights(path, "VGG-16", found, wanted, HOW_TO_GET)
    features.load_state_dict({name.removeprefix(PART): tensors[name] for name in wanted}, assign=True)
    return features.eval().requires_grad_(False)
