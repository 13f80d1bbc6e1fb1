"""A user's script: a type checker must object to the marked lines and to no other."""

from pathlib import Path

import nfaug
from nfaug.hub import pull
from nfaug.training import TrainConfig, open_dataset

nfa = nfaug.NFAugment(nfaug.load("builtin:rgb32"), p=0.5, mix="pair")
unknown = nfaug.NFAugment(nfaug.load("builtin:rgb32"), prob=0.5)  # error
names: list[str] = open_dataset("digits", split="test").classes
epochs: str = TrainConfig().epochs  # error
folder: Path = pull("someone/flow")
number: int = pull("someone/flow")  # error
