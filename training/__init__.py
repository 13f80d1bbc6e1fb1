"""Training of flows: settings, trainer, metrics and pictures."""

from nfaug.data.open import open_dataset, wrap_dataset

from .compare import CompareSettings, Comparison, compare
from .config import TrainConfig
from .run.context import TrainResult
from .run.loop import Interrupted, RunStopped
from .run.optimizer import TrainingDiverged
from .trainer import train

__all__ = [
    "CompareSettings",
    "Comparison",
    "Interrupted",
    "RunStopped",
    "TrainConfig",
    "TrainResult",
    "TrainingDiverged",
    "compare",
    "open_dataset",
    "train",
    "wrap_dataset",
]
