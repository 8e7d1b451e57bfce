"""The Python interface: what `sample` depends on, guidance, and recorded noise."""

import dataclasses
from typing import Any

import pytest
import torch

from synthmed.data.labels import Classes
from synthmed.errors import UsageError
from synthmed.formats.model_files import save_model
from synthmed.generators.diffusion.config import ScheduleConfig, UnetConfig, VaeConfig
from synthmed.generators.diffusion.guidance import NULL_LABEL, away_labels
from synthmed.generators.diffusion.pipeline import load_pipeline
from synthmed.generators.diffusion.samplers import SAMPLERS
from synthmed.generators.diffusion.samplers.spacing import even_timesteps
from synthmed.generators.diffusion.settings import DiffusionSettings

BUILDS = ["unet2", "unet1"]
# Each sampler without fresh noise, and with it where it takes any.
USES = [(name, eta) for name, each in SAMPLERS.items() for eta in ((0.0, 1.0) if "eta" in each.accepts else (0.0,))]


@pytest.fixture
def pipeline(tiny_model_file):
    return load_pipeline(tiny_model_file)


@pytest.fixture
def make_pipeline(tmp_path, tiny_header, change_header, make_tensors):
    """A function that gives a pipeline of random weights for changes of `tiny_header`."""

    def make(**changes):
        header = change_header(tiny_header, **changes)
        save_model(tmp_path / "made.safetensors", header, make_tensors(header))
        return load_pipeline(tmp_path / "made.safetensors")

    return make


def with_unet(header, **changes):
    return dataclasses.replace(header.build.unet, **changes)


def close(a, b):
    return torch.allclose(a, b, atol=2e-5)


@pytest.mark.parametrize(("sampler", "eta"), USES)
def test_image_does_not_depend_on_the_batch(pipeline, sampler, eta):
    whole = pipeline.sample([0, 1, 1], seeds=[5, 6, 7], sampler=sampler, steps=4, eta=eta)
    alone = pipeline.sample([1], seeds=[6], sampler=sampler, steps=4, eta=eta)
    assert whole.shape == (3, 3, pipeline.header.size, pipeline.header.size)
    assert close(whole[1:2], alone)
    assert not close(whole[1], whole[2])


def test_eta_brings_fresh_noise(pipeline):
    runs = [pipeline.sample([0], seeds=[1], steps=4, eta=eta) for eta in (0.0, 1.0)]
    assert not close(*runs)


def test_recorded_noise_is_used_as_medfusion_draws_it(pipeline):
    """The start, then two draws a step, of which the second counts, and one in the last step."""
    shape = (2, *pipeline.latent_shape)
    noise = list(torch.randn(2 * 4, *shape, generator=torch.Generator().manual_seed(0)))
    first = pipeline.sample([0, 1], noise=noise, steps=4, decode=False)
    thrown_away = [noise[0], *(x * 0 if n % 2 == 0 else x for n, x in enumerate(noise[1:]))]
    assert torch.equal(first, pipeline.sample([0, 1], noise=thrown_away, steps=4, decode=False))
    changed = [*noise[:2], noise[2] + 1, *noise[3:]]
    assert not close(first, pipeline.sample([0, 1], noise=changed, steps=4, decode=False))


def test_guidance_extrapolates_from_the_reference(pipeline):
    x_t = torch.randn(2, *pipeline.latent_shape, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1])
    t = torch.full((2,), 300)
    cond, other = (pipeline.denoise(x_t, t, chosen) for chosen in (labels, 1 - labels))
    null = pipeline.denoise(x_t, t, None)
    assert close(null, pipeline.denoise(x_t, t, torch.full((2,), NULL_LABEL)))

    def guided(scale, reference):
        away = away_labels(labels, reference, pipeline.header.classes)
        settings = DiffusionSettings(guidance_scale=scale)
        return pipeline._denoiser(labels, away, settings, first=999, on_step=None)(x_t, 300).eps

    assert close(guided(3.0, "null"), null + 3 * (cond - null))
    assert close(guided(3.0, "other"), other + 3 * (cond - other))
    assert close(guided(1.0, "other"), cond)


