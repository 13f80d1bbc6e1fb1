"""`nfaug train` for `torchrun -m nfaug.training` and `accelerate launch -m nfaug.training`."""

import sys

from nfaug.cli import main

if __name__ == "__main__":
    raise SystemExit(main(["train", *sys.argv[1:]]))
