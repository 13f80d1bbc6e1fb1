"""Checkpoints: directories of safetensors and JSON."""
