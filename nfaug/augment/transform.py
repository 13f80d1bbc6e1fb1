"""NFAugment: normalizing-flow augmentation of batches, as a transform for training loops."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from ..data.checks import check_class_names
from ..data.classes import dataset_classes
from .batch import images_and_labels, replace_images
from .counters import Counters, SharedValue
from .engine import Encoded, Engine, outcomes
from .labels import are_names, check_usable, class_indices, index_names
from .params import NFAParams, make_params, to_device
from .pixels import Normalization, all_finite, check_images, check_range, replace_non_finite
from .settings import (
    MixKeywords,
    MixSettings,
    accepts_settings,
    check_names,
    check_number,
    document_settings,
)

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["NFAParams", "NFAugment"]

_CHECKED_BATCHES = 8  # on an accelerator values are read in the first batches only ...
_CHECK_EVERY = 256  # ... and in every 256th after them


class AugmentKeywords(MixKeywords, total=False):
    """The keyword arguments of `NFAugment`, for type checkers."""

    settings: MixSettings | None
    mean: Sequence[float] | float | None
    std: Sequence[float] | float | None
    generator: torch.Generator | None
    smoothing: float | None
    labels_getter: Callable[[Any], Any] | None


@document_settings
class NFAugment(nn.Module):
    """Mix images with others of their class along the class's PCA axes in latent space.

        a = U^T (z1 - m),  b = U^T (z2 - m),  w ~ Beta(alpha, alpha),
        z' = z1 + U (strength * w * (b - a)) + noise * e,  e ~ N(0, I)

    Labels do not change. Images are uint8, floating point in [0, 1], or normalized by `mean` and
    `std`, of shape (B, C, H, W) and any size. The result is a new tensor of the same type, size,
    device and memory format. At another size than the flow's, in floating point, and with flows on
    autoencoder latents, only the change is added to the image, which preserves detail.

    ceil(p*B) images drawn at random go through the flow. An image stays unchanged, and is counted
    in `stats`, if it has no partner, if its latent lies outside its class's range (the gate), or
    if the result is not finite. Images with NaN or infinite pixels are not augmented; NaN becomes
    mid-grey, infinity white and -infinity black. Apply NFA before mixup and cutmix.

    A partner is another image of the same class. Self-matches in the memory (coefficients within
    1%) use the fallback row that is drawn with each partner.

    The module has no parameters, buffers or `state_dict` entries, and follows the device of the
    images. `eval()` and `enabled = False` turn it off. On the CPU, values of labels and images are
    checked in every batch. On an accelerator, where this synchronizes, they are checked in the
    first 8 batches and every 256th; in other batches images with unusable labels stay unchanged.

    Example:
        >>> import torch
        >>> import nfaug
        >>> images = torch.randint(256, (20, 3, 64, 64), dtype=torch.uint8)
        >>> labels = torch.randint(10, (20,))
        >>> nfa = nfaug.NFAugment("builtin:rgb32", p=0.5)
        >>> new_images, labels = nfa(images, labels)
        >>> new_images.shape, new_images.dtype
        (torch.Size([20, 3, 64, 64]), torch.uint8)
        >>> nfa.stats()["seen"]
        20

    Args:
        checkpoint: A `Checkpoint`, a directory, a Hub repository, "builtin:NAME", a pair
            (flow, pca), or the `engine` of another augmentation.
        p, ..., keep: Single settings, the fields of `MixSettings`.
        settings: All settings at once; single ones override it.
        mean: Mean that images are normalized by, a number or one per channel; ignored for uint8.
        std: Standard deviation that images are normalized by, like `mean`.
        generator: CPU generator to draw from; None for torch's. The same state gives the same
            batch. Ranks of a distributed run and data-loader workers draw different numbers.
        smoothing: Label smoothing of soft labels; required with two classes.
        labels_getter: Returns the labels of a sample that is neither (images, labels, ...) nor a
            mapping with labels.

    Raises:
        ValueError: A setting is out of range, or the checkpoint lacks what the settings need: PCA
            axes, a memory (`partners`) or class gaussians (`keep`).
        TypeError: A keyword argument is unknown.
    """

    @accepts_settings()
    def __init__(
        self,
        checkpoint: Any,
        *,
        settings: MixSettings | None = None,
        mean: Sequence[float] | float | None = None,
        std: Sequence[float] | float | None = None,
        generator: torch.Generator | None = None,
        smoothing: float | None = None,
        labels_getter: Callable[[Any], Any] | None = None,
        **changes: Unpack[MixKeywords],
    ) -> None:
        super().__init__()
        check_names(changes, [*AugmentKeywords.__annotations__])
        settings = MixSettings.merge(settings, changes)
        self._engine = Engine.of(checkpoint)
        self.settings = settings
        self.smoothing = (
            None if smoothing is None else check_number("smoothing", smoothing, 0, 0.99)
        )
        if generator is not None and generator.device.type != "cpu":
            raise ValueError(
                "generator must be on the CPU, so that a seed gives the same batch on every "
                f"device; got one on {generator.device}"
            )
        self.generator = generator
        self.labels_getter = labels_getter
        self.set_normalization(mean, std)
        self._switch = SharedValue()
        self._batches = 0
        self._counters = Counters()

    @classmethod
    def from_pretrained(
        cls,
        path_or_repo: str | Path,
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        autoencoder: str | Path | None = None,
        **kwargs: Unpack[AugmentKeywords],
    ) -> NFAugment:
        """Load a checkpoint from a directory or the Hub, and make an `NFAugment` of it.

        Args:
            path_or_repo: As in `nfaug.load`, like `revision`, `token` and `autoencoder`.
            revision: Branch, tag or commit of a Hub repository.
            token: Access token for the Hub.
            autoencoder: Directory or repository of a latent flow's autoencoder.
            kwargs: Keyword arguments of `NFAugment`.

        Raises:
            ValueError: See `NFAugment` and `nfaug.load`.
            TypeError: A keyword argument is unknown.
        """
        check_names(kwargs, [*AugmentKeywords.__annotations__])
        from ..checkpoint.checkpoint import load  # a flow in memory needs no reader

        checkpoint = load(path_or_repo, revision=revision, token=token, autoencoder=autoencoder)
        return cls(checkpoint, **kwargs)

    @property
    def enabled(self) -> bool:
        """Whether images are augmented; a change also takes effect in running workers."""
        return bool(self._switch)

    @enabled.setter
    def enabled(self, value: bool) -> None:
        self._switch.set(value)

    @property
    def settings(self) -> MixSettings:
        """What happens to an image; may be replaced at any time."""
        return self._settings

    @settings.setter
    def settings(self, value: MixSettings) -> None:
        self._engine.check_settings(value)
        self._settings = value

    @property
    def p(self) -> float | Tensor:
        """Share of images that are augmented: one number, or (K,) on the CPU."""
        p = self.settings.p
        if isinstance(p, tuple):
            return torch.tensor(p, dtype=torch.float32, device="cpu")
        return p

    @p.setter
    def p(self, value: float | Sequence[float] | Tensor) -> None:
        self.settings = MixSettings.merge(self.settings, {"p": value})

    @property
    def class_names(self) -> tuple[str, ...]:
        """The checkpoint's class names in label order; empty if it has none."""
        return self._engine.class_names

    @property
    def num_classes(self) -> int:
        """The checkpoint's number of classes K."""
        return self._engine.num_classes

    @property
    def engine(self) -> Engine:
        """The flow and the PCA; other `NFAugment` modules can share it."""
        return self._engine

    @property
    def rank(self) -> int:
        """Number r of axes."""
        return self._engine.rank

    def memory_range(self, label: int) -> tuple[int, int]:
        """Rows [start, end) of a class in the memory."""
        offsets = self._engine.on(self._engine.device)[1].offsets
        return int(offsets[label]), int(offsets[label + 1])

    def check_classes(
        self, classes: Mapping[str, int] | Iterable[str] | Any, *, required: bool = True
    ) -> None:
        """Check that class names and their order are the checkpoint's.

        A different order goes unnoticed otherwise, and mixes images of different classes.

        Args:
            classes: A `class_to_idx`, names in label order, or a data set with either.
            required: Whether missing names are an error.

        Raises:
            ValueError: The names or their order differ, or required names are missing.
        """
        names = dataset_classes(classes, required=required)
        if required or (names and self.class_names):
            check_class_names(names, self.class_names)

    @property
    def normalization(self) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
        """Mean and std that images are normalized by, one value per channel, or None."""
        mean, std = self._normalization.mean, self._normalization.std
        return None if mean is None or std is None else (mean, std)

    def set_normalization(
        self, mean: Sequence[float] | float | None, std: Sequence[float] | float | None
    ) -> None:
        """Set the mean and std of the next batches; None for images in [0, 1]."""
        self._normalization = Normalization(mean, std, self._engine.codec.channels)

    def forward(
        self,
        *inputs: Any,
        images: Tensor | None = None,
        labels: Tensor | None = None,
        params: NFAParams | None = None,
        return_params: bool = False,
    ) -> Any:
        """Augment (images, labels), a sample that contains them, or a mapping.

        Args:
            inputs: Images and labels, or one sample.
            images: Images, if not in `inputs`.
            labels: Labels, if not in `inputs`.
            params: Draws of an earlier call to replay. If the labels differ, a partner of another
                class counts as no partner.
            return_params: Also return the draws, or None while augmentation is off.

        Returns:
            What `inputs` holds, with augmented images; (images, labels) for keyword arguments. With
            `return_params` the pair (result, params).

        Raises:
            ValueError: The sample, the images or the labels are not valid.
        """
        inputs += tuple(x for x in (images, labels) if x is not None)
        if not inputs:
            raise ValueError("NFAugment takes images and labels; got no arguments")
        run = self._run
        if torch.compiler.is_compiling():  # one graph break instead of one per draw and check
            run = torch.compiler.disable(run)
        sample, params = run(inputs if len(inputs) > 1 else inputs[0], params)
        return (sample, params) if return_params else sample

    @torch.no_grad()
    def _run(self, sample: Any, params: NFAParams | None) -> tuple[Any, NFAParams | None]:
        if not (self.training and self.enabled):
            return sample, None
        found, labels = images_and_labels(sample, self.labels_getter)
        if are_names(labels):
            labels = index_names(labels, self.class_names)
        batch = self._prepare(found.as_subclass(Tensor), labels)
        if params is None:
            params = self._draw(batch.labels, batch.usable)
        params = params.to(found.device)
        self._engine.check_params(params, len(found))
        return replace_images(sample, found, self._mix(batch, params)), params

    def make_params(
        self,
        labels: Tensor | Sequence[str],
        *,
        device: torch.device | None = None,
        generator: torch.Generator | None = None,
    ) -> NFAParams:
        """Draw images, partners, weights and noise for a batch, as `forward` does.

        Args:
            labels: Labels of the batch, or their class names.
            device: Device of the result; that of the labels by default.
            generator: CPU generator to draw from; `self.generator` by default.
        """
        given: Any = labels
        if are_names(given):
            given = index_names(given, self.class_names)
        index, usable = class_indices(given, self.num_classes, smoothing=self.smoothing)
        device = given.device if device is None else device
        return self._draw(to_device(index, device), to_device(usable, device), generator)

    def _draw(
        self, labels: Tensor, usable: Tensor, generator: torch.Generator | None = None
    ) -> NFAParams:
        engine = self._engine
        return make_params(
            labels,
            usable,
            self.settings,
            rank=engine.rank,
            dim=engine.config.dim,
            offsets=engine.on(labels.device)[1].offsets if engine.has_memory else None,
            rows=engine.memory_rows,
            generator=self.generator if generator is None else generator,
        )

    @torch.no_grad()
    def variants(
        self, images: Tensor, labels: Tensor, generators: Iterable[torch.Generator]
    ) -> Iterator[Tensor]:
        """Yield the images that a call with each generator would make; encode them only once."""
        batch = self._prepare(images, labels)
        with torch.autocast(images.device.type, enabled=False):
            encoded = self._engine.encode(
                batch.images, batch.labels, self._normalization, self.settings, batch.usable
            )
        for generator in generators:
            params = self._draw(batch.labels, batch.usable, generator)
            yield self._mix(batch, params, encoded)

    def _prepare(self, images: Tensor, labels: Tensor) -> _Batch:
        check_images(images, self._engine.codec.channels)
        index, usable = class_indices(labels, self.num_classes, smoothing=self.smoothing)
        if len(labels) != len(images):
            raise ValueError(f"there are {len(images)} images and {len(labels)} labels")
        reads = _reads_values(images.device, self._batches)
        if reads:
            check_usable(labels, usable, self.num_classes, smoothing=self.smoothing)
            check_range(images, self._normalization)
        self._batches += 1
        finite = all_finite(images)
        new = images.clone()
        if images.is_floating_point() and not (reads and bool(finite.all())):
            new.copy_(replace_non_finite(images, self._normalization))
        index, usable = (to_device(x, images.device) for x in (index, usable))
        return _Batch(new, index, usable & finite, finite)

    def _mix(self, batch: _Batch, params: NFAParams, encoded: Encoded | None = None) -> Tensor:
        """The batch under these draws; `encoded` holds all its images, if they are encoded."""
        self._counters.add({"seen": len(batch.images), "not_finite": ~batch.finite})
        if not len(taken := params.index):
            return batch.images
        chosen, usable = params.chosen & batch.finite[taken], batch.usable[taken]
        draws = dataclasses.replace(params, chosen=chosen)
        with torch.autocast(batch.images.device.type, enabled=False):
            own = self._normalization, self.settings
            part = encoded.rows(taken) if encoded is not None else self._engine.encode(
                batch.images[taken], batch.labels[taken], *own, draws.needed(), draws.changing()
            )  # fmt: skip
            images, found = self._engine.mix(part, usable, draws, *own)
        counted = (*outcomes(self.settings), "corrected")
        self._counters.add({name: found[name] for name in counted})
        new = batch.images if encoded is None else batch.images.clone()
        return new.index_copy_(0, taken, images)

    def stats(self) -> dict[str, int]:
        """Counts of images since the start or `reset_stats`; synchronizes an accelerator.

        `seen`: all images. Of the images chosen for augmentation: `applied`, `no_partner`,
        `gated` (outside the class's range), `fell_back` (result not finite) and, with
        keep="consistent", `inconsistent` (assigned to another class). With noise an image without
        a partner counts as applied. Of all images: `not_finite` (NaN or infinite pixels), which
        count as nothing else. Of the applied: `corrected`, images unlike those that the flow was
        trained on (max|z| > 32), whose round-trip error was removed; on an accelerator they fall
        back. Each process has its own counts, also a data-loader worker.
        """
        return self._counters.read(("seen", *outcomes(self.settings), "not_finite", "corrected"))

    def reset_stats(self) -> None:
        """Set all counts to zero."""
        self._counters.reset()

    def extra_repr(self) -> str:
        codec, shown = self._engine.codec, vars(self.settings) | {"classes": self.num_classes}
        shown |= {"rank": self.rank, "size": codec.image_size, "channels": codec.channels}
        shown |= {"enabled": self.enabled}
        return ", ".join(f"{name}={_short(value)}" for name, value in shown.items())


class _Batch(NamedTuple):
    """A batch with checked values, finite pixels and class indices."""

    images: Tensor
    labels: Tensor
    usable: Tensor
    finite: Tensor


def _setting(name: str) -> property:
    def read(nfa: NFAugment) -> Any:
        return getattr(nfa.settings, name)

    def write(nfa: NFAugment, value: Any) -> None:
        nfa.settings = MixSettings.merge(nfa.settings, {name: value})

    return property(read, write, doc=f"The setting `{name}` (see `MixSettings`).")


for _name in MixSettings.names():
    if not hasattr(NFAugment, _name):
        setattr(NFAugment, _name, _setting(_name))


def _short(value: object) -> str:
    if isinstance(value, tuple) and isinstance(value[0], float):
        return "per class"
    return f"{value:g}" if isinstance(value, float) else repr(value)


def _reads_values(device: torch.device, batches: int) -> bool:
    return device.type == "cpu" or batches < _CHECKED_BATCHES or batches % _CHECK_EVERY == 0
