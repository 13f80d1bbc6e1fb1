"""Types of torch for annotations, in modules of settings, which must not import it.

A command shows its help and the error about an option without torch. A block `if TYPE_CHECKING` in
these modules would import it: jsonargparse runs the blocks of a module whose settings it reads.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Generator, Tensor
    from torch.nn import ModuleList
else:
    Generator = ModuleList = Tensor = Any

__all__ = ["Generator", "ModuleList", "Tensor"]
