"""Banks: augmented variants of a dataset, computed once, stored on disk and read in training."""

from .dataset import BankDataset
from .make import make_bank
from .reader import Bank

__all__ = ["Bank", "BankDataset", "make_bank"]
