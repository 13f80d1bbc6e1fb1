"""Bytes and files: atomic writes, strict JSON, safetensors, the lock, files of the Hub, text."""
