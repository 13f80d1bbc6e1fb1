"""The latents of an autoencoder for all images, which are computed once."""

from __future__ import annotations

import torch

from nfaug.data.augmentation import FlowAugmentation
from nfaug.data.batches import Decoded, LabelledBatches, batches
from nfaug.flows.latent_codec import LatentCodec
from nfaug.io.progress import progress_bar
from nfaug.run.ranks import Ranks
from nfaug.run.shared import shared_tensor

_ENCODED = 64  # the most images that an autoencoder encodes at a time


def latents_of(
    data: LabelledBatches, codec: LatentCodec, ranks: Ranks, *, mirrored: bool, progress: bool
) -> Decoded:
    """The latents of images, float16 (N, views, C, H, W), whose rounding is below the noise.

    Images are encoded once, since an autoencoder costs an order of magnitude more than the flow.
    The processes of a machine share the work and the memory (`shared_tensor`).

    Args:
        data: The images.
        codec: The codec of the autoencoder.
        ranks: The processes, which all call this.
        mirrored: Whether there is a second view: the latents of the mirror image, which differ from
            the mirrored latents. `FlowAugmentation` draws one of the views.
        progress: Whether to show a bar.
    """
    views = 2 if mirrored else 1
    shape = (len(data.targets), views, *codec.latent_shape)
    at_once = min(_ENCODED, codec.images_at_once(ranks.device))
    latents, rows = shared_tensor(shape, torch.float16, ranks, step=at_once)
    parts = torch.arange(rows.start, rows.stop).split(at_once)
    error: Exception | None = None
    try:
        with progress_bar(len(rows), "latents", "image", shown=progress) as bar:
            start = rows.start
            for images, _ in batches(data, parts):
                images = images.to(ranks.device)
                end = start + len(images)
                latents[start:end, 0] = codec.prepare(images).to("cpu", torch.float16)
                if mirrored:
                    mirror_images = images.flip(-1)
                    latents[start:end, 1] = codec.prepare(mirror_images).to("cpu", torch.float16)
                start = end
                bar.update(len(images))
    except (OSError, ValueError) as met:
        if ranks.count == 1:
            raise
        error = met
    ranks.agree(error)
    return Decoded(latents, data.targets)


def check_augmentation(augmentation: FlowAugmentation) -> None:
    """Raise ValueError if an augmentation cannot apply to latents, which are computed once."""
    for name in ("pad_crop", "rotation", "brightness", "contrast", "saturation"):
        value = getattr(augmentation, name)
        if value:
            raise ValueError(
                "latents of an autoencoder are computed once, and images cannot change later: set "
                f"augmentation.{name} to 0; got {value}"
            )
