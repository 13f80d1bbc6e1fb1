"""Pictures of what NFA does: grids of variants and samples, and what the explorer shows."""

from .preview import preview_grid

__all__ = ["preview_grid"]