def written_out(pipeline, labels, noise, steps, *, eta=1.0, scale=1.0):
    """Medfusion's loop (`DiffusionPipeline.denoise`, `forward`), step by step, for any kind of network."""
    network, schedule, unet = pipeline.denoiser, pipeline.schedule, pipeline.header.build.unet
    channels = pipeline.header.build.vae.latent_channels
    timesteps = even_timesteps(schedule, steps)
    x_t, self_cond = noise[0], None

    def run(t, with_labels):
        emb = network.time_embedder(torch.full((len(x_t),), t))
        emb = emb + network.cond_embedder(labels) if with_labels else emb
        second = torch.zeros_like(x_t) if self_cond is None else x_t
        return network.run(torch.cat([x_t, second], dim=1) if unet.self_conditioning else x_t, emb)[:, :channels]

    for number, t in enumerate(timesteps):
        predicted = run(t, True)
        if scale != 1:
            un = run(t, False)
            predicted = un + scale * (predicted - un)
        a, b = schedule.sqrt_recip_alphas_cumprod[t], schedule.sqrt_recipm1_alphas_cumprod[t]
        x_0 = predicted if unet.objective == "x_0" else a * x_t - b * predicted
        x_0 = x_0.clamp(-1, 1) if unet.clip_x_0 else x_0
        eps = (a * x_t - x_0) / b if unet.objective == "x_0" else predicted
        self_cond = x_0
        if number + 1 < steps:
            acp, acp_next = schedule.alphas_cumprod[t], schedule.alphas_cumprod[timesteps[number + 1]]
            sigma = eta * ((1 - acp / acp_next) * (1 - acp_next) / (1 - acp)).sqrt()
            x_t = x_0 * acp_next.sqrt() + (1 - acp_next - sigma**2).sqrt() * eps + sigma * noise[2 + 2 * number]
    return x_0


VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "x_0": {"objective": "x_0"},
    "x_0, clipped": {"objective": "x_0", "clip_x_0": True},
    "noise, clipped": {"clip_x_0": True},
    "variance": {"learned_variance": True},
    "self-conditioning": {"self_conditioning": True},
    "all": {"objective": "x_0", "clip_x_0": True, "learned_variance": True, "self_conditioning": True},
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("build", BUILDS)
def test_every_variant_samples_as_medfusions_loop(make_pipeline, tiny_header, build, variant):
    pipeline = make_pipeline(unet=with_unet(tiny_header, build=build, **VARIANTS[variant]))
    labels = torch.tensor([0, 1])
    noise = list(torch.randn(2 * 4, 2, *pipeline.latent_shape, generator=torch.Generator().manual_seed(0)))
    for scale in (1.0, 3.0):
        with torch.no_grad():
            wanted = written_out(pipeline, labels, noise, 4, scale=scale)
        found = pipeline.sample(labels, noise=noise, steps=4, guidance_scale=scale, decode=False)
        assert torch.allclose(found, wanted, rtol=1e-5, atol=1e-5 * wanted.abs().max().item())


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_self_conditioned_network_sees_zeros_first_and_its_input_twice_later(make_pipeline, tiny_header, sampler):
    pipeline = make_pipeline(unet=with_unet(tiny_header, self_conditioning=True))
    seen, run = [], pipeline.denoiser.run

    def watched(x, emb):
        seen.append(x)
        return run(x, emb)

    pipeline.denoiser.run = watched
    pipeline.sample([0], seeds=[1], sampler=sampler, steps=3, eta=0.0, guidance_scale=2.0)
    pairs = [x.chunk(2, dim=1) for x in seen]
    assert len(pairs) == 6  # two passes a step
    assert all(second.abs().max() == 0 for _, second in pairs[:2])
    assert all(torch.equal(first, second) for first, second in pairs[2:])


