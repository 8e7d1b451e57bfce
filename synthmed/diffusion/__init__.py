"""The diffusion process: schedule, samplers, and the pipeline that joins them with the networks."""
