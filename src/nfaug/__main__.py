"""`python -m nfaug` is the `nfaug` command."""

from .cli import main

if __name__ == "__main__":
    raise SystemExit(main())
