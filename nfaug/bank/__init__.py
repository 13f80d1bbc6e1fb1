"""Banks: augmented variants of a data set, computed once, stored on disk and read in training."""

from .dataset import BankDataset
from .export import export_bank
from .make import make_bank
from .reader import Bank

__all__ = ["Bank", "BankDataset", "export_bank", "make_bank"]