@pytest.mark.parametrize("build", BUILDS)
@pytest.mark.parametrize(("sampler", "eta"), USES)
def test_network_of_clean_latents_samples_as_its_twin_of_noise(make_pipeline, tiny_header, build, sampler, eta):
    """Gaussian data of a known mean: both best predictions are affine in x_t, so that they can replace the networks."""
    mean, std = 0.5, 0.3
    images = {}
    for objective in ("eps", "x_0", "v"):
        pipeline = make_pipeline(unet=with_unet(tiny_header, build=build, objective=objective))
        schedule = pipeline.schedule

        def best(x, t, labels=None, *, self_conditioned=False, schedule=schedule, objective=objective):
            alpha = schedule.sqrt_alphas_cumprod[t].view(-1, 1, 1, 1)
            sigma = schedule.sqrt_one_minus_alphas_cumprod[t].view(-1, 1, 1, 1)
            share = (x - alpha * mean) / (alpha**2 * std**2 + sigma**2)
            eps, x_0 = sigma * share, mean + alpha * std**2 * share
            return {"eps": eps, "x_0": x_0, "v": alpha * eps - sigma * x_0}[objective]

        pipeline.denoiser.forward = best
        images[objective] = pipeline.sample([0, 1], seeds=[1, 2], sampler=sampler, eta=eta, steps=20, decode=False)
        t = torch.tensor([0, 999])
        x_t = torch.randn(2, *pipeline.latent_shape, generator=torch.Generator().manual_seed(0))
        images[objective + " noise"] = pipeline.denoise(x_t, t, None)
    for objective in ("x_0", "v"):
        assert torch.allclose(images["eps"], images[objective], atol=2e-4)
        assert torch.allclose(images["eps noise"], images[f"{objective} noise"], atol=2e-5)


SIZES = [(64, 64), (96, 64), (200, 200), (512, 512)]


@pytest.mark.parametrize("build", BUILDS)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("channels", "classes"), [(3, 2), (1, 5), (3, 0)])
def test_images_of_any_size_channels_and_classes(make_pipeline, build, size, channels, classes):
    """200 pixels are 25 latents, which no stride of the denoiser divides."""
    widths: dict[str, Any] = {"widths": (8, 8, 16, 16), "norm_groups": 4}
    height, width = size
    pipeline = make_pipeline(
        size=height if height == width else size,
        classes=Classes(tuple(map(str, range(classes))) if classes else ("image",)),
        vae=VaeConfig(image_channels=channels, **widths),
        unet=UnetConfig(build=build, emb_channels=16, conditional=classes > 0, **widths),
    )
    assert pipeline.latent_shape == (4, height // 8, width // 8)
    images = torch.rand(1, channels, height, width, generator=torch.Generator().manual_seed(0)) * 2 - 1
    mean, log_variance = pipeline.moments(images)
    assert mean.shape == log_variance.shape == (1, *pipeline.latent_shape)
    assert pipeline.decode(mean).shape == images.shape
    label = max(classes - 1, 0)
    for sampler in SAMPLERS:
        sampled = pipeline.sample([label], seeds=[1], sampler=sampler, steps=2)
        assert sampled.shape == images.shape
        assert torch.isfinite(sampled).all()


def test_unconditional_model_is_not_guided(make_pipeline, tiny_header):
    """Without a label there is nothing to follow: the second pass would be the first one again."""
    unet = with_unet(tiny_header, conditional=False)
    pipeline = make_pipeline(unet=unet, classes=Classes(("image",)))
    passes, run = [], pipeline.denoiser.run

    def counted(x, emb):
        passes.append(1)
        return run(x, emb)

    pipeline.denoiser.run = counted
    runs = [pipeline.sample([label], seeds=[1], steps=2, guidance_scale=scale) for label, scale in [(0, 1), (-1, 7)]]
    assert torch.equal(*runs)
    assert len(passes) == 4


def test_steps_after_the_first_are_told_apart_by_their_timestep(pipeline):
    """Which pass is the first is read from the timestep: none may come twice."""
    for steps in (1, 2, 150, 1000):
        for sampler in SAMPLERS.values():
            assert len(set(sampler.spacing(pipeline.schedule, steps))) == steps


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_one_step_starts_from_noise(pipeline, sampler):
    """At T - 1, where the start is what the network was trained on; at 0 it would be taken for an image."""
    seen, forward = [], pipeline.denoiser.forward

    def watched(x, t, *arguments, **options):
        seen.append(t.tolist())
        return forward(x, t, *arguments, **options)

    pipeline.denoiser.forward = watched
    pipeline.sample([0, 1], seeds=[1, 2], sampler=sampler, steps=1)
    assert seen == [[999, 999]]


@pytest.mark.parametrize("scale", [1.0, 3.0])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_step_is_told_once(pipeline, sampler, scale):
    told = []
    images = pipeline.sample(
        [0, 1],
        seeds=[1, 2],
        sampler=sampler,
        steps=4,
        guidance_scale=scale,
        on_step=lambda done, total: told.append((done, total)),
    )
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]
    unwatched = pipeline.sample([0, 1], seeds=[1, 2], sampler=sampler, steps=4, guidance_scale=scale)
    assert torch.equal(images, unwatched)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_sampler_brings_its_own_steps_and_eta(pipeline, sampler):
    told, defaults = [], SAMPLERS[sampler].defaults
    usual = pipeline.sample([0], seeds=[1], sampler=sampler, on_step=lambda *step: told.append(step))
    assert len(told) == defaults["steps"]
    assert torch.equal(usual, pipeline.sample([0], seeds=[1], sampler=sampler, **defaults))


