"""The augmentations that are compared with NFA, and the safe ones that come after them."""

from __future__ import annotations

from collections.abc import Callable, Collection

import torch
from torch import Tensor

from nfaug.data.augmentation import FlowAugmentation


def transform_of(
    safe: Collection[str], policy: str, size: tuple[int, int]
) -> Callable[[Tensor], Tensor]:
    """The policy and then the safe augmentations, for uint8 images (B, C, H, W) of one size.

    Each image is shifted by up to an eighth of its shorter side, with mirrored borders.

    Args:
        safe: Words of `CompareConfig.augment`.
        policy: randaugment, trivialaugment or specaugment. Of another one, such as mixup, which
            mixes a batch after all this, or of an empty text this is nothing.
        size: (H, W) of the images.

    Returns:
        The transform. It draws from torch's generator.

    Example:
        >>> from nfaug.compare import transform_of
        >>> transform = transform_of(["flip", "crop"], "randaugment", (16, 16))
        >>> transform(torch.zeros(2, 3, 16, 16, dtype=torch.uint8)).shape
        torch.Size([2, 3, 16, 16])
    """
    from torchvision.transforms import v2

    policies: dict[str, Callable[[Tensor], Tensor]] = {
        "randaugment": v2.RandAugment(2, 9),
        "trivialaugment": v2.TrivialAugmentWide(),
        "specaugment": spec_augment,
    }
    of_one_image: list[Callable[[Tensor], Tensor]] = []
    if policy in policies:
        of_one_image.append(policies[policy])
    if "color" in safe:
        of_one_image.append(v2.ColorJitter(0.3, 0.3, 0.3))
    shift = 0
    if "crop" in safe or "spectrogram" in safe:
        shift = max(1, min(size) // 8)
    flip_and_shift = FlowAugmentation(hflip="flip" in safe or "rotate" in safe, pad_crop=shift)

    def transform(images: Tensor) -> Tensor:
        for change in of_one_image:
            images = torch.stack([change(image) for image in images])
        draws = flip_and_shift.draw(len(images), torch.default_generator)
        images = flip_and_shift.apply(images, draws)
        if "rotate" in safe:
            quarters = torch.randint(4, (len(images),)).tolist()
            turned = []
            for image, turns in zip(images, quarters, strict=True):
                turned.append(image.rot90(turns, (1, 2)))
            images = torch.stack(turned)
        return images

    return transform


def spec_augment(image: Tensor, share: float = 1 / 8) -> Tensor:
    """Mask two bands of frequency (rows) and two of time (columns) with the mean of the image.

    These are the masks of SpecAugment (arXiv:1904.08779), without its time warping.

    Args:
        image: A spectrogram (C, H, W) of any type.
        share: The widest band, as a share of the image's side.

    Returns:
        The masked spectrogram, a new tensor.

    Example:
        >>> from nfaug.compare import spec_augment
        >>> spec_augment(torch.rand(1, 32, 32)).shape
        torch.Size([1, 32, 32])
    """
    masked = image.clone()
    mean = float(image.float().mean())
    for side in (1, 1, 2, 2):
        length = image.shape[side]
        width = int(torch.randint(int(length * share) + 1, ()))
        start = int(torch.randint(length - width + 1, ()))
        masked.narrow(side, start, width).fill_(mean)
    return masked
