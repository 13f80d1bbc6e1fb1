"""A training run: context, loop, snapshots, signals and processes."""
