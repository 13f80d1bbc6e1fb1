"""What a GPU does with the package, in parts: `python -m benchmarks.gpu`."""
