"""Pictures of what NFA does: grids of variants and samples."""

from .preview import preview_grid

__all__ = ["preview_grid"]
