"""NFA as an albumentations transform, for single images in data-loader workers on the CPU.

    A.Compose([A.RandomResizedCrop((32, 32)), NFATransform("my-nfa", p=0.5), A.Normalize()])

Call the pipeline with `image=` and `label=`, in loaders with `persistent_workers=True`: each worker
loads the flow, and its `nfa.stats()` count the images of one worker. `NFAugment` on batches, or a
bank before albumentations, costs far less.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from ..augment.config import one_config
from ..augment.transform import NFAugment
from ..data.classes import composed
from ..io.extras import optional_imports
from ..run.seeds import SharedGenerator, own_seed

with optional_imports():
    import albumentations
    from albumentations.core.type_definitions import Targets

__all__ = ["NFATransform"]

if not hasattr(albumentations.ImageOnlyTransform, "get_params_dependent_on_data"):
    raise ImportError(
        "NFATransform needs albumentations 2.0 (MIT); the installed albumentations "
        f"{albumentations.__version__} is AlbumentationsX (AGPL), whose transforms draw in another "
        'way. Uninstall it and run, in your clone of nfaug: pip install -e ".[albumentations]". Or '
        "call NFAugment on batches"
    )

# albumentations' names of targets other than a single image. Several images would need several
# labels, and mixing moves what masks, boxes and keypoints mark.
_REFUSED = (
    "images", "volume", "volumes", "mask", "masks", "mask3d", "masks3d", "bboxes", "keypoints",
)  # fmt: skip


_SLACK = 0.01  # beyond [0, 1], for the overshoot of interpolation, as `NFAugment` allows it


class NFATransform(albumentations.ImageOnlyTransform):
    """Replace an image by a variant, with a partner from the memory: `t(image=x, label=3)`.

    A label is an integer, an array or a tensor without dimensions, or the name of a class. Images
    have shape (H, W, C) or (H, W); float32 ones lie in [0, 1]. `to_dict` and `from_dict` store the
    name of the checkpoint, and `ReplayCompose` the label and the seed of an image's draws.

    Targets:
        image

    Image types:
        uint8, float32

    Args:
        checkpoint: Folder, "owner/name" or "owner/name@revision" on the Hub, or "builtin:NAME". It
            must have a memory, unless strength is 0.
        label_key: Name of the argument that holds the label.
        config: Fields of `MixConfig` by name, such as {"strength": 1.0}, but not p.
        p: Probability of applying the transform.

    Raises:
        ValueError: A setting is out of range, the checkpoint is no name, or config no mapping. At a
            call: the label is missing or out of range, the sample has several images, a volume,
            masks, boxes or keypoints, or the checkpoint has no memory.

    Example:
        >>> import tempfile
        >>> import nfaug
        >>> from nfaug.integrations.albumentations import NFATransform
        >>> digits = nfaug.open_dataset("digits", per_class=10)
        >>> checkpoint = nfaug.fit("builtin:pixels", digits, progress=False)
        >>> folder = checkpoint.save(tempfile.mkdtemp())
        >>> transform = NFATransform(str(folder), p=1.0)
        >>> image, label = digits[0]
        >>> transform(image=image.permute(1, 2, 0).numpy(), label=label)["image"].shape
        (8, 8, 1)
    """

    _targets = Targets.IMAGE

    def __init__(
        self,
        checkpoint: str | os.PathLike[str],
        label_key: str = "label",
        config: Mapping[str, Any] | None = None,
        p: float = 0.5,
    ) -> None:
        if not isinstance(checkpoint, (str, os.PathLike)):
            raise ValueError(
                "checkpoint must be a name, which each worker loads and to_dict stores; got a "
                f"{type(checkpoint).__name__}. Save it, and pass its folder"
            )
        fields: Any = {} if config is None else config
        if not isinstance(fields, Mapping):
            raise ValueError(
                'config must be a mapping of settings, such as {"strength": 1.0}; got a '
                f"{type(fields).__name__}"
            )
        if "p" in fields:
            raise ValueError(f"pass p=, which is not one of config=; got {config}")
        super().__init__(p=p)
        # Text, which to_dict can write to a file.
        self.checkpoint = os.fspath(checkpoint)
        self.label_key = label_key
        self.config = config
        self._mix = one_config(None, {**fields, "p": 1.0})
        self._nfa: NFAugment | None = None

    @property
    def nfa(self) -> NFAugment:
        """The augmentation, which each process loads for itself with its first image."""
        if self._nfa is None:
            nfa = NFAugment.from_pretrained(self.checkpoint, config=self._mix)
            if self._mix.strength and not nfa.engine.has_memory:  # noise alone needs no partners
                raise ValueError(
                    "NFATransform takes partners from the checkpoint's memory and "
                    f"{self.checkpoint} has none: fit it to your classes (nfaug fit) or set "
                    "strength to 0"
                )
            self._nfa = nfa
        return self._nfa

    def __getstate__(self) -> dict[str, Any]:
        state = dict(self.__dict__)
        state["_nfa"] = None  # workers receive no flow
        return state

    def __call__(self, *args: Any, force_apply: bool = False, **data: Any) -> Any:
        """Apply the transform with probability p.

        Raises:
            ValueError: The sample has several images, a volume, masks, boxes or keypoints.
        """
        _refuse([key for key in _REFUSED if data.get(key) is not None])
        return super().__call__(*args, force_apply=force_apply, **data)

    def add_targets(self, additional_targets: dict[str, str]) -> None:
        """Take other names of an image; albumentations' `Compose` calls it.

        Args:
            additional_targets: The kind of each name, such as {"left": "image"}.

        Raises:
            ValueError: A kind is one of volumes, masks, boxes or keypoints.
        """
        refused = []
        for name, kind in additional_targets.items():
            if kind in _REFUSED:
                refused.append(f"{name}: {kind}")
        _refuse(refused)
        super().add_targets(additional_targets)

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
        """The class, and the seed of partner, weights and noise."""
        label = self._class_of(data[self.label_key])
        drawn = torch.Generator().manual_seed(int(self.random_generator.integers(2**32)))
        # With the rank and the worker in it, so that a replay elsewhere has the same draws.
        return {"label": label, "seed": own_seed(drawn)}

    def _class_of(self, given: Any) -> int | str:
        """The index or the name of a class, as it is given."""
        nfa = self.nfa
        label = given
        if isinstance(label, (np.ndarray, np.generic, torch.Tensor)) and label.ndim == 0:
            label = label.item()
        if isinstance(label, str):
            label = composed(label)
            if label in nfa.classes:
                return label
        if not isinstance(label, int) or not 0 <= label < nfa.num_classes:
            raise ValueError(
                f"{self.label_key}= must be the image's class, an integer in [0, "
                f"{nfa.num_classes}) or a name such as {list(nfa.classes[:5])}; got {given!r:.80}"
            )
        return label

    def apply(self, img: np.ndarray, label: int | str, seed: int, **params: Any) -> np.ndarray:
        """The image moved towards the partner.

        Raises:
            ValueError: A floating-point image does not lie in [0, 1].
        """
        if img.dtype != np.uint8 and img.size and (img.min() < -_SLACK or img.max() > 1 + _SLACK):
            raise ValueError(
                f"floating-point images must lie in [0, 1]; got values from {img.min():.3g} to "
                f"{img.max():.3g}. Divide by 255, or put NFATransform before A.Normalize"
            )
        labels = [label] if isinstance(label, str) else torch.tensor([label], device="cpu")
        draws = self.nfa.draw(labels, generator=SharedGenerator().manual_seed(seed))
        pixels = img[..., None] if img.ndim == 2 else img
        images = torch.from_numpy(np.array(pixels)).permute(2, 0, 1)[None]
        variants, _ = self.nfa.replay(images, labels, draws)
        return variants[0].permute(1, 2, 0).numpy().reshape(img.shape)


def _refuse(names: list[str]) -> None:
    """Raise ValueError if a sample holds anything of these names."""
    if names:
        raise ValueError(
            f"NFATransform takes one image= and its label; got {', '.join(names)}. Call it for "
            "each image, or NFAugment for a batch; volumes, masks, boxes and keypoints cannot be "
            "transformed"
        )
