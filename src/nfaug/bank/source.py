"""The images that a bank is made from, each with the hash that identifies it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, Subset

from ..data.decode import ImageDecodeError, decode_image, upright
from ..data.images import LabelledImages
from ..data.preprocess import Preprocess, size_of
from ..data.readers import read_part
from ..data.torch_datasets import DatasetReader, labelled_images

_DECODER_LEVELS = 4  # mean gray levels; two decoders of a JPEG file differ by less


class UntransformedReader(DatasetReader):
    """The items of a torch dataset whose images are as they were read: 8 bits, and PIL or tensors.

    What a dataset does to images of files is not known; see `is_in_file`.
    """

    def shows_files(self) -> bool:
        return True

    def image_of(self, image: Any, index: int) -> Image.Image | Tensor:
        _check_untransformed(image)
        return super().image_of(image, index)

    def is_in_file(self, index: int) -> bool:
        """Whether an item, if it has a file, is the image in it."""
        if not self.files:
            return True
        file = self.files[index]
        try:
            in_file = decode_image(read_part(Path(file), file), file)
        except ImageDecodeError:  # an array, which the dataset's own loader reads
            return True
        given, _ = self.item(index)
        image = self.image_of(given, index)
        if size_of(image) != size_of(in_file):
            return False
        difference = to_uint8(image, 3).float() - to_uint8(in_file, 3).float()
        return float(difference.abs().mean()) < _DECODER_LEVELS


class HashedImages(Dataset[tuple[Tensor, Tensor]]):
    """Images, uint8 (C, H, W), each with its `Reader.sha256`, uint8 (32,)."""

    def __init__(self, images: LabelledImages) -> None:
        self.images: LabelledImages = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image, digest = self.images.hashed(index)
        return image, torch.tensor(list(digest), dtype=torch.uint8)


def split_transform(dataset: Any) -> tuple[Any, Callable[[Any], Any] | None]:
    """A dataset without its transform, and the transform; also that of a Subset's dataset.

    That of a dataset inside a wrapper stays: it is part of the wrapper's items.
    """
    if type(dataset) is Subset:  # a subclass may change items
        inner, transform = split_transform(dataset.dataset)
        if transform is None:
            return dataset, None
        return Subset(inner, dataset.indices), transform
    transform = getattr(dataset, "__dict__", {}).get("transform")
    if transform is None:
        return dataset, None
    plain = copy.copy(dataset)
    plain.transform = _as_it_is  # a dataset may call it without asking whether there is one
    pair = getattr(plain, "transforms", None)
    if hasattr(pair, "target_transform"):  # torchvision's pair: that of labels stays
        plain.transforms = copy.copy(pair)
        plain.transforms.transform = None
    elif pair is not None:
        plain.transforms = None
    return plain, transform


def _as_it_is(*given: Any, **named: Any) -> Any:
    """The image that a dataset passes to its transform; by name for albumentations."""
    return named or given[0]


def open_source(
    dataset: Any, channels: int, image_size: tuple[int, int] | None, *, progress: bool = True
) -> LabelledImages:
    """The images of a dataset, in the form that a bank's variants are made of.

    Args:
        dataset: Items (image, label), untransformed PIL images or uint8 tensors (C, H, W). It may
            be a torch `Subset`.
        channels: Channels that images are converted to.
        image_size: (height, width) to resize and crop every image to; None for the size of the
            first image, and another size is then an error.
        progress: Whether to show a bar while labels are read.

    Raises:
        ValueError: There is no image, or the first is of another form.
    """
    images = labelled_images(dataset)
    is_ready = images is not None and images.channels == channels and images.has_one_size
    if images is not None and is_ready and image_size in (None, images.image_size):
        return images
    reader = UntransformedReader(dataset, progress=progress)
    if not len(reader.targets):
        raise ValueError(f"{reader.where} holds no images")
    size = image_size or reader.shape(0)[1]
    preprocess = Preprocess(channels, size, resize=image_size is not None)
    return LabelledImages(reader, preprocess, torch.arange(len(reader.targets)))


def to_uint8(image: Any, channels: int) -> Tensor:
    """A PIL image, turned upright, or a uint8 tensor as contiguous uint8 (C, H, W)."""
    _check_untransformed(image)
    if isinstance(image, Image.Image):
        image = upright(image)
    elif image.ndim == 2:
        image = image[None]
    return Preprocess(channels, size_of(image))(image, "an image of the bank")


def _check_untransformed(image: Any) -> None:
    """Raise ValueError unless this is a PIL image or a uint8 tensor."""
    if isinstance(image, Image.Image):
        return
    if isinstance(image, Tensor) and image.dtype == torch.uint8 and image.ndim in (2, 3):
        return
    kind = image.dtype if isinstance(image, Tensor) else type(image).__name__
    raise ValueError(
        "images of a bank must be untransformed PIL images or uint8 tensors (C, H, W); got "
        f"{kind}. Take the steps that change them out of the dataset, and pass them to "
        "BankDataset(dataset, bank, transform=steps)"
    )
