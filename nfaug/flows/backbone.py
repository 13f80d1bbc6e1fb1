"""What a backbone is, and the backbone "identity", a flow without weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn

if TYPE_CHECKING:
    from .config import FlowConfig

__all__ = ["Backbone", "Identity"]


class Backbone:
    """A family of flows. `nfaug.flows.config.BACKBONES` has one instance of each, by name.

    A backbone has no state; this base class has neither settings nor layers. `FlowConfig` uses it
    to check settings and to count parameters, `Flow` uses it to build layers. A new backbone is a
    module with a subclass and an entry in `BACKBONES`. A setting that it needs and that does not
    exist yet is a new field of `FlowConfig` with a default.

    Attributes:
        settings: Names of the `FlowConfig` fields that the backbone reads besides `channels`,
            `image_size` and `padded_size`. The others must keep their defaults.
        shape_free: Whether the same weights serve every number of channels and every size.
    """

    settings: tuple[str, ...] = ()
    shape_free = False

    def check_settings(self, config: FlowConfig) -> None:
        """Raise ValueError if one of `settings` has a wrong type or value."""

    def levels(self, config: FlowConfig) -> int:
        """Number of levels; each halves height and width."""
        return 0

    def build(self, config: FlowConfig) -> nn.ModuleList:
        """New layers: one list of `Layer` for each level."""
        return nn.ModuleList()

    def parameter_count(self, config: FlowConfig) -> int:
        """Number of trainable values in `build(config)`."""
        return 0

    def tensor_count(self, config: FlowConfig) -> int:
        """Number of tensors in the state dict of `build(config)`."""
        return 0

    def flop(self, config: FlowConfig) -> int:
        """Floating-point operations per image and direction; a multiply-add counts as two."""
        return 0

    def summary(self, config: FlowConfig) -> dict[str, Any]:
        """Titles and values that describe the architecture, for a model card."""
        return {name: getattr(config, name) for name in self.settings}


class Identity(Backbone):
    """z = v with log|det| = 0, for images of any size and number of channels.

    The latent is the image in flow space, so classwise PCA and mixing work on pixels. This is the
    baseline that a trained flow has to beat.
    """

    shape_free = True
