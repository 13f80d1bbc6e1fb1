"""Training of flows: configuration, data, trainer, baselines, metrics and plots."""

from ..data.open import open_dataset, wrap_dataset
from .config import TrainConfig
from .trainer import Interrupted, RunStopped, TrainingDiverged, TrainResult, train

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
