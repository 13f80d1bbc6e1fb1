"""Benchmarks and studies. Run them from the repository root; none of this is installed."""
