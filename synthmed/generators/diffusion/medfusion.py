"""Checkpoints of the published Medfusion code: what they hold, in synthmed's terms, and the way back.

Our parameter names are Medfusion's own, so that tensors go over as they are.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from synthmed.data.datasets import DataSetInfo
from synthmed.data.labels import Classes
from synthmed.errors import CheckpointError, RecipeError, UsageError
from synthmed.files.content import hash_file
from synthmed.formats.headers import GENERATOR
from synthmed.formats.model_files import AUTOENCODER_PREFIX, DENOISER_PREFIX, DETAIL_PREFIX, is_finite, is_model_file
from synthmed.formats.torch_files import CheckpointFile, StoredTensor
from synthmed.formats.weight_files import find_tensors
from synthmed.generators.diffusion.config import DiffusionBuild, VaeConfig
from synthmed.generators.diffusion.header import DiffusionHeader
from synthmed.generators.diffusion.medfusion_build import (
    num_classes,
    plain_dict,
    schedule_config,
    unet_config,
    vae_config,
)
from synthmed.generators.diffusion.settings import DiffusionSettings
from synthmed.runtime.progress import log, printable

if TYPE_CHECKING:
    from torch import Tensor

# What only training needs: perceptual network, adversary, losses, constants, heads of deep supervision of a denoiser.
DROPPED = re.compile(
    r"(.*\.)?(perceiver|discriminator|loss_fct|loss_fn|ssim_fct|logvar_ver)\."
    r"|(.*\.)?logvar$|noise_scheduler\.|(noise_estimator|ema_model\.averaged_model)\.outc_ver\."
)
# Where a file keeps which network, the first that fits; an average of the denoiser's weights is what Medfusion samples
# with. All other tensors are taken for those of an autoencoder's own file.
PLACES = (
    ("ema_model.averaged_model.", "average"),
    (DENOISER_PREFIX, "denoiser"),
    (AUTOENCODER_PREFIX + "vqvae.", "autoencoder"),
    (AUTOENCODER_PREFIX, "autoencoder"),
    ("vqvae.", "autoencoder"),
    ("", "autoencoder"),
)
PUBLISHED_SAMPLER = DiffusionSettings(sampler="ddim", steps=150, eta=1.0, guidance_scale=1.0)
UNCONDITIONAL_CLASS = "image"
Parts = dict[str, dict[str, StoredTensor]]


class ImportedTensors(Mapping[str, "Tensor"]):
    """The tensors of a model file by name, each read from the checkpoint when it is asked for, in single precision."""

    def __init__(self, places: Mapping[str, tuple[CheckpointFile, StoredTensor]]) -> None:
        self._places = places

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, name: str) -> Tensor:
        """Return one tensor.

        Raises:
            CheckpointError: It is not finite.
        """
        file, stored = self._places[name]
        values = file.read(stored).float()
        if not is_finite(values):
            raise CheckpointError(f"{file.path} has weights that are not finite: {name}")
        return values


def import_checkpoint(
    path: Path, info: DataSetInfo, *, size: int | tuple[int, int] | None = None, vae: Path | None = None
) -> tuple[DiffusionHeader, ImportedTensors]:
    """Read a Lightning checkpoint of a Medfusion pipeline, VAE or VAEGAN without running anything in it.

    Args:
        path: The `.ckpt` file, or its state dict alone, in any format that `torch_files` reads.
        info: Data set that it was trained on: gives class names, their order and the image size.
        size: Side of the images, or height and width, if they have not the published one.
        vae: The autoencoder's own file, for a pipeline's file without one.

    Returns:
        The configuration, and the tensors under the names of a model file, whose values are read and checked when they
        are asked for.

    Raises:
        CheckpointError: Not such a checkpoint, broken, of a build that is not supported, or not of this data set.
        UsageError: The model cannot have this size.
    """
    if is_model_file(path):
        raise CheckpointError(f"{path} is a model file of synthmed already", "synthmed checkpoints add")
    file = CheckpointFile(path)
    parts, parameters = _parts(file), plain_dict(_get(file.root, "hyper_parameters"))
    if not parameters:
        log(f"note: {path} does not say how its model was made: it is taken for one with the published settings")
    denoiser = parts.get("average") or parts.get("denoiser", {})
    source, first_stage, vae_parameters = file, parts.get("autoencoder", {}), {} if denoiser else parameters
    if denoiser and not first_stage:
        if vae is None:
            raise CheckpointError(f"{path} holds no autoencoder", "give its file with --vae")
        source = CheckpointFile(vae)
        first_stage = _parts(source).get("autoencoder", {})
        vae_parameters = plain_dict(_get(source.root, "hyper_parameters"))
    if any("quantizer" in name for name in first_stage):
        raise CheckpointError(f"{source.path} holds a VQ autoencoder", "only Medfusion's VAE and VAEGAN are supported")
    if not denoiser and "out_enc.0.conv.weight" not in first_stage:
        raise CheckpointError(f"{path} holds neither a Medfusion pipeline nor a Medfusion autoencoder")
    classes = _classes(denoiser, info, path)
    try:
        build = DiffusionBuild(vae_config(first_stage, vae_parameters, source.path))
        _check_size(size, build.vae.downsampling)
        if denoiser:
            unet = unet_config(denoiser, parameters, build.vae.latent_channels, path)
            build = replace(build, unet=unet, schedule=schedule_config(parameters, path))
        header = DiffusionHeader(
            build=build,
            kind=GENERATOR if denoiser else "autoencoder",
            dataset=info.name,
            classes=classes,
            size=size or info.size,
            sampling=PUBLISHED_SAMPLER if denoiser else None,
            training=_training(file, parameters),
        )
    except (LookupError, TypeError, ValueError, ArithmeticError) as error:
        raise CheckpointError(f"{path} is not built as Medfusion: {type(error).__name__} {str(error)[:200]}") from error
    except RecipeError as error:
        raise CheckpointError(f"{path} has an architecture that cannot be: {error}") from error
    places = {AUTOENCODER_PREFIX + name: (source, tensor) for name, tensor in first_stage.items()}
    places |= {DENOISER_PREFIX + name: (file, tensor) for name, tensor in denoiser.items()}
    _check_places(header, places, path)
    return header, ImportedTensors(places)


def export_state_dict(header: DiffusionHeader, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a model's tensors so that Medfusion's code, which knows no latent scale, computes the same.

    The scale moves into the autoencoder: its last layer's mean is multiplied and its log-variance shifted, its first
    decoding layer divides again. A detail stage, which that code does not have either, stays behind.

    Raises:
        CheckpointError: It predicts v, or its first stage is not Medfusion's, or has no place for the scale.
    """
    if not isinstance(header.build.vae, VaeConfig):
        raise CheckpointError(
            "the model's first stage is Stable Diffusion's autoencoder, for which Medfusion has no names",
            "the model file holds it under diffusers' own names, behind latent_embedder.",
        )
    if header.build.unet is not None and header.build.unet.objective == "v":
        raise CheckpointError(
            "the model predicts v, which Medfusion does not know", "train one with --set unet.objective=eps"
        )
    if header.build.detail is not None:
        log("note: the detail stage is left out: Medfusion has none")
    exported = {name: tensor for name, tensor in tensors.items() if not name.startswith(DETAIL_PREFIX)}
    scale, channels = header.build.latent_scale, header.build.vae.latent_channels
    if scale == 1:
        return exported
    last, first = f"{AUTOENCODER_PREFIX}out_enc.1.conv.", f"{AUTOENCODER_PREFIX}inc_dec.block_seq.0."
    encoder = [f"{last}weight", f"{last}bias"]
    decoder = [f"{first}basic_block.conv.weight", f"{first}conv_res.weight"]
    if decoder[1] not in exported:
        raise CheckpointError("the decoder begins with an identity, which has no place for the latent scale")
    for name in (*encoder, *decoder):
        exported[name] = exported[name].clone()
    for name in encoder:
        exported[name][:channels] *= scale
    exported[encoder[1]][channels:] += 2 * math.log(scale)
    for name in decoder:
        exported[name] /= scale
    return exported