@pytest.mark.parametrize(
    ("labels", "options", "said"),
    [
        ([0, 5], {}, "labels are [0, 5] (the model has labels 0 to 1)"),
        ([-2, 0], {}, "labels are [-2, 0] (the model has labels 0 to 1)"),
        ([0, 2], {"guidance_scale": 3.0}, "the model has labels 0 to 1"),
        (torch.tensor([1, 2]), {}, "the model has labels 0 to 1"),
        ([0, 1], {"steps": 51}, "steps is 51 (the model has 50 timesteps)"),
        ([0, 1], {"sampler": "dpmpp-2m", "steps": 51}, "steps is 51 (the model has 50 timesteps)"),
        ([0, 1], {"steps": 0}, "steps is 0"),
        ([0, 1], {"sampler": "ddmi"}, "did you mean ddim?"),
        ([0, 1], {"eta": 1.5}, "eta is 1.5"),
        ([0, 1], {"sampler": "dpmpp-2m", "eta": 0.5}, "dpmpp-2m has no eta"),
        ([0, 1], {"guidance_scale": float("nan")}, "guidance_scale is nan"),
    ],
)
def test_what_the_model_does_not_have_is_a_usage_error(make_pipeline, labels, options, said):
    pipeline = make_pipeline(schedule=ScheduleConfig(num_timesteps=50))
    with pytest.raises(UsageError) as caught:
        pipeline.sample(labels, seeds=[1, 2], **{"steps": 2, **options})
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_guidance_against_the_other_class_needs_two(make_pipeline):
    pipeline = make_pipeline(classes=Classes(("a", "b", "c")))
    with pytest.raises(UsageError, match="needs 2 classes, not 3"):
        pipeline.sample([0], seeds=[1], steps=1, reference="other")


def test_labels_and_noise_must_fit(pipeline):
    with pytest.raises(UsageError, match="2 labels but noise for 1"):
        pipeline.sample([0, 1], seeds=[1])
    with pytest.raises(UsageError, match="either seeds or recorded noise"):
        pipeline.sample([0])


def test_latents_are_decoded_in_the_autoencoders_own_scale(pipeline):
    latents = pipeline.sample([0], seeds=[3], steps=3, decode=False)
    image = pipeline.sample([0], seeds=[3], steps=3)
    assert torch.equal(image, pipeline.decode(latents / pipeline.header.build.latent_scale))


def test_moments_have_the_shape_of_latents(pipeline):
    size = pipeline.header.size
    mean, log_variance = pipeline.moments(torch.zeros(2, 3, size, size))
    assert mean.shape == log_variance.shape == (2, *pipeline.latent_shape)
