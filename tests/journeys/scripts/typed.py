"""A user's script: a type checker must object to the marked lines and to no other."""

from pathlib import Path

import torch

import nfaug
from nfaug import open_dataset
from nfaug.hub import pull
from nfaug.training import TrainConfig

nfa = nfaug.NFAugment(nfaug.load("builtin:rgb32"), p=0.5, mix="pair")
unknown = nfaug.NFAugment(nfaug.load("builtin:rgb32"), prob=0.5)  # error
nfa.p = 0.3
nfa.config = nfaug.MixConfig(mix="regions")
nfa.config = nfaug.MixConfig(mix="region")  # error
unknown = nfaug.NFAugment(nfaug.load("builtin:rgb32"), mix="region")  # error
images, labels = nfa(torch.zeros(2, 3, 32, 32), ["cat", "dog"])
first: str = labels[0]
draws = nfa.draw(labels)
images, labels = nfa.replay(images, labels, draws)
sample = nfa.replay({"image": images}, draws)
images = sample["image"]
number_of: int = labels[0]  # error
names: list[str] = open_dataset("digits", split="test").classes
epochs: str = TrainConfig().epochs  # error
folder: Path = pull("someone/flow")
number: int = pull("someone/flow")  # error
