"""NFAugment: normalizing-flow augmentation of batches, as a transform for training loops."""

from __future__ import annotations

import dataclasses
import functools
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from multiprocessing.context import get_spawning_popen
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, ParamSpec, TypeVar, overload

import torch
from torch import Tensor, nn

from ..checkpoint.autoencoder import AutoencoderSource
from ..checkpoint.resolve import builtin_names
from ..data.classes import check_same_classes, dataset_classes
from ..data.sources.layout import natural_key
from ..io.device import is_read_at_once, to_device
from .config import Mix, MixConfig, Partners, check_given_once
from .counters import Counters, Outcome, SharedValue
from .engine import Encoded, Engine, not_fitted
from .params import NFAParams, check_params
from .pixels import Normalization, all_finite, check_images, check_range
from .samples import (
    GivenLabels,
    Labels,
    are_names,
    as_labels,
    check_usable,
    images_and_labels,
    parse_labels,
    replace_images,
)

__all__ = ["NFAParams", "NFAugment"]

_FIRST_BATCHES = 8  # of which an accelerator's values are checked, which makes it wait
_EVERY_BATCHES = 256  # and of these, later
_Options = ParamSpec("_Options")
_Labels = TypeVar("_Labels")
_Sample = TypeVar("_Sample")


def _config_or_keywords(init: Callable[_Options, None]) -> Callable[_Options, None]:
    """`NFAugment.__init__`, which refuses single settings beside `config`.

    Only a wrapper sees which keywords a caller wrote: one may equal its default.
    """
    names = [field.name for field in dataclasses.fields(MixConfig)]

    @functools.wraps(init)
    def checked(*inputs: _Options.args, **options: _Options.kwargs) -> None:
        single = {name: options[name] for name in names if name in options}
        config: Any = options.get("config")
        check_given_once(config, single)
        init(*inputs, **options)

    return checked


