"""Files: atomic writes, strict JSON, safetensors, the manifest of a checkpoint, safe text."""
