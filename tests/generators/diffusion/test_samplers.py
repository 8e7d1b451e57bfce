"""Samplers against analytic denoisers: for Gaussian data the best noise estimate is known in closed form.

What holds for every sampler is asked of all in the table, a new one included.
"""

import itertools
import math

import pytest
import torch

from synthmed.generators.diffusion.config import ScheduleConfig
from synthmed.generators.diffusion.estimate import complete_estimate, predict_x_0
from synthmed.generators.diffusion.samplers import SAMPLERS
from synthmed.generators.diffusion.samplers.ddim import ddim
from synthmed.generators.diffusion.samplers.sampler import Estimate
from synthmed.generators.diffusion.samplers.spacing import even_timesteps, log_snr_timesteps
from synthmed.generators.diffusion.schedule import build_schedule
from synthmed.generators.diffusion.settings import DiffusionSettings

MEAN, STD = 0.7, 0.4
SCHEDULE = build_schedule(ScheduleConfig())
# Each sampler without fresh noise, and with it where it takes any.
USES = [(name, eta) for name, each in SAMPLERS.items() for eta in ((0.0, 1.0) if "eta" in each.accepts else (0.0,))]


def expected_eps(x_t: torch.Tensor, t: int) -> torch.Tensor:
    """Return the expected noise given x_t when every value of x_0 is N(MEAN, STD^2)."""
    alpha, sigma = SCHEDULE.sqrt_alphas_cumprod[t], SCHEDULE.sqrt_one_minus_alphas_cumprod[t]
    return sigma * (x_t - alpha * MEAN) / (alpha**2 * STD**2 + sigma**2)


def expected_x_0(x_t: torch.Tensor, t: int) -> torch.Tensor:
    """Return the expected value of x_0 given x_t: the conditional mean of two jointly Gaussian variables."""
    alpha, sigma = SCHEDULE.sqrt_alphas_cumprod[t], SCHEDULE.sqrt_one_minus_alphas_cumprod[t]
    return MEAN + alpha * STD**2 * (x_t - alpha * MEAN) / (alpha**2 * STD**2 + sigma**2)


def gaussian_denoiser(x_t: torch.Tensor, t: int) -> Estimate:
    return complete_estimate(SCHEDULE, x_t, expected_eps(x_t, t), t)


def gaussian_x_0_denoiser(x_t: torch.Tensor, t: int) -> Estimate:
    return complete_estimate(SCHEDULE, x_t, expected_x_0(x_t, t), t, objective="x_0")


