"""Inception's pool features, those that FID is defined by (Heusel et al. 2017), computed by torch-fidelity's network.

That is the TensorFlow graph of 2015 in PyTorch, with its own resize. Weights are read as data; no pickle is run.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from synthmed.errors import CheckpointError
from synthmed.features.names import HOW_TO_GET, INCEPTION_FILE, INCEPTION_URL, check_inception_file
from synthmed.features.slices import compute
from synthmed.files.content import hash_file, hash_json
from synthmed.formats.weight_files import fit_weights, read_weights
from synthmed.runtime.network import check_connection
from synthmed.runtime.progress import log

VERSION = 1  # of the features: to be raised whenever the same image gives others
LAYER = "2048"  # torch-fidelity's name of what comes out of the last pooling
HASH_PREFIX = INCEPTION_FILE.removesuffix(".pth").rpartition("-")[2]  # the first 8 hex digits of the file's SHA-256


class InceptionExtractor:
    """The 2048 features behind Inception's last pooling.

    Args:
        weights: torch-fidelity's file, or its tensors as safetensors.
        device: Where the network runs.

    Raises:
        CheckpointError: The file is missing, broken or holds something else.
    """

    name = "inception"
    num_features = 2048
    resize = "299 x 299, bilinear without antialiasing (TensorFlow 1), on 8-bit images"

    def __init__(self, weights: Path, device: torch.device) -> None:
        with torch.device("meta"):
            network = _Network()
        wanted = network.state_dict()
        found = read_weights(weights, wanted, remedy=HOW_TO_GET)
        tensors = fit_weights(weights, "torch-fidelity's Inception", found, wanted, HOW_TO_GET)
        network.load_state_dict(tensors, assign=True)
        self._network = network.to(device).eval().requires_grad_(False)
        self._device = device
        sha256 = hash_file(weights)
        if not sha256.startswith(HASH_PREFIX):
            log(f"{weights} is not the published {INCEPTION_FILE}: scores compare only with others by this same file")
        self.weights_sha256: str | None = sha256
        self.fingerprint = hash_json([self.name, VERSION, sha256, self.resize, LAYER])

    def __call__(self, images: Tensor) -> Tensor:
        """Return features [N, 2048] float32 on the CPU of images [N, 3, H, W] uint8."""
        return compute(lambda part: self._network(part)[0], images, self._device)


def find_inception_weights(*, download: bool) -> Path:
    """Return torch-fidelity's file in torch's cache on this machine, fetched before where that is asked for.

    Raises:
        CheckpointError: It is not there, cannot be fetched, or is not the published one.
    """
    path = Path(torch.hub.get_dir()) / "checkpoints" / INCEPTION_FILE
    if download and not path.is_file():
        _download(path)
    check_inception_file(path)
    if not (found := hash_file(path)).startswith(HASH_PREFIX):
        raise CheckpointError(f"{path} is broken: its SHA-256 is {found[:12]}...", "remove it, and " + HOW_TO_GET)
    return path


def _download(path: Path) -> None:
    log(f"fetching {INCEPTION_URL}")
    try:
        check_connection(INCEPTION_URL)
        path.parent.mkdir(parents=True, exist_ok=True)
        # Written under another name, checked, then renamed.
        torch.hub.download_url_to_file(INCEPTION_URL, str(path), hash_prefix=HASH_PREFIX, progress=False)
    except (OSError, RuntimeError) as error:  # RuntimeError: another hash
        raise CheckpointError(f"cannot fetch {INCEPTION_URL}: {error}", HOW_TO_GET) from error


class _Network(FeatureExtractorInceptionV3):  # type: ignore[misc]
    """torch-fidelity's network, without weights at first.

    Its constructor unpickles a file or downloads one: it gets a pickle of nothing, made here, and loads nothing.
    """

    def __init__(self) -> None:
        nothing = io.BytesIO()
        torch.save({}, nothing)
        nothing.seek(0)
        super().__init__("inception", [LAYER], feature_extractor_weights_path=nothing)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load weights, unless there are none: so calls the constructor."""
        return super().load_state_dict(state_dict, strict, assign) if state_dict else None
