"""Files and bytes: atomic writes, strict JSON, tensor files. It knows no flow."""
