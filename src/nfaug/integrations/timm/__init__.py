"""NFAugment in timm's training loops: around its loaders, and in its unedited scripts.

Behaviour of timm 1.0 that the adapters handle:

- With the prefetcher, mixup and cutmix run in the loader's workers when batches are collated, so
  nothing on the device can run before them. `NFALoader` moves them to the device, after NFA.
- Images are normalized by the model's mean and std. `NFALoader` reads them from the loader.
- RandomErasing runs in the prefetcher or in the dataset's transform, before NFA. An image with a
  large erased part may lie outside its class's range; it is then unchanged and counted as gated.
"""

from __future__ import annotations

from ...io.extras import optional_imports

with optional_imports():
    from .loader import NFALoader
    from .script import run_script

__all__ = ["NFALoader", "run_script"]
