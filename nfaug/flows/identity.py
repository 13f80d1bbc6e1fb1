"""The backbone "identity": a flow without weights, for mixing in pixel space."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from .backbone import Backbone

if TYPE_CHECKING:
    from .config import FlowConfig

__all__ = ["Identity"]


class Identity(Backbone):
    """z = v with log|det| = 0, for images of any size and number of channels.

    The latent is the image in flow space, so classwise PCA and mixing work on pixels. This is the
    baseline that a trained flow has to beat.
    """

    shape_free = True

    def check_settings(self, config: FlowConfig) -> None:
        """Do nothing: there are no settings."""

    def levels(self, config: FlowConfig) -> int:
        return 0

    def build(self, config: FlowConfig) -> nn.ModuleList:
        return nn.ModuleList()

    def parameter_count(self, config: FlowConfig) -> int:
        return 0

    def tensor_count(self, config: FlowConfig) -> int:
        return 0

    def flop(self, config: FlowConfig) -> int:
        return 0
