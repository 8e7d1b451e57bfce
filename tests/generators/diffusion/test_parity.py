"""Agreement with the published Medfusion code: every tensor of the golden files, from its own checkpoints.

Bounds are relative to the largest absolute value of each tensor.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from synthmed.data.datasets import AIROGS
from synthmed.data.pixels import to_uint8
from synthmed.formats.model_files import save_model
from synthmed.generators.diffusion.config import ScheduleConfig
from synthmed.generators.diffusion.estimate import predict_x_0
from synthmed.generators.diffusion.medfusion import import_checkpoint
from synthmed.generators.diffusion.networks.autoencoder import sample_latents, split_moments
from synthmed.generators.diffusion.pipeline import Pipeline, load_pipeline
from synthmed.generators.diffusion.samplers.spacing import even_timesteps
from synthmed.generators.diffusion.schedule import build_schedule
from synthmed.generators.diffusion.training.config import AutoencoderConfig
from synthmed.generators.diffusion.training.losses import kl_divergence, reconstruction_loss

GOLDEN = Path(__file__).resolve().parents[4] / "shared" / "golden" / "medfusion"
NAMES = ("tiny8", "tiny4", "tiny4_unet1")
GUIDANCE = {
    "ddim4": (1.0, "null"),
    "ddim7": (1.0, "null"),
    "ddim10": (1.0, "null"),
    "ddim10_cfg3": (3.0, "null"),
    "ddim10_contrast3": (3.0, "other"),
}
BOUND, LOSS_BOUND = 2e-5, 5e-5

pytestmark = pytest.mark.skipif(not GOLDEN.is_dir(), reason="the golden files are not here")

TENSORS = sorted(
    {
        *(f"{run}.{what}" for run in GUIDANCE for what in ("latent", "image")),
        *(f"vae.{what}" for what in ("moments", "decoded_mean", "reconstruction", "deep_supervision.0", "kl")),
        *("vae.rec_loss_no_perceptual", "negative.loss", "clamp.latent", "clamp.kl", "ddpm12.latent", "ddim10.uint8"),
        *("unet.cond", "unet.uncond", "unet.time_embedding", "timesteps150", "timesteps124"),
        *(f"schedule.{what}" for what in ("betas", "alphas_cumprod", "posterior_variance", "x_t")),
        *(f"schedule.posterior_mean_coef{number}" for number in (1, 2)),
    }
)
# What the golden files were computed from.
GIVEN = {"vae.image", "vae.noise", "unet.x_t", "unet.t", "unet.label", "schedule.x_0", "schedule.x_T", "clamp.moments"}
EXACT = ("schedule.", "timesteps")


@pytest.fixture(scope="module", params=NAMES)
def case(request, tmp_path_factory) -> tuple[Pipeline, dict[str, torch.Tensor]]:
    name = request.param
    golden = load_file(GOLDEN / f"{name}.safetensors") | load_file(GOLDEN / f"{name}_extra.safetensors")
    header, tensors = import_checkpoint(GOLDEN / f"{name}_pipeline.ckpt", AIROGS, size=64)
    path = tmp_path_factory.mktemp(name) / "model.safetensors"
    save_model(path, header, tensors)
    return load_pipeline(path), golden


def ours(pipeline: Pipeline, golden: dict[str, torch.Tensor], name: str) -> torch.Tensor:
    """Return what synthmed computes for one tensor of the golden files."""
    group, _, what = name.partition(".")
    if group.startswith("timesteps"):
        return torch.tensor(even_timesteps(pipeline.schedule, int(group.removeprefix("timesteps")))).flip(0)
    compute = {"schedule": of_schedule, "vae": of_autoencoder, "clamp": of_autoencoder, "negative": of_autoencoder}
    if group in compute:
        return compute[group](pipeline, golden, name)
    if group == "unet":
        return of_denoiser(pipeline, golden, what)
    if group == "ddpm12":
        return ancestral(pipeline, golden)
    scale, reference = GUIDANCE[group]
    noise = golden[f"{group}.noise"]
    sampled = pipeline.sample(
        golden["unet.label"],
        noise=list(noise),
        steps=len(noise) // 2,
        guidance_scale=scale,
        reference=reference,  # type: ignore[arg-type]
        decode=what != "latent",
    )
    return to_uint8(sampled) if what == "uint8" else sampled


def of_schedule(_pipeline, golden, name):
    schedule = build_schedule(ScheduleConfig())
    what = name.removeprefix("schedule.")
    if what == "x_t":
        return schedule.add_noise(golden["schedule.x_0"], golden["schedule.x_T"], golden["unet.t"])
    return getattr(schedule, what)


def of_denoiser(pipeline, golden, what):
    if what == "time_embedding":
        return pipeline.denoiser.time_embedder(golden["unet.t"])
    labels = golden["unet.label"] if what == "cond" else None
    return pipeline.denoise(golden["unet.x_t"], golden["unet.t"], labels)


def of_autoencoder(pipeline, golden, name):
    image, network = golden["vae.image"], pipeline.autoencoder
    moments = network.moments(image)
    outputs = network.decode_deep(sample_latents(moments, golden["vae.noise"]))
    count, values = len(image), image[0].numel()
    config = AutoencoderConfig(pixel_loss="mse", ssim_weight=1.0)

    def summed(output):
        """Return the loss in Medfusion's unit: summed over an image's values, averaged over images."""
        target = torch.nn.functional.interpolate(image, size=output.shape[2:], mode="nearest-exact")
        return reconstruction_loss(output, target, config)[0] * output[0].numel()

    computed = {
        "vae.moments": lambda: moments,
        "vae.decoded_mean": lambda: pipeline.decode(pipeline.moments(image)[0]),
        "vae.reconstruction": lambda: outputs[0],
        "vae.deep_supervision.0": lambda: outputs[1],
        "vae.kl": lambda: kl_divergence(*split_moments(moments)).sum()[None] / count,
        "vae.rec_loss_no_perceptual": lambda: sum(summed(output) for output in outputs)[None],
        "negative.loss": lambda: reconstruction_loss(-image, image, config)[0][None] * values,
        "clamp.latent": lambda: sample_latents(golden["clamp.moments"], golden["vae.noise"]),
        "clamp.kl": lambda: kl_divergence(*split_moments(golden["clamp.moments"])).sum()[None] / count,
    }
    return computed[name]()


def ancestral(pipeline, golden):
    """The ancestral sampler over t = 11 .. 0, written out: posterior mean, and its noise but at t = 0."""
    schedule, noise = pipeline.schedule, golden["ddpm12.noise"]
    x_t = noise[0]
    for number, t in enumerate(range(11, -1, -1)):
        eps = pipeline.denoise(x_t, torch.full((len(x_t),), t), golden["unet.label"])
        x_0 = predict_x_0(schedule, x_t, eps, t)
        x_t = schedule.posterior_mean_coef1[t] * x_0 + schedule.posterior_mean_coef2[t] * x_t
        if t:
            x_t = x_t + schedule.posterior_variance[t].sqrt() * noise[1 + number]
    return x_t


@pytest.fixture(scope="module")
def computed(case) -> dict[str, torch.Tensor]:
    pipeline, golden = case
    with torch.no_grad():
        return {name: ours(pipeline, golden, name) for name in TENSORS}


def relative_difference(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return ((found - wanted).abs().max() / wanted.abs().max()).item()


@pytest.mark.parametrize("name", TENSORS)
def test_tensor_agrees(case, computed, name):
    found, wanted = computed[name], case[1][name]
    assert found.shape == wanted.shape
    if name.startswith(EXACT):
        assert torch.equal(found, wanted)
        return
    if name.endswith("uint8"):
        # Truncation turns the last bit of a float, which differs between processors, into a whole grey level.
        levels = (found.int() - wanted.int()).abs()
        assert levels.max() <= 1
        assert levels.float().mean() < 1e-3
        return
    error = relative_difference(found, wanted)
    assert error <= (LOSS_BOUND if "loss" in name or name.endswith("kl") else BOUND), f"{name}: {error:.2e}"


def test_largest_relative_difference_of_a_file(case, computed, request):
    """State one figure a golden file: `pytest -rP -k largest_relative tests/test_parity.py` prints it."""
    floats = [name for name in TENSORS if not name.startswith(EXACT) and not name.endswith("uint8")]
    differences = {name: relative_difference(computed[name], case[1][name]) for name in floats}
    worst = max(differences, key=lambda name: differences[name])
    print(f"{request.node.callspec.params['case']}: {differences[worst]:.1e} in {worst}, of {len(floats)} tensors")
    assert 0 < differences[worst] <= LOSS_BOUND


def test_rounding_to_8_bits_is_the_published_one(case):
    _, golden = case
    assert torch.equal(to_uint8(golden["ddim10.image"]), golden["ddim10.uint8"])


def test_every_tensor_of_the_golden_files_is_compared(case):
    _, golden = case
    assert {name for name in golden if not name.endswith(".noise")} - GIVEN == set(TENSORS)
