"""The diffusion family: Medfusion, class-conditional latent diffusion."""
