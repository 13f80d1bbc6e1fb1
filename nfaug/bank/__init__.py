"""Banks: augmented variants of a data set, computed once, stored on disk and read in training."""

from .dataset import BankDataset
from .export import export_bank
from .format import bank_bytes
from .make import make_bank
from .reader import Bank
from .shards import merge_bank

__all__ = ["Bank", "BankDataset", "bank_bytes", "export_bank", "make_bank", "merge_bank"]