def _get(root: Any, key: str) -> Any:
    return root.get(key) if isinstance(root, dict) else None


def _parts(file: CheckpointFile) -> Parts:
    """Return the tensors that a model file keeps, by network."""
    parts: Parts = {}
    for name, tensor in find_tensors(file, usual="state_dict").items():
        if not re.fullmatch(r"[\w.]+", name):
            raise CheckpointError(f"{file.path}: a name in its state_dict is none of a tensor: {name!r}")
        if not DROPPED.match(name):
            prefix, part = next(place for place in PLACES if name.startswith(place[0]))
            parts.setdefault(part, {})[name.removeprefix(prefix)] = tensor
    return parts


def _classes(denoiser: Mapping[str, StoredTensor], info: DataSetInfo, path: Path) -> Classes:
    """Return the classes of the data set; an unconditional model has one of its own."""
    count = num_classes(denoiser)
    if denoiser and not count:
        return Classes((UNCONDITIONAL_CLASS,))
    if denoiser and count != len(info.classes):
        raise CheckpointError(
            f"{path} has {count} classes, {info.name} has {len(info.classes)}: {', '.join(info.classes)}",
            "choose another --dataset, or name the classes with --classes",
        )
    return info.classes.with_positive()


def _check_size(size: int | tuple[int, int] | None, downsampling: int) -> None:
    """Raise unless the autoencoder gives back images of the size that was asked for."""
    if size is not None and any(side % downsampling for side in ([size] if isinstance(size, int) else size)):
        raise UsageError(f"--size {size}: sides must be multiples of {downsampling}, as the autoencoder down-samples")


def _training(file: CheckpointFile, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is known of the training, for the model file's header."""
    steps = _get(file.root, "global_step")
    facts: dict[str, Any] = {
        "imported_from": printable(file.path.name),
        "imported_sha256": hash_file(file.path),
        "steps": steps if isinstance(steps, int) and 0 <= steps < 1 << 62 else -1,
        "finished": True,
    }
    if parameters.get("do_input_centering"):
        # Medfusion trains on 2 z - 1 then, and decodes its samples without the way back: so they are computed here.
        log(f"note: {file.path} was trained with do_input_centering, which Medfusion's sampling does not undo")
        facts["input_centering"] = True
    return facts


def _check_places(
    header: DiffusionHeader, places: Mapping[str, tuple[CheckpointFile, StoredTensor]], path: Path
) -> None:
    """Raise unless the tensors are those of the networks, of floats and wholly in the files."""
    from synthmed.generators.diffusion.networks.build import check_shapes

    for name, (file, tensor) in places.items():
        file.check(tensor)
        if not tensor.storage.floating:
            raise CheckpointError(f"{file.path} has weights that are not floats: {name} ({tensor.storage.kind[:100]})")
    check_shapes(header, {name: tensor.shape for name, (_, tensor) in places.items()}, path)
    # Many tensors may share few bytes: what is written must not outgrow what was read.
    values = sum(math.prod(tensor.shape) for _, tensor in places.values())
    room = sum({file.path: file.size for file, _ in places.values()}.values())
    if 2 * values > room:
        raise CheckpointError(f"{path} declares {values} weights in {room} bytes")
