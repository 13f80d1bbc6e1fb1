"""The public name of `nfaug.gaussians.fixed_point`."""

from ..gaussians.fixed_point import *  # noqa: F403
from ..gaussians.fixed_point import __all__ as __all__
