"""The commands of `nfaug`, one module each.

A module has `parser() -> ArgumentParser` and `run(arguments) -> dict`. The result is printed as
lines or, with --json, as JSON. A module is imported only when its command runs.
"""
