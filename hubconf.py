"""The entry point of `torch.hub.load("OWNER/nfaug", "nfa", ...)`, which runs this file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

dependencies = ["torch", "numpy", "PIL", "safetensors", "filelock", "huggingface_hub", "tqdm"]


def nfa(checkpoint: str = "builtin:rgb32", **settings: Any) -> Any:
    """Normalizing-flow augmentation of batches: `images, labels = nfa(images, labels)`.

    Args:
        checkpoint: A directory, "owner/name" on the Hugging Face Hub, or "builtin:NAME", whose
            classes must be yours.
        settings: Keyword arguments of `nfaug.NFAugment`, such as p=0.5, mean= and std=.

    Example:
        >>> import torch
        >>> augment = torch.hub.load(".", "nfa", source="local", p=0.5)
        >>> images = torch.randint(256, (8, 3, 32, 32), dtype=torch.uint8)
        >>> augment(images, ["cat", "dog"] * 4)[0].shape
        torch.Size([8, 3, 32, 32])
    """
    # torch.hub puts this folder on the path, and the archive that it unpacks has no links.
    sys.path.insert(0, str(Path(__file__).resolve().parent / "src"))
    import nfaug

    return nfaug.NFAugment.from_pretrained(checkpoint, **settings)
