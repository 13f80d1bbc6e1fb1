"""What `data` may be, in words."""

from __future__ import annotations

from typing import NamedTuple


class DataKind(NamedTuple):
    """Something that `data` may be: an example of it, and what it is."""

    example: str
    text: str


DATA_KINDS = (
    DataKind(
        "my-images",
        "a folder with one folder of images for each class, such as my-images/cat/1.jpg. Folders "
        "train, val and test around them are splits.",
    ),
    DataKind("my-images.tar", "a tar of such a folder, not compressed."),
    DataKind(
        "my-shards",
        "a folder of WebDataset shards, or one shard: a tar in which 000012.jpg has its label, a "
        "number, in 000012.cls.",
    ),
    DataKind(
        "my-images.npz",
        "a NumPy file with the arrays images (uint8, of shape N x H x W, N x H x W x C or "
        "N x C x H x W) and labels (whole numbers, N).",
    ),
    DataKind("torch/cifar10", "torch/NAME, a dataset of torchvision. --download fetches it."),
    DataKind("builtin:clothes", "875 photographs of 32 x 32 pixels that come with nfaug."),
    DataKind("digits", "scikit-learn's 1,797 handwritten digits of 8 x 8 pixels, for a first try."),
)
# The same in one line, for messages and options.
DATA_SOURCES = (
    "a folder with one folder of images for each class, a .tar or .npz file, or a name such as "
    "torch/cifar10; 'nfaug help data' lists all"
)
