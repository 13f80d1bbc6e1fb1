"""What a comparison says: figures, advice, a table, pictures and a script."""

from .comparison import Comparison

__all__ = ["Comparison"]
