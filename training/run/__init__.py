"""A training run: its context, loop, state and saved snapshots."""
