"""Training of flows: settings, trainer, metrics and pictures."""

from .config import TrainConfig
from .context import TrainResult
from .loop import Interrupted
from .optimizer import TrainingDiverged
from .run import RunStopped
from .trainer import train

__all__ = [
    "Interrupted",
    "RunStopped",
    "TrainConfig",
    "TrainResult",
    "TrainingDiverged",
    "train",
]