class NFAugment(nn.Module):
    """Replace images by variants: each is mixed with another of its class, a partner.

        a = U^T (z1 - m),  b = U^T (z2 - m),  w ~ Beta(alpha, alpha),
        z' = z1 + U (strength * w * (b - a)) + noise * e,  e ~ N(0, I)

    z1 is the latent of the image, z2 that of the partner, m the mean of their class and U its axes.
    The variant is z' decoded. With mix="regions", w is a smooth mask over the positions of the
    latents, in [0, 1]:

        z' = z1 + w * (z2 - z1) + noise * e

    z2 is a latent of the batch, or m + U b with b from the memory: the partner itself in classes of
    at most `rank` + 1 images, which the axes span, and a blurred one in larger classes. The method
    is that of Enescu & Sahbi, BMVC 2024 (https://hal.science/hal-04767310v1).

    ceil(p*B) images drawn at random are encoded. An image stays unchanged, and is counted in
    `stats`, if it has no partner, if it or its variant lies too far from its class (the gate), if
    it is unlike the images that the flow was trained on, or if the variant is not finite. Labels do
    not change. At another size than the flow's, in floating point, and with an autoencoder, only
    the change is added to the image: finer detail stays, unless the change takes away what it
    belongs to. Apply NFA after flips and crops, and before mixup and CutMix.

    The module has no parameters, buffers or `state_dict` entries, and follows the device of the
    images. `eval()` and `enabled = False` turn it off. Settings are attributes, too: `nfa.p = 0.3`.
    Values of labels and images are checked in every batch on the CPU. On an accelerator, where this
    synchronises, they are checked in the first 8 batches and every 256th; in others, images with
    unusable labels stay unchanged.

    Shape:
        Images (B, C, H, W) of any size: uint8, floating point in [0, 1], or normalized by `mean`
        and `std`. Labels (B,), integers or names of classes. The result has the images' shape,
        type, device and memory format, and is a new tensor. Images with NaN or infinite pixels
        stay unchanged, with a warning.

    Args:
        checkpoint: A fitted `Checkpoint`, its folder, "owner/name" on the Hub, "builtin:NAME", or
            the `engine` of another augmentation.
        p, alpha, mix, partners, strength, noise, axes, gate: How images are mixed: see `MixConfig`.
        config: All of these at once; none of them may then be given.
        mean: Mean that images are normalized by, a number or one per channel; ignored for uint8.
        std: Standard deviation that images are normalized by, like `mean`.
        generator: CPU generator to draw from; None for torch's. The same state gives the same
            batch. Ranks of a distributed run and data-loader workers draw different numbers;
            spawned workers know their rank if RANK is set, as `torchrun` does.
        labels_getter: Finds the labels in a sample, as in torchvision's `MixUp`. By default, and
            with its "default", they are the second item, or the value of a key such as "labels" or
            "target".
        cuda_graphs: Whether encode and decode are captured as CUDA graphs for the constant number
            of images, ceil(p*B), and replayed, which spares the CPU most launches of a batch. Calls
            are plain on other devices, for more than four batch sizes, and after a capture failed,
            which warns. Written against torch's documentation: it has not run on a GPU yet.

    Raises:
        ValueError: A setting is out of range, or the checkpoint is not fitted, or lacks the memory
            that `partners` asks for.

    Example:
        >>> import torch
        >>> import nfaug
        >>> digits = nfaug.open_dataset("digits", per_class=10)
        >>> nfa = nfaug.NFAugment(nfaug.fit("builtin:pixels", digits, progress=False), p=0.5)
        >>> images, labels = next(iter(torch.utils.data.DataLoader(digits, batch_size=32)))
        >>> new_images, labels = nfa(images, labels)
        >>> new_images.shape, new_images.dtype
        (torch.Size([32, 1, 8, 8]), torch.uint8)
        >>> nfa.stats()["seen"]
        32
    """

    @_config_or_keywords
    def __init__(
        self,
        checkpoint: Any,
        *,
        p: float | Sequence[float] | Tensor = MixConfig.p,
        alpha: float = MixConfig.alpha,
        mix: Mix = MixConfig.mix,
        partners: Partners = MixConfig.partners,
        strength: float = MixConfig.strength,
        noise: float = MixConfig.noise,
        axes: int | None = MixConfig.axes,
        gate: bool | float | None = MixConfig.gate,
        config: MixConfig | None = None,
        mean: Sequence[float] | float | None = None,
        std: Sequence[float] | float | None = None,
        generator: torch.Generator | None = None,
        labels_getter: Callable[[Any], Any] | Literal["default"] | None = None,
        cuda_graphs: bool = False,
    ) -> None:
        super().__init__()
        shares: Any = p
        single = MixConfig(
            p=shares, alpha=alpha, mix=mix, partners=partners, strength=strength, noise=noise,
            axes=axes, gate=gate,
        )  # fmt: skip
        self.engine = Engine.of(checkpoint)
        if cuda_graphs:
            self.engine = self.engine.with_cuda_graphs()
        self.classes, self.num_classes = self.engine.classes, self.engine.num_classes
        self.config = single if config is None else config
        if generator is not None and generator.device.type != "cpu":
            raise ValueError(f"generator must be on the CPU; got one on {generator.device}")
        self.generator = generator
        self.labels_getter = None if labels_getter == "default" else labels_getter
        self.normalization = Normalization(mean, std, self.engine.codec.channels)
        self._switch = SharedValue()
        self._enabled = True  # the same, for compilers, which cannot read shared memory
        self._batches = 0
        self._unchecked = self.engine.source
        self._warned_of_pixels = False
        self._counters = Counters()

    @classmethod
    def from_pretrained(
        cls,
        checkpoint: str | Path,
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        force_download: bool = False,
        autoencoder: AutoencoderSource | None = None,
        **options: Any,
    ) -> NFAugment:
        """Load a checkpoint with `nfaug.load`, and make an augmentation of it.

        Args:
            checkpoint: A folder that `nfaug fit` wrote, "owner/name" or "owner/name@revision" on
                the Hub, or "builtin:NAME".
            revision, token, cache_dir, local_files_only, force_download, autoencoder: See
                `nfaug.load`.
            options: Keyword arguments of `NFAugment`, such as `p`.

        Returns:
            The augmentation.

        Raises:
            ValueError: The checkpoint is not fitted to classes, or see `NFAugment`.
            CheckpointError, FileNotFoundError, nfaug.hub.HubError: See `nfaug.load`.

        Example:
            >>> nfaug.NFAugment.from_pretrained("builtin:fashion-mnist", p=0.3).num_classes
            10
        """
        from ..checkpoint.checkpoint import load  # a flow in memory needs no reader

        loaded = load(
            checkpoint,
            revision=revision,
            token=token,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
            force_download=force_download,
            autoencoder=autoencoder,
        )
        if loaded.pca is None:
            raise not_fitted(str(checkpoint), repr(str(checkpoint)))
        return cls(loaded, **options)

    @property
    def enabled(self) -> bool:
        """Whether images are augmented; a change also takes effect in running workers."""
        return float(self._switch) > 0

    @enabled.setter
    def enabled(self, value: bool) -> None:
        self._switch.set(value)
        self._enabled = bool(value)

    @property
    def config(self) -> MixConfig:
        """What happens to an image; may be replaced at any time."""
        return self._config

    @config.setter
    def config(self, value: MixConfig) -> None:
        if isinstance(value.p, tuple) and len(value.p) != self.num_classes:
            raise ValueError(
                f"p must be a number, or one for each of {self.num_classes} classes; got {value.p}"
            )
        if value.partners == "memory" and not self.engine.has_memory:
            raise ValueError(f"partners={value.partners!r} needs a memory, which nfaug fit makes")
        self._config = value

    def _change(self, **changes: Any) -> None:
        self.config = dataclasses.replace(self.config, **changes)

    # The settings one by one, so that editors and type checkers see them.

    @property
    def p(self) -> float | tuple[float, ...]:
        """Share of the images that are augmented, or one for each class (see `MixConfig`)."""
        return self.config.p

    @p.setter
    def p(self, value: float | Sequence[float] | Tensor) -> None:
        self._change(p=value)

    @property
    def alpha(self) -> float:
        """Parameter of the Beta distribution of the weights (see `MixConfig`)."""
        return self.config.alpha

    @alpha.setter
    def alpha(self, value: float) -> None:
        self._change(alpha=value)

    @property
    def mix(self) -> Mix:
        """How two latents are mixed (see `MixConfig`)."""
        return self.config.mix

    @mix.setter
    def mix(self, value: Mix) -> None:
        self._change(mix=value)

    @property
    def partners(self) -> Partners:
        """Where partners come from (see `MixConfig`)."""
        return self.config.partners

    @partners.setter
    def partners(self, value: Partners) -> None:
        self._change(partners=value)

    @property
    def strength(self) -> float:
        """Factor of the weights (see `MixConfig`)."""
        return self.config.strength

    @strength.setter
    def strength(self, value: float) -> None:
        self._change(strength=value)

    @property
    def noise(self) -> float:
        """Standard deviation of the noise on latents (see `MixConfig`)."""
        return self.config.noise

    @noise.setter
    def noise(self, value: float) -> None:
        self._change(noise=value)

    @property
    def axes(self) -> int | None:
        """Number of axes that are mixed; None for all (see `MixConfig`)."""
        return self.config.axes

    @axes.setter
    def axes(self, value: int | None) -> None:
        self._change(axes=value)

    @property
    def gate(self) -> bool | float | None:
        """Radius of the class's range; None for no gate (see `MixConfig`)."""
        return self.config.gate

    @gate.setter
    def gate(self, value: bool | float | None) -> None:
        self._change(gate=value)

    def check_classes(
        self, classes: Mapping[str, int] | Iterable[str] | Any, *, required: bool = True
    ) -> None:
        """Raise ValueError unless class names and their order are those of the checkpoint.

        Call it once if the checkpoint was fitted elsewhere: a different order goes unnoticed
        otherwise, and mixes images of different classes.

        Args:
            classes: A `class_to_idx`, names in label order, or a dataset with either.
            required: Whether missing names are an error.

        Raises:
            ValueError: The names differ, or there are none.

        Example:
            >>> nfa.check_classes(digits)
            >>> nfa.check_classes(["cat", "dog"])
            Traceback (most recent call last):
            ...
            ValueError: ...
        """
        names = dataset_classes(classes, required=required)
        if required or (names and self.classes):
            check_same_classes(names, self.classes)
            self._unchecked = ""

    def _warn_of_classes(self, labels: Any) -> None:
        """Warn once of classes that are likely others, unless something compared them."""
        if not self._unchecked or are_names(labels):  # names of classes need no order
            return
        source = self._unchecked
        self._unchecked = ""
        names = [*self.classes]
        if source in builtin_names():
            shown = ", ".join(f"{label} {name}" for label, name in enumerate(names[:3]))
            warnings.warn(
                f"{source} has classes of its own ({shown}, ...), and mixes images along their "
                f"axes. For other classes pass nfaug.fit({source!r}, dataset) in its place; for "
                "these, call nfa.check_classes(dataset) first",
                stacklevel=2,
            )
        elif names != sorted(names) and names == sorted(names, key=natural_key):
            warnings.warn(
                f"the classes of {source} are in natural order, as timm has them; torchvision's "
                "ImageFolder has 10 before 9, and B before a: pass nfa.check_classes your names",
                stacklevel=2,
            )

    if TYPE_CHECKING:  # torch's own has no types

        @overload
        def __call__(
            self,
            images: Tensor,
            labels: _Labels,
            /,
            *,
            params: NFAParams | None = None,
            return_params: Literal[False] = False,
        ) -> tuple[Tensor, _Labels]: ...

        @overload
        def __call__(
            self,
            sample: _Sample,
            /,
            *,
            params: NFAParams | None = None,
            return_params: Literal[False] = False,
        ) -> _Sample: ...

        @overload
        def __call__(
            self,
            images: Tensor,
            labels: _Labels,
            /,
            *,
            params: NFAParams | None = None,
            return_params: Literal[True],
        ) -> tuple[tuple[Tensor, _Labels], NFAParams | None]: ...

        @overload
        def __call__(
            self,
            sample: _Sample,
            /,
            *,
            params: NFAParams | None = None,
            return_params: Literal[True],
        ) -> tuple[_Sample, NFAParams | None]: ...

        @overload
        def __call__(self, *inputs: Any, **options: Any) -> Any: ...

        def __call__(self, *inputs: Any, **options: Any) -> Any: ...

    def forward(
        self,
        *inputs: Any,
        params: NFAParams | None = None,
        return_params: bool = False,
    ) -> Any:
        """Replace images by variants, in a batch of images and labels or in a sample of both.

        Args:
            inputs: Images (B, C, H, W) and labels (B,), or one sample: a tuple, a list or a mapping
                such as {"image": images, "label": labels}.
            params: Draws of an earlier call to replay, with this checkpoint or one with as many
                axes and as large a memory. If the labels differ, a partner of another class counts
                as no partner.
            return_params: Also return the draws, or None while augmentation is off.

        Returns:
            What `inputs` holds, with new images; with `return_params`, a pair of this and the
            draws.

        Raises:
            ValueError: The images have another form or range, the labels are no classes of the
                checkpoint, their numbers differ, or `params` were drawn for another number of
                images or another checkpoint.

        Example:
            >>> sample = nfa({"image": images, "label": labels})
            >>> sorted(sample)
            ['image', 'label']
            >>> _, params = nfa(images, labels, return_params=True)
            >>> first, _ = nfa(images, labels, params=params)
            >>> again, _ = nfa(images, labels, params=params)
            >>> torch.equal(first, again)
            True
        """
        sample = inputs[0] if len(inputs) == 1 else inputs
        if not self._is_on():
            params = None
        elif torch.compiler.is_compiling():  # one graph break instead of one per draw and check
            sample, params = torch.compiler.disable(self._run)(sample, params)
        else:
            sample, params = self._run(sample, params)
        return (sample, params) if return_params else sample

    def _is_on(self) -> bool:
        """Whether images are augmented. A compiled graph follows the switch of its process."""
        if torch.compiler.is_compiling():
            return self.training and self._enabled
        return self.training and self.enabled

    @torch.no_grad()
    def _run(self, sample: Any, params: NFAParams | None) -> tuple[Any, NFAParams | None]:
        if not self.enabled:  # switched off in another process, which a compiled graph cannot see
            return sample, None
        images, given = images_and_labels(sample, self.labels_getter)
        self._warn_of_classes(given)
        labels = self._parse(given, images.device)
        batch = self._prepare(images, labels)
        if params is None:
            params = self._draw(labels)
        else:
            params = params.to(images.device)
        check_params(params, len(images), self.engine.on(images.device)[1])
        return replace_images(sample, images, self._mix(batch, params)), params

    @torch.no_grad()
    def variants(
        self, images: Tensor, labels: GivenLabels, generators: Iterable[torch.Generator]
    ) -> Iterator[Tensor]:
        """Yield what a call with each generator would make of the images; encode them once.

        Args:
            images: (B, C, H, W), as for a call.
            labels: (B,), as for a call.
            generators: CPU generators, one for each batch of variants.

        Yields:
            The images of each call, (B, C, H, W).

        Example:
            >>> generators = [torch.Generator().manual_seed(seed) for seed in (0, 1)]
            >>> [batch.shape for batch in nfa.variants(images, labels, generators)]
            [torch.Size([32, 1, 8, 8]), torch.Size([32, 1, 8, 8])]
        """
        parsed = self._parse(labels, images.device)
        batch = self._prepare(images, parsed)
        with torch.autocast(images.device.type, enabled=False):
            encoded = self._encode(batch, torch.arange(len(images), device=images.device))
        for generator in generators:
            params = self._draw(parsed, generator)
            yield self._mix(batch._replace(images=batch.images.clone()), params, encoded)

    def make_params(
        self, labels: GivenLabels, *, generator: torch.Generator | None = None
    ) -> NFAParams:
        """Draw images, partners, weights and noise for labels, as a call does.

        Args:
            labels: (B,), integers or names of classes.
            generator: CPU generator to draw from; None for that of the augmentation.

        Returns:
            The draws, to pass as `params`.

        Example:
            >>> params = nfa.make_params(labels, generator=torch.Generator().manual_seed(0))
            >>> len(params.index)
            16
        """
        return self._draw(self._parse(labels), generator)

    def _parse(self, labels: Any, device: torch.device | None = None) -> Labels:
        given = as_labels(labels, self.classes)
        if device is not None:
            given = to_device(given, device)
        return parse_labels(given, self.num_classes)

    def _draw(self, labels: Labels, generator: torch.Generator | None = None) -> NFAParams:
        _, pca = self.engine.on(labels.index.device)
        source = generator or self.generator
        return self.config.draw(labels.index, labels.usable, pca, source)

    def _prepare(self, images: Tensor, labels: Labels) -> _Batch:
        """Check a batch and copy its images."""
        check_images(images, self.engine.codec.channels)
        images = images.as_subclass(Tensor)
        if len(labels.index) != len(images):
            raise ValueError(f"there are {len(images)} images and {len(labels.index)} labels")
        reads = checks_values(images.device, self._batches)
        if reads:
            check_usable(labels, self.num_classes)
            check_range(images, self.normalization)
        self._batches += 1
        finite = all_finite(images)
        if reads and not self._warned_of_pixels and not bool(finite.all()):
            self._warned_of_pixels = True
            warnings.warn(
                "images hold NaN or infinite pixels: they stay unchanged, and are counted in "
                "stats() as not_finite",
                stacklevel=2,
            )
        return _Batch(images.clone(), labels.index, labels.usable & finite, finite)

    def _encode(self, batch: _Batch, index: Tensor, chosen: Tensor | None = None) -> Encoded:
        gate: Any = self.config.gate  # a number, or None
        return self.engine.encode(
            batch.images,
            index,
            batch.labels[index],
            batch.usable[index],
            self.normalization,
            gate,
            chosen,
        )

    def _mix(self, batch: _Batch, params: NFAParams, encoded: Encoded | None = None) -> Tensor:
        """Write into the batch's images and return them; `encoded` holds all, if it is given."""
        images = batch.images
        taken = params.index
        codes = torch.where(batch.finite, Outcome.UNCHOSEN.value, Outcome.NOT_FINITE.value)
        if len(taken):
            chosen = params.chosen & batch.finite[taken]
            params = dataclasses.replace(params, chosen=chosen)
            with torch.autocast(images.device.type, enabled=False):
                if encoded is None:
                    part = self._encode(batch, taken, chosen)
                else:
                    part = encoded.rows(taken)
                outcome = self.engine.mix(part, params, images)
            codes.index_copy_(0, taken, torch.where(chosen, outcome, codes[taken]))
        self._counters.add(codes)
        return images

    def stats(self) -> dict[str, int]:
        """Count the images since the start; on an accelerator this synchronises.

        Returns:
            The counts by name, with images of data-loader workers. `seen` are all images,
            `not_finite` those with NaN or infinite pixels. Of the images chosen for augmentation,
            `applied` were replaced by a variant; the others stayed unchanged: `no_partner` (no
            other image of the class; with noise these are applied), `gated` (they or their variants
            lie too far from their class), `far` (unlike the flow's training images, max|z| > 32,
            where its round trip is not exact) and `fell_back` (the variant was not finite).

        Example:
            >>> sorted(nfa.stats())
            ['applied', 'far', 'fell_back', 'gated', 'no_partner', 'not_finite', 'seen']
        """
        return self._counters.read()

    def __getstate__(self) -> dict[str, Any]:
        state = dict(self.__dict__)
        if self.generator is not None and get_spawning_popen() is not None:
            # As bytes: torch pickles a temporary tensor, which is gone when a worker opens it.
            content = self.generator.get_state().numpy().tobytes()
            state["generator"] = (type(self.generator), content)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        stored = state["generator"]
        if isinstance(stored, tuple):
            kind, content = stored
            self.generator = kind()
            self.generator.set_state(torch.frombuffer(bytearray(content), dtype=torch.uint8))

    def extra_repr(self) -> str:
        return (
            f"{self.config}, num_classes={self.num_classes}, rank={self.engine.rank}, "
            f"image_size={self.engine.codec.image_size}, enabled={self.enabled}"
        )


class _Batch(NamedTuple):
    """A batch with checked values and class indices, and whether the pixels are finite."""

    images: Tensor
    labels: Tensor
    usable: Tensor
    finite: Tensor


def checks_values(device: torch.device, batches: int) -> bool:
    """Whether the values of a batch are checked, after so many batches before it."""
    often = batches < _FIRST_BATCHES or batches % _EVERY_BATCHES == 0
    return often or is_read_at_once(device)
