"""Augmentation of a flow's own training images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from nfaug.io.numbers import check_number, check_whole
from nfaug.io.types import Generator, Tensor


@dataclass(frozen=True)
class FlowAugmentation:
    """Augment uint8 batches while a flow trains; everything is off by default.

    Each image draws its own parameters. Borders are mirrored: constant black ones would give the
    flow pixels without variance.

    Args:
        hflip: Mirror half of the images left to right.
        pad_crop: Shift by up to this many pixels in each direction (padding, then a random crop).
        noise: Standard deviation of Gaussian noise added to the dequantisation noise, in grey
            levels; on latents, in units of `latent_noise`. The flow then does not resolve finer
            detail, which bounds its condition number where pixels hardly vary.

    Raises:
        ValueError: If a setting is out of range.
    """

    hflip: bool = False
    pad_crop: int = 0
    noise: float = 0.0

    def __post_init__(self) -> None:
        check_whole("pad_crop", self.pad_crop, 0)
        check_number("noise", self.noise, 0, 255)

    def draw(self, batch: int, generator: Generator) -> dict[str, Tensor]:
        """Draw parameters for each image, on the generator's device.

        They are `flip` (B,), bool, and `shift` (B, 2), in pixels down and right. A transform that
        is off draws nothing, and its parameter is left out.
        """
        import torch  # settings alone do not need it

        device = generator.device
        params = {}
        if self.hflip:
            params["flip"] = torch.rand(batch, generator=generator, device=device) < 0.5
        if self.pad_crop:
            params["shift"] = torch.randint(
                -self.pad_crop, self.pad_crop + 1, (batch, 2), generator=generator, device=device
            )
        return params

    def apply(self, images: Tensor, params: Mapping[str, Tensor]) -> Tensor:
        """Apply drawn parameters to uint8 images (B, C, H, W), which stay as they are, or latents.

        Latents have the shape (B, views, C, H, W), where the views are the image and perhaps its
        mirror image. A flip takes the last view.

        Raises:
            ValueError: If images are smaller than the shift.
        """
        import torch

        params = {name: value.to(images.device) for name, value in params.items()}
        latents = images.ndim == 5
        result = images[:, 0] if latents else images
        if self.pad_crop >= min(result.shape[2:]):
            raise ValueError(
                f"images must be larger than pad_crop={self.pad_crop}; got {tuple(images.shape)}"
            )
        if "flip" in params:
            mirrored = images[:, -1] if latents else images.flip(-1)
            result = torch.where(params["flip"][:, None, None, None], mirrored, result)
        if "shift" in params:
            result = _shift(result, params["shift"])
        return result


def _shift(images: Tensor, shifts: Tensor) -> Tensor:
    """Move each image by its own (down, right) pixels; the border is mirrored."""

    import torch

    def sources(size: int, shift: Tensor) -> Tensor:
        """The index that each of `size` pixels comes from, (B, size)."""
        index = torch.arange(size, device=shift.device) - shift[:, None]
        return (size - 1) - ((size - 1) - index.abs()).abs()

    height, width = images.shape[2:]
    rows = sources(height, shifts[:, 0])
    columns = sources(width, shifts[:, 1])
    samples = torch.arange(len(images), device=images.device)[:, None, None]
    # Advanced indices around a slice put the channel last.
    return images[samples, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
