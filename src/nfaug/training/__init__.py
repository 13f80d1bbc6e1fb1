"""Training of flows: settings, trainer, metrics and pictures."""

from typing import TYPE_CHECKING

from nfaug.io.lazy import lazily

if TYPE_CHECKING:
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

_MODULES = {
    "TrainConfig": "config",
    "TrainResult": "context",
    "Interrupted": "loop",
    "TrainingDiverged": "optimizer",
    "RunStopped": "run",
    "train": "trainer",
}
__getattr__ = lazily(__name__, _MODULES)
