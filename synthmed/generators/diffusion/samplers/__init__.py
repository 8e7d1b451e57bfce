"""The samplers that there are: one file each, and a line here."""

from synthmed.generators.diffusion.samplers import ddim, dpmpp_2m
from synthmed.generators.diffusion.samplers.sampler import Sampler

SAMPLERS: dict[str, Sampler] = {sampler.name: sampler for sampler in (ddim.SAMPLER, dpmpp_2m.SAMPLER)}
