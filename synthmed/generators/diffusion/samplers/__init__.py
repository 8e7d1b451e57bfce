"""Samplers: plain functions from noise to latents."""
