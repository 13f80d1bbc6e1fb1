"""nfaug in the harnesses of other libraries: one module a library, see benchmarks/manners.py."""
