"""Types of layers for annotations of settings; see `nfaug.io.types`."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .layers import Squeeze
else:
    Squeeze = Any

__all__ = ["Squeeze"]
