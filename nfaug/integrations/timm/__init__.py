"""NFAugment in timm's training loops: around its loaders, and inside its own unedited scripts.

What timm 1.0 does, and what follows from it:

- With the prefetcher, mixup and cutmix run in the loader's workers, when batches are collated, and
  nothing on the device can come before them. `NFALoader` moves them to the device, behind NFA.
- Images are normalised by the model's mean and std, which are not ImageNet's for every model
  (EVA02's are CLIP's). `NFALoader` reads them from the loader.
- RandomErasing happens in the prefetcher or the data set's transform, before NFA. An image with a
  large erased part may lie outside its class's range; then it is left alone and counted as gated.
- Training loaders drop the last odd batch. Where a loader does not, the last image of an odd batch
  is not mixed by mixup and cutmix, which need pairs.
- NaFlex batches are dictionaries of patches, AugMix splits several views of an image: refused.
"""

from __future__ import annotations

from .loader import NFALoader
from .script import format_stats, run_script
from .transforms import training_transform

__all__ = ["NFALoader", "format_stats", "run_script", "training_transform"]
