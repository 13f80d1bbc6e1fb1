"""Training of flows: settings, trainer, metrics and pictures."""

from nfaug.data.open import open_dataset, wrap_dataset

from .config import TrainConfig
from .context import TrainResult
from .loop import Interrupted, RunStopped
from .optimizer import TrainingDiverged
from .trainer import train

__all__ = [
    "Interrupted",
    "RunStopped",
    "TrainConfig",
    "TrainResult",
    "TrainingDiverged",
    "open_dataset",
    "train",
    "wrap_dataset",
]
