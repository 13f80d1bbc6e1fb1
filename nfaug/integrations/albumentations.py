"""NFA as an albumentations transform, for single images in data-loader workers on the CPU.

This is slow: an image costs far more alone than in a batch, and workers have no accelerator.
`NFAugment` on batches or a bank (`nfaug.bank`) does the same at a lower cost. If the training loop
can be edited, call `NFAugment` on its normalized batches (`mean=`, `std=`). If only the data set
can, use `BankDataset` before albumentations. Use this transform if NFA must be part of an
albumentations pipeline:

    A.Compose([A.RandomResizedCrop((32, 32)), NFATransform("my-flow", p=0.5), A.Normalize()])

Call the pipeline with `image=` and `label=`. A worker loads the flow with its first image, so pass
`persistent_workers=True` to the loader. Partners come from the checkpoint's memory, which
`nfaug fit` makes. NFA comes before `A.Normalize`; for its place relative to the crop see
docs/where-in-the-pipeline.md.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_type_hints

import albumentations
import numpy as np
import pydantic
import torch

from ..augment.settings import MixSettings, accepts_settings, check_names
from ..augment.transform import NFAParams, NFAugment
from ..io.manifest import CONFIG

__all__ = ["NFATransform"]

_NOT_TAKEN = ("p", "partners")  # albumentations has a p of its own; partners come from the memory
_HINTS = {name: x for name, x in get_type_hints(MixSettings).items() if name not in _NOT_TAKEN}
_FIELDS: dict[str, Any] = {
    "checkpoint": (str, ...),
    "label_key": (str, "label"),
    "revision": (str | None, None),
    **{name: (hint, ...) for name, hint in _HINTS.items()},
}


class NFATransform(albumentations.ImageOnlyTransform):
    """Mix an image with one of its class from the checkpoint's memory: `t(image=x, label=3)`.

    Images are uint8, or float32 in [0, 1], of shape (H, W, C) or (H, W). The label is an argument
    of the call and does not change. Each process loads the flow once, with its first image.
    `to_dict` and `from_dict` store the name of the checkpoint.

    Args:
        checkpoint: Directory, Hub repository or "builtin:NAME". Its PCA must have a memory, unless
            strength is 0.
        label_key: Name of the argument that holds the label.
        revision: Branch, tag or commit of a Hub repository.
        p: Probability of applying the transform.
        changes: Settings as in `NFAugment`, except `partners`.

    Raises:
        TypeError: A keyword argument is unknown.
        ValueError: A setting is out of range. At a call: the label is missing or out of range, the
            sample has masks, boxes or keypoints, or the checkpoint has no memory.
    """

    InitSchema = pydantic.create_model(
        "InitSchema",
        __base__=albumentations.ImageOnlyTransform.InitSchema,
        **_FIELDS,
    )

    def __new__(cls, *args: Any, **kwargs: Any) -> NFATransform:
        """Raise on unknown keywords, which albumentations drops with a warning."""
        check_names(kwargs, [*cls.InitSchema.model_fields])
        return super().__new__(cls)

    @accepts_settings(*_NOT_TAKEN)
    def __init__(
        self,
        checkpoint: str,
        label_key: str = "label",
        revision: str | None = None,
        p: float = 0.5,
        **changes: Any,
    ) -> None:
        super().__init__(p=p)
        self.checkpoint = checkpoint
        self.label_key = label_key
        self.revision = revision
        settings = MixSettings.merge(None, changes)
        for name in _HINTS:  # attributes that albumentations saves
            setattr(self, name, getattr(settings, name))
        self._settings = MixSettings.merge(settings, {"p": 1.0})
        self._version = _version(checkpoint)

    @property
    def nfa(self) -> NFAugment:
        """The augmentation, which each process loads for itself."""
        return _load(self.checkpoint, self.revision, self._settings, self._version)

    @property
    def targets(self) -> dict[str, Callable[..., Any]]:
        """Single images only: several images would need several labels."""
        return {"image": self.apply}

    @property
    def targets_as_params(self) -> list[str]:
        """The label is required."""
        return [self.label_key]

    def get_params_dependent_on_data(
        self, params: dict[str, Any], data: dict[str, Any]
    ) -> dict[str, Any]:
        """Draw partner, weights and noise, from `self.random_generator`."""
        for key in ("mask", "masks", "bboxes", "keypoints"):
            if data.get(key) is not None:
                raise ValueError(
                    f"the sample has {key!r}: NFA is for classification and cannot transform "
                    "masks, boxes or keypoints"
                )
        nfa, label = self.nfa, data[self.label_key]
        if not isinstance(label, (int, np.integer)) or not 0 <= label < nfa.num_classes:
            raise ValueError(
                f"{self.label_key} must be an integer in [0, {nfa.num_classes}), the class of the "
                f"image; got {label!r}"
            )
        seed = int(self.random_generator.integers(2**32))
        draws = nfa.make_params(
            torch.tensor([int(label)]), generator=torch.Generator().manual_seed(seed)
        )
        return {"label": int(label), "draws": draws}

    def apply(self, img: np.ndarray, label: int, draws: NFAParams, **params: Any) -> np.ndarray:
        """The image moved towards the partner."""
        if img.dtype.kind == "f" and not -0.01 <= img.min() <= img.max() <= 1.01:
            raise ValueError(
                f"float images must lie in [0, 1]; got values from {img.min():.3g} to "
                f"{img.max():.3g}. Place NFATransform before A.Normalize"
            )
        image = torch.from_numpy(np.array(img if img.ndim == 3 else img[..., None]))
        new, _ = self.nfa(image.permute(2, 0, 1)[None], torch.tensor([label]), params=draws)
        return new[0].permute(1, 2, 0).numpy().reshape(img.shape)


def _version(checkpoint: str) -> tuple[int, ...]:
    """What changes when the checkpoint of a folder is written anew; empty for other names."""
    try:
        found = (Path(checkpoint).expanduser() / CONFIG).stat()
    except (OSError, RuntimeError, ValueError):  # "~nobody/flow", a null byte: loading says more
        return ()
    return found.st_ino, found.st_size, found.st_mtime_ns


@functools.lru_cache(maxsize=4)
def _load(
    checkpoint: str, revision: str | None, settings: MixSettings, version: tuple[int, ...]
) -> NFAugment:
    """Loaded at the first image: spawned workers receive the transform without the flow.

    `version` is part of the key: a transform that is made after a refit needs the new files.
    """
    nfa = NFAugment.from_pretrained(checkpoint, revision=revision, settings=settings)
    if settings.strength and not nfa.engine.has_memory:  # noise alone needs no partners
        raise ValueError(
            f"NFATransform takes partners from the checkpoint's memory and {checkpoint} has none: "
            "fit it to your classes (nfaug fit) or, for noise alone, pass strength=0"
        )
    return nfa