def start(count: int = 20_000, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, 1, 1, 1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def refuse_noise(_step: int) -> torch.Tensor:
    raise AssertionError("eta is 0")


def sample(name: str, steps: int, eta: float = 0.0, denoiser=gaussian_denoiser, chosen=slice(None)) -> torch.Tensor:
    """Return what a sampler makes of `start()`, or of some of it."""
    generator = torch.Generator().manual_seed(1)

    def noise(_step: int) -> torch.Tensor:
        return torch.randn(start().shape, generator=generator, dtype=torch.float64)[chosen]

    sampler = SAMPLERS[name]
    options = {"eta": eta} if "eta" in sampler.accepts else {}
    timesteps = sampler.spacing(SCHEDULE, steps)
    return sampler.run(denoiser, start()[chosen], SCHEDULE, timesteps, noise if eta else refuse_noise, **options)


@pytest.mark.parametrize(("name", "eta"), USES)
def test_sampler_reaches_the_data_distribution(name, eta):
    """In its usual number of steps; with all the fresh noise there is, in as many as there are timesteps."""
    x_0 = sample(name, 1000 if eta else SAMPLERS[name].defaults["steps"], eta)
    assert x_0.mean().item() == pytest.approx(MEAN, abs=0.02)
    assert x_0.std().item() == pytest.approx(STD, rel=0.05)


@pytest.mark.parametrize(("name", "eta"), USES)
def test_network_of_clean_latents_samples_as_its_twin_of_noise(name, eta):
    of_noise, of_x_0 = (sample(name, 20, eta, denoiser) for denoiser in (gaussian_denoiser, gaussian_x_0_denoiser))
    # The schedule's constants are rounded to single precision, and at t = 999 one of them is 116.
    assert (of_noise - of_x_0).abs().max() < 1e-4


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("num_timesteps", [10, 1000])
def test_sampler_starts_from_noise_and_falls_to_the_last_timestep(name, num_timesteps):
    schedule = build_schedule(ScheduleConfig(num_timesteps=num_timesteps))
    for steps in (1, 2, 7, num_timesteps):
        timesteps = SAMPLERS[name].spacing(schedule, steps)
        assert len(timesteps) == steps
        assert timesteps[0] == num_timesteps - 1
        assert steps == 1 or timesteps[-1] == 0
        assert all(high > low for high, low in itertools.pairwise(timesteps))


@pytest.mark.parametrize(("name", "eta"), USES)
def test_one_step_gives_the_best_estimate_from_noise(name, eta):
    """There is nothing in pure noise: the data's mean, and hardly anything else."""
    x_0 = sample(name, 1, eta)
    assert torch.allclose(x_0, gaussian_denoiser(start(), 999).x_0)
    assert x_0.mean().item() == pytest.approx(MEAN, abs=0.01)
    assert x_0.std().item() < 0.01 * STD


@pytest.mark.parametrize(("name", "eta"), USES)
def test_same_noise_gives_the_same_images(name, eta):
    assert torch.equal(sample(name, 5, eta), sample(name, 5, eta))


@pytest.mark.parametrize(("name", "eta"), USES)
def test_images_of_a_batch_do_not_influence_each_other(name, eta):
    whole, single = sample(name, 10, eta), sample(name, 10, eta, chosen=slice(3, 4))
    assert torch.equal(whole[3:4], single)
    assert math.isfinite(whole.sum().item())


@pytest.mark.parametrize("name", SAMPLERS)
def test_settings_that_a_sampler_brings_are_ones_that_it_can_follow(name):
    sampler = SAMPLERS[name]
    assert (sampler.name, bool(sampler.title)) == (name, True)
    settings = DiffusionSettings(guidance_scale=2.0).changed({"sampler": name})
    assert settings == DiffusionSettings(name, sampler.defaults["steps"], sampler.defaults["eta"], 2.0)
    assert sampler.accepts <= {"eta"}
    assert settings.passes == 2 * settings.steps * sampler.passes_per_step


def test_noise_latents_and_v_say_the_same_of_x_t():
    """v = alpha eps - sigma x_0, of which both follow: at every timestep, first and last included."""
    t = torch.arange(0, 1000, 9)
    x_0, eps = start(len(t)), start(len(t), seed=5)
    x_t, v = SCHEDULE.add_noise(x_0, eps, t), SCHEDULE.velocity(x_0, eps, t)
    acp = SCHEDULE.alphas_cumprod[t].view(-1, 1, 1, 1)
    alpha, sigma = acp.sqrt(), (1 - acp).sqrt()
    assert torch.allclose(v, alpha * eps - sigma * x_0, rtol=1e-4, atol=1e-5)
    found = complete_estimate(SCHEDULE, x_t, v, t, objective="v")
    assert torch.allclose(found.x_0, x_0, atol=1e-5) and torch.allclose(found.eps, eps, atol=2e-4)


@pytest.mark.parametrize("objective", ["eps", "x_0", "v"])
def test_clipping_leaves_predicted_noise_alone_and_follows_from_clipped_latents(objective):
    """As the published code: `estimate_x_0` clips; noise is what was predicted, or what the clipped latents leave."""
    x_t, predicted = 3 * start(100), 3 * start(100, seed=5)
    t = torch.arange(0, 1000, 10)
    x_0, eps = complete_estimate(SCHEDULE, x_t, predicted, t, objective=objective, clip_x_0=True)
    acp = SCHEDULE.alphas_cumprod[t].view(-1, 1, 1, 1).double()
    unclipped = {
        "eps": (x_t - (1 - acp).sqrt() * predicted) / acp.sqrt(),
        "x_0": predicted,
        "v": acp.sqrt() * x_t - (1 - acp).sqrt() * predicted,
    }[objective]
    assert unclipped.abs().max() > 1
    assert torch.allclose(x_0, unclipped.clamp(-1, 1), atol=1e-3)
    left = predicted if objective == "eps" else (x_t - acp.sqrt() * x_0) / (1 - acp).sqrt()
    assert torch.allclose(eps, left, rtol=1e-4, atol=1e-4)


def test_one_timestep_and_a_batch_of_them_give_the_same_estimate():
    x_t, predicted = start(8), start(8, seed=3)
    for objective in ("eps", "x_0", "v"):
        single = complete_estimate(SCHEDULE, x_t, predicted, 700, objective=objective)
        batch = complete_estimate(SCHEDULE, x_t, predicted, torch.full((8,), 700), objective=objective)
        assert all(torch.allclose(a, b, rtol=1e-6) for a, b in zip(single, batch, strict=True))


def exact_x_0() -> torch.Tensor:
    """Return where the probability-flow ODE takes the start: quantiles of N(0, 1) go to quantiles of the data."""
    alpha, sigma = SCHEDULE.sqrt_alphas_cumprod[-1].double(), SCHEDULE.sqrt_one_minus_alphas_cumprod[-1].double()
    spread = (alpha**2 * STD**2 + sigma**2).sqrt()
    return MEAN + STD * (start() - alpha * MEAN) / spread


@pytest.mark.parametrize("steps", [10, 15, 20])
def test_second_order_solver_is_closer_to_the_exact_solution_than_ddim(steps):
    errors = {name: (sample(name, steps) - exact_x_0()).abs().mean().item() for name in ("ddim", "dpmpp-2m")}
    assert errors["dpmpp-2m"] < 0.1 * errors["ddim"]


@pytest.mark.parametrize("name", SAMPLERS)
def test_deterministic_samplers_converge_to_the_exact_solution(name):
    # The last step goes from t = 0 to x_0 in one, which leaves a floor of about the noise at t = 0.
    assert (sample(name, 500) - exact_x_0()).abs().mean().item() < 0.01


def test_full_ddim_with_eta_one_is_the_ancestral_sampler():
    """At eta 1 and all timesteps, DDIM's step is the posterior mean plus the posterior's noise (Ho et al., eq. 7)."""
    t = 400
    x_t = start(64)
    eps = expected_eps(x_t, t)
    noise = start(64, seed=2)

    def denoise(x: torch.Tensor, time: int) -> Estimate:
        return complete_estimate(SCHEDULE, x, eps if time == t else x * 0, time)

    step = ddim(denoise, x_t, SCHEDULE, [t, t - 1], lambda _: noise, 1.0)
    # The second step of `ddim` divides by sqrt(acp) and subtracts nothing; undo it.
    stepped = step * SCHEDULE.sqrt_alphas_cumprod[t - 1]
    x_0 = predict_x_0(SCHEDULE, x_t, eps, t)
    mean = SCHEDULE.posterior_mean_coef1[t] * x_0 + SCHEDULE.posterior_mean_coef2[t] * x_t
    expected = mean + SCHEDULE.posterior_variance[t].sqrt() * noise
    assert torch.allclose(stepped, expected, rtol=1e-4, atol=1e-5)


def test_timesteps_are_truncated_not_rounded():
    assert list(reversed(even_timesteps(SCHEDULE, 150)))[:6] == [0, 6, 13, 20, 26, 33]
    assert even_timesteps(SCHEDULE, 20)[0] == 999
    assert even_timesteps(SCHEDULE, 1) == [999]


@pytest.mark.parametrize("steps", [1, 2, 20, 150, 999, 1000])
def test_log_snr_timesteps_are_as_many_as_asked_for_and_fall(steps):
    timesteps = log_snr_timesteps(SCHEDULE, steps)
    assert len(timesteps) == steps
    assert all(high > low for high, low in itertools.pairwise(timesteps))
    assert timesteps[0] == 999
    assert steps == 1 or timesteps[-1] == 0


def test_log_snr_timesteps_are_evenly_spaced_where_the_schedule_allows():
    log_snr = (SCHEDULE.sqrt_alphas_cumprod / SCHEDULE.sqrt_one_minus_alphas_cumprod).log()
    gaps = log_snr[log_snr_timesteps(SCHEDULE, 12)].diff()
    assert gaps.min() > 0.7 * gaps.max()


@pytest.mark.parametrize("name", SAMPLERS)
def test_noise_is_not_asked_for_without_eta(name):
    assert sample(name, 5, eta=0.0).shape == start().shape  # `refuse_noise` was not called
