"""What a fit takes besides a flow and images."""

from __future__ import annotations

from dataclasses import dataclass

from ..classes.fixed_point.config import FixedPointConfig
from ..classes.priors import PriorConfig, choose_prior
from ..io.numbers import check_seed, check_whole


@dataclass(frozen=True)
class PCAConfig:
    """The axes and the memory of each class.

    Args:
        rank: Axes per class; fewer if the class has fewer images.
        per_class: Encode at most this many images of each class.
        memory: Keep a memory: the coefficients of the training images, used as partners.

    Raises:
        ValueError: A setting is out of range.
    """

    rank: int = 64
    per_class: int = 1000
    memory: bool = True

    def __post_init__(self) -> None:
        check_whole("rank", self.rank)
        check_whole("per_class", self.per_class, 2)


@dataclass(frozen=True)
class FitConfig(PCAConfig):
    """A fit of a flow to classes. The first three fields are those of `PCAConfig`.

    Args:
        gaussians: Whether to find a Gaussian for each class, or which; see `nfaug.fit`.
        batch_size: Images per encoding step.
        seed: Seed of the choice of images and of the dequantisation noise.
    """

    gaussians: bool | str | FixedPointConfig = False
    batch_size: int = 256
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole("batch_size", self.batch_size)
        check_seed(self.seed)
        choose_prior(self.gaussians)  # raises for an unknown one

    @property
    def prior(self) -> PriorConfig | None:
        """How the Gaussians are found; None for no Gaussians."""
        return choose_prior(self.gaussians)
