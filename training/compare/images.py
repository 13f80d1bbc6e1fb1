"""Labelled, validation and augmented images of a comparison: uint8 tensors (N, C, H, W)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from nfaug.augment.settings import MixSettings
from nfaug.augment.transform import NFAugment
from nfaug.data.classes import check_class_names
from nfaug.data.images import LabelledImages, to_tensors
from nfaug.fitting import fit

from ..augmentation import FlowAugmentation

__all__ = ["bank_of", "spec_augment", "split_images", "transform_of"]

_MOST_HELD_OUT = 500  # images of a class; more take time and add little precision


def split_images(
    data: LabelledImages, test: LabelledImages | None, few: int | None
) -> tuple[LabelledImages, Tensor, Tensor]:
    """Images to draw labelled ones from, and validation images with their labels.

    Without `test`, a quarter of each class is held out, or half of it if `few` labelled images of a
    class are enough.

    Raises:
        ValueError: A class has too few images, or `test` has other classes.
    """
    labels = data.targets
    needed = (few or 2) + (test is None)
    counts = torch.bincount(labels, minlength=len(data.classes)).tolist()
    if (smallest := min(counts)) < needed:
        raise ValueError(
            f"class {data.classes[counts.index(smallest)]!r} has {smallest} images; {needed} are "
            "needed, those to validate with included: lower --per-class, or leave the class out"
        )
    if test is not None:
        check_class_names(test.classes, data.classes)
        return data, *to_tensors(test, progress=False)
    held = torch.zeros(len(labels), dtype=torch.bool)
    for label, count in enumerate(counts):
        number = min(count // 2, count - few) if few else count // 4
        rows = (labels == label).nonzero().flatten()
        order = torch.randperm(count, generator=torch.Generator().manual_seed(label))
        held[rows[order[: min(max(1, number), _MOST_HELD_OUT)]]] = True
    pool, held_out = (data.subset(rows.nonzero().flatten()) for rows in (~held, held))
    return pool, *to_tensors(held_out, progress=False)


def bank_of(
    flow: str,
    few: LabelledImages,
    variants: int,
    seed: int,
    device: torch.device,
    *,
    autoencoder: str | None = None,
    settings: MixSettings | None = None,
) -> Tensor:
    """Variants (N, V, C, H, W) of the labelled images under a flow that is fitted to them."""
    images, labels = to_tensors(few, progress=False)
    fewest = int(torch.bincount(labels).min())
    rank = max(1, min(64, fewest - 1))
    fitted = fit(flow, few, rank=rank, progress=False, seed=seed, autoencoder=autoencoder)
    mixing = replace(settings or MixSettings(), p=1.0)
    nfa = NFAugment(fitted.to(device), settings=mixing)
    draws = [torch.Generator().manual_seed(1000 * seed + number) for number in range(variants)]
    parts = [
        torch.stack([*nfa.variants(part.to(device), own, draws)], 1).cpu()
        for part, own in zip(images.split(256), labels.split(256), strict=True)
    ]
    return torch.cat(parts)


def transform_of(
    safe: tuple[str, ...], policy: str, size: tuple[int, int]
) -> Callable[[Tensor], Tensor]:
    """The policy and then the safe augmentations, for uint8 images (B, C, H, W) of this size.

    Each image is shifted by up to an eighth of its shorter side, with mirrored borders.
    """
    from torchvision.transforms import v2

    policies: dict[str, Callable[[Tensor], Tensor]] = {
        "randaugment": v2.RandAugment(2, 9),
        "trivialaugment": v2.TrivialAugmentWide(),
        "specaugment": spec_augment,
    }
    single = [policies[policy]] if policy else []
    single += [v2.ColorJitter(0.3, 0.3, 0.3)] if "colour" in safe else []
    shifts = max(1, min(size) // 8) if {"crop", "spectrogram"} & {*safe} else 0
    plain = FlowAugmentation(hflip=bool({"flip", "rotate"} & {*safe}), pad_crop=shifts)

    def transform(images: Tensor) -> Tensor:
        for change in single:
            images = torch.stack([change(image) for image in images])
        images = plain.apply(images, plain.draw(len(images), torch.default_generator))
        if "rotate" in safe:
            turns = torch.randint(4, (len(images),)).tolist()
            turned = zip(images, turns, strict=True)
            images = torch.stack([torch.rot90(image, number, (1, 2)) for image, number in turned])
        return images

    return transform


def spec_augment(image: Tensor, share: float = 1 / 8) -> Tensor:
    """Mask two bands of frequency (rows) and two of time (columns) with the mean of the image.

    Each is up to a `share` of the image wide: the masks of arXiv:1904.08779, no time warping.
    """
    masked = image.clone()
    grey = int(image.float().mean())
    for side in (1, 1, 2, 2):
        length = image.shape[side]
        width = int(torch.randint(int(length * share) + 1, ()))
        masked.narrow(side, int(torch.randint(length - width + 1, ())), width).fill_(grey)
    return masked
