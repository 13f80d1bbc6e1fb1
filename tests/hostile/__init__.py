"""Attacks on the package: numbered cases of hostile input, for `attacks.py`.

An attack is a module with `prepare(folder)`, which makes what its cases share, and
`case(folder, number)`, which makes and reads one input, returns its kind and the outcome, and
raises if something is wrong. The seed of a case is its number.
"""
