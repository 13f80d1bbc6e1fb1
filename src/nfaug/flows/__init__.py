"""Normalizing flows between images and latents of the same shape."""
