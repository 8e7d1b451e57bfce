"""The stages of a diffusion model."""
