"""The verbs of the `nfaug` command, a module each.

A module has `parser() -> ArgumentParser` and `run(arguments) -> dict`: the result, printed as lines
or, with --json, as JSON. Nothing here is imported before its verb is called.
"""
