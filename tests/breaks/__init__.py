"""A test for each break that was found: one leaves only when its input can no longer arrive.

A package, since modules of other folders have the same names.
"""
