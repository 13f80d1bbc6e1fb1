"""NFAugment: normalizing-flow augmentation of batches, as a transform for training loops."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from multiprocessing.context import get_spawning_popen
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, overload

import torch
from torch import Tensor, nn

from ..checkpoint.autoencoder import AutoencoderSource
from ..data.classes import check_same_classes, dataset_classes
from ..run.device import is_read_at_once, to_device
from .config import MixConfig, MixSettings, one_config
from .counters import Counters, SharedValue, outcomes
from .draws import Draws, draw
from .engine import not_fitted
from .mixing import Batch, Encoded
from .open_engine import engine_of, order_warning
from .pixels import Normalization, are_finite, check_images, check_range, extremes, seem_raw
from .samples import (
    GivenLabels,
    are_names,
    as_labels,
    check_names,
    check_usable,
    images_and_labels,
    parse_labels,
    replace_images,
)

if TYPE_CHECKING:
    from typing_extensions import Unpack

_FIRST_BATCHES = 8  # of which an accelerator's values are checked, which makes it wait
_EVERY_BATCHES = 256  # and of these, later
_IN_CONFIG = {field.name for field in dataclasses.fields(MixConfig)} - {"p"}
_Labels = TypeVar("_Labels")
_Sample = TypeVar("_Sample")


class NFAugment(nn.Module):
    """Replace images by variants: each is mixed with another of its class, a partner.

    `p` (0.5 by default) is the probability that an image is replaced. `mix` chooses the weights w:
    "axis" (the default) draws one for each axis of the class, "pair" one for the image, and
    "regions" one for each position. `MixConfig` has all settings. The variant is z' decoded:

        a = U^T (z1 - m),  b = U^T (z2 - m),  w ~ Beta(alpha, alpha),
        z' = z1 + U (strength * w * (b - a)) + noise * e,  e ~ N(0, I)

    z1 is the latent of the image, z2 that of the partner, m the mean of their class and U its axes.
    With mix="regions", w is a smooth mask over the positions of the latents, in [0, 1]:

        z' = z1 + w * (z2 - z1) + noise * e

    z2 is a latent of the batch, or m + U b with b from the memory: the partner itself in classes of
    at most `rank` + 1 images, which the axes span, and a blurred one in larger classes. The method
    is after Enescu & Sahbi, BMVC 2024 (https://hal.science/hal-04767310v1): a weight for each axis,
    the strength and the gate are ours. mix="pair" with strength=1 is their mixup as it is written.

    ceil(p*B) images drawn at random are encoded. An image stays unchanged, and is counted in
    `stats`, if it has no partner, if it or its variant lies too far from its class (the gate), if
    it is unlike the images that the flow was trained on, or if the variant is not finite. Labels do
    not change. At another size than the flow's, with an autoencoder, and in floating point with a
    flow, only the change is added to the image: finer detail stays, unless the change takes away
    what it belongs to. Apply NFA after flips and crops, and before mixup and CutMix.

    The module has no parameters, buffers or `state_dict` entries, and follows the device of the
    images. `eval()` and `enabled = False` turn it off. `nfa.p = 0.3` and `nfa.config = ...` change
    settings; data-loader workers that run keep theirs, and only `enabled` reaches them. Values of
    labels and images are checked in every batch on the CPU. On an accelerator, where this
    synchronises, they are checked in the first 8 batches and every 256th; in others, images with
    unusable labels stay unchanged.

    Shape:
        Images (B, C, H, W) of any size: uint8, floating point in [0, 1], or normalized by `mean`
        and `std`. If the aspect ratio differs from the fit's, only the centre of the image changes.
        Labels (B,), integers or names of classes, or one-hot rows (B, K). The result has the
        images' shape, type, device and memory format, and is a new tensor. Images with NaN or
        infinite pixels stay unchanged, with a warning.

    Args:
        checkpoint: A fitted `Checkpoint`, its folder, "owner/name" on the Hub, "builtin:NAME", or
            the `engine` of another augmentation.
        config: How images are mixed.
        mean: Mean that images are normalized by, a number or one per channel; ignored for uint8.
        std: Standard deviation that images are normalized by, like `mean`.
        generator: CPU generator to draw from; None for torch's. The same state gives the same
            batch. Ranks of a distributed run and data-loader workers draw different numbers;
            spawned workers know their rank if RANK is set, as `torchrun` does.
        unchanged: Keys of samples, or positions in them, such as ["boxes"]. What they name may be
            anything, and stays as it is. Else only one number, text or short vector for each image
            may lie beside images and labels.
        labels_getter: Finds the labels in a sample, as in torchvision's `MixUp`. None for the
            second item, or the value of a key such as "labels" or "target".
        settings: Fields of `MixConfig` as keywords, such as `p=0.5`, if `config` is not given.

    Raises:
        ValueError: A setting is out of range or given twice, or the checkpoint is not fitted, or
            lacks the memory that `partners` asks for.
        TypeError: There is no such setting.

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

    def __init__(
        self,
        checkpoint: Any,
        *,
        config: MixConfig | None = None,
        mean: Sequence[float] | float | None = None,
        std: Sequence[float] | float | None = None,
        generator: torch.Generator | None = None,
        labels_getter: Callable[[Any], Any] | None = None,
        unchanged: Collection[str | int] = (),
        **settings: Unpack[MixSettings],
    ) -> None:
        super().__init__()
        config = one_config(config, settings)
        self.engine = engine_of(checkpoint)
        self.classes, self.num_classes = self.engine.classes, self.engine.num_classes
        self.config = config
        if generator is not None and not isinstance(generator, torch.Generator):
            raise ValueError(f"generator must be a torch.Generator; got {generator!r:.80}")
        if generator is not None and generator.device.type != "cpu":
            raise ValueError(f"generator must be on the CPU; got one on {generator.device}")
        if labels_getter is not None and not callable(labels_getter):
            raise ValueError(f"labels_getter must be a function or None; got {labels_getter!r:.80}")
        self.generator = generator
        self.labels_getter = labels_getter
        self.unchanged = check_names(unchanged)
        self.normalization = Normalization(mean, std, self.engine.codec.channels)
        self._switch = SharedValue()
        self._enabled = True  # the same, for compilers, which cannot read shared memory
        self._batches = 0
        self._order_known = False  # of the classes: they were compared, or there was a warning
        self._warned_of_order = SharedValue(0.0)
        self._warned_of_pixels = SharedValue(0.0)
        self._warned_of_raw = SharedValue(0.0)
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
            gaussians=False,
        )
        if loaded.pca is None:
            raise not_fitted(str(checkpoint), repr(str(checkpoint)))
        return cls(loaded, **options)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _IN_CONFIG:  # a module takes any attribute, and this one would change nothing
            raise AttributeError(
                f"{name} is a setting: assign nfa.config = dataclasses.replace(nfa.config, "
                f"{name}={value!r})"
            )
        super().__setattr__(name, value)

    @property
    def enabled(self) -> bool:
        """Whether images are augmented; a change also takes effect in running workers.

        All processes share it that were started with this object, such as those of
        `torch.multiprocessing.spawn`. Make an `NFAugment` in each rank.
        """
        return float(self._switch) > 0

    @enabled.setter
    def enabled(self, value: bool) -> None:
        self._switch.set(value)
        self._enabled = bool(value)

    @property
    def config(self) -> MixConfig:
        """What happens to an image; may be replaced, but not in workers that run."""
        return self._config

    @config.setter
    def config(self, value: MixConfig) -> None:
        if not isinstance(value, MixConfig):
            raise ValueError(f"config must be a nfaug.MixConfig; got {value!r:.200}")
        if isinstance(value.p, tuple) and len(value.p) != self.num_classes:
            raise ValueError(
                f"p must be one number, or {self.num_classes} numbers, one for each class; got "
                f"{value.p}"
            )
        if value.partners == "memory" and not self.engine.has_memory:
            raise ValueError(f"partners={value.partners!r} needs a memory, which nfaug fit makes")
        self._config = value

    @property
    def p(self) -> float | tuple[float, ...]:
        """The setting `p` of `config`; may be changed, but not in workers that run."""
        return self.config.p

    @p.setter
    def p(self, value: float | Sequence[float] | Tensor) -> None:
        given: Any = value
        self.config = dataclasses.replace(self.config, p=given)

    def check_classes(
        self, classes: Mapping[str, int] | Iterable[str] | Any, *, required: bool = True
    ) -> None:
        """Raise ValueError unless class names and their order are those of the checkpoint.

        Call it once if the checkpoint was fitted elsewhere: a different order goes unnoticed
        otherwise, and mixes images of different classes.

        Args:
            classes: A `class_to_idx`, names in label order, or a dataset with either.
            required: Whether missing names are an error. Without it, a checkpoint that was fitted
                to labels without names, whose classes are named "0", "1", ..., has none.

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
        numbers = [str(label) for label in range(len(self.classes))]
        nameless = list(self.classes) == numbers and not set(numbers).issuperset(names or ())
        if required or (names and self.classes and not nameless):
            check_same_classes(names, self.classes)
            self._order_known = True

    if TYPE_CHECKING:  # torch's own has no types

        @overload
        def __call__(self, images: Tensor, labels: _Labels, /) -> tuple[Tensor, _Labels]: ...

        @overload
        def __call__(self, sample: _Sample, /) -> _Sample: ...

        def __call__(self, *inputs: Any) -> Any: ...

    def forward(self, *inputs: Any) -> Any:
        """Replace images by variants, in a batch of images and labels or in a sample of both.

        Args:
            inputs: Images (B, C, H, W) and labels (B,), or one sample: a tuple, a list or a mapping
                such as {"image": images, "label": labels}.

        Returns:
            What `inputs` holds, with new images.

        Raises:
            ValueError: The images have another form or range, the labels are no classes of the
                checkpoint, or their numbers differ.

        Example:
            >>> sample = nfa({"image": images, "label": labels})
            >>> sorted(sample)
            ['image', 'label']
        """
        if inputs and isinstance(inputs[-1], Draws):
            raise ValueError("draws are replayed by nfa.replay(images, labels, draws)")
        return self._augmented(inputs, None)

    @overload
    def replay(
        self, images: Tensor, labels: _Labels, draws: Draws, /
    ) -> tuple[Tensor, _Labels]: ...

    @overload
    def replay(self, sample: _Sample, draws: Draws, /) -> _Sample: ...

    def replay(self, *inputs: Any) -> Any:
        """Replace images by variants as a call does, under draws that were made before.

        Args:
            inputs: What a call takes, and then the draws: those of `draw`, with this checkpoint or
                one with as many axes and as large a memory. If the labels differ, a partner of
                another class counts as no partner.

        Returns:
            What `inputs` holds but the draws, with new images.

        Raises:
            ValueError: As for a call; or the draws are of another number of images or of another
                checkpoint.

        Example:
            >>> draws = nfa.draw(labels)
            >>> first, _ = nfa.replay(images, labels, draws)
            >>> again, _ = nfa.replay(images, labels, draws)
            >>> torch.equal(first, again)
            True
        """
        kinds = [type(value).__name__ for value in inputs]
        if len(inputs) < 2 or not isinstance(inputs[-1], Draws):
            raise ValueError(
                "replay takes images, labels and draws, or a sample and draws (of nfa.draw); got "
                f"{kinds}"
            )
        return self._augmented(inputs[:-1], inputs[-1])

    def _augmented(self, inputs: Sequence[Any], draws: Draws | None) -> Any:
        """What a call returns for these inputs, under new draws if there are none."""
        sample = inputs[0] if len(inputs) == 1 else tuple(inputs)
        if torch.compiler.is_compiling():
            # A compiled graph follows the switch of its process.
            if not (self.training and self._enabled):
                return sample
            return torch.compiler.disable(self._run)(sample, draws)  # one graph break
        if not self.training:
            return sample
        return self._run(sample, draws)

    @torch.no_grad()
    def _run(self, sample: Any, draws: Draws | None) -> Any:
        if not self.enabled:  # also where it was switched off in another process
            return sample
        images, given = images_and_labels(sample, self.labels_getter, self.unchanged)
        if not are_names(given):  # which need no order
            warn_of_order(self)
        batch = self._checked(images, given)
        if draws is None:
            draws = self._draw(batch.labels, batch.ok)
        else:
            draws = draws.to(images.device)
            draws.check(len(images), self.engine.on(images.device)[1])
        return replace_images(sample, images, self._changed(batch, draws))

    @torch.no_grad()
    def variants(
        self, images: Tensor, labels: GivenLabels, generators: Iterable[torch.Generator]
    ) -> Iterator[Tensor]:
        """Yield what a call with each generator would make of the images; encode them once.

        It augments also in `eval()` and while `enabled` is False. The images must not change while
        it runs.

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
        batch = self._checked(images, labels)
        every = torch.arange(len(images), device=images.device)
        with torch.autocast(images.device.type, enabled=False):
            encoded = self.engine.encode(batch, every, self.config.gate)
        for generator in generators:
            draws = self._draw(batch.labels, batch.ok, generator)
            yield self._changed(batch, draws, encoded)

    def draw(self, labels: GivenLabels, *, generator: torch.Generator | None = None) -> Draws:
        """Draw images, partners, weights and noise for labels, as a call does.

        Args:
            labels: (B,), integers or names of classes.
            generator: CPU generator to draw from; None for that of the augmentation.

        Returns:
            The draws, for `replay`.

        Raises:
            ValueError: The labels are no classes of the checkpoint. On an accelerator their values
                are not read.

        Example:
            >>> draws = nfa.draw(labels, generator=torch.Generator().manual_seed(0))
            >>> len(draws.index)
            16
        """
        given = as_labels(labels, self.classes)
        index, usable = parse_labels(given, self.num_classes)
        if is_read_at_once(given.device):
            check_usable(given, usable, self.num_classes)
        return self._draw(index, usable, generator)

    def _draw(self, labels: Tensor, ok: Tensor, generator: torch.Generator | None = None) -> Draws:
        _, pca = self.engine.on(labels.device)
        return draw(self.config, labels, ok, pca, generator or self.generator)

    def _checked(self, images: Tensor, given: Any) -> Batch:
        """The batch of images and labels.

        Values are always checked on the CPU. On an accelerator reading them would wait.
        """
        labels = to_device(as_labels(given, self.classes), images.device)
        index, usable = parse_labels(labels, self.num_classes)
        check_images(images, self.engine.codec.channels)
        images = images.as_subclass(Tensor)
        if len(index) != len(images):
            raise ValueError(f"there are {len(images)} images and {len(index)} labels")
        often = self._batches < _FIRST_BATCHES or self._batches % _EVERY_BATCHES == 0
        reads = often or is_read_at_once(images.device)
        if reads:
            check_usable(labels, usable, self.num_classes)
        self._batches += 1
        if not images.is_floating_point():
            return Batch(images, index, usable, self.normalization)
        with torch.autocast(images.device.type, enabled=False):
            found = extremes(images)
            finite = are_finite(found)
            if reads and len(images):
                check_range(images, found, self.normalization)
                if seem_raw(found, self.normalization):
                    self._warn_of_raw()
        if reads and not bool(finite.all()):
            _warn_once(
                "images hold NaN or infinite pixels: they stay unchanged, and are counted in "
                "stats() as not_finite",
                self._warned_of_pixels,
            )
        return Batch(images, index, usable & finite, self.normalization)

    def _changed(self, batch: Batch, draws: Draws, encoded: Encoded | None = None) -> Tensor:
        """A copy of the images, with variants; `encoded` has the latents of all, if it is given."""
        gate = self.config.gate
        if not len(draws.index):
            self._counters.add(outcomes(batch.ok, draws.index, None))
            return batch.images.clone()
        with torch.autocast(batch.images.device.type, enabled=False):
            if encoded is None:
                drawn = self.engine.encode(batch, draws.index, gate, draws.chosen)
            else:
                drawn = encoded.rows(draws.index)
            images, checks = self.engine.decode(batch, self.engine.mix(drawn, draws, gate))
        self._counters.add(outcomes(batch.ok, draws.index, checks))
        return images

    def _warn_of_raw(self) -> None:
        """Warn, once, of images that are not normalized, if all before them were gated."""
        stats = self.stats()
        if stats["gated"] and not stats["applied"]:
            _warn_once(
                "all images that were chosen lie outside of the range of their class and stay "
                "unchanged, and the values of these lie in [0, 1], as without normalization: leave "
                "out mean= and std=, or normalize the images by them",
                self._warned_of_raw,
            )

    def stats(self) -> dict[str, int]:
        """Count the images since the start; on an accelerator this synchronises.

        Returns:
            The counts by name, with images of data-loader workers. `seen` are all images,
            `not_finite` those with NaN or infinite pixels, and on an accelerator those whose labels
            are not usable, where they are not checked. Of the images chosen for augmentation,
            `applied` were replaced by a variant; the others stayed unchanged: `no_partner` (no
            other image of the class in the memory or, without one, among those chosen; with noise
            these are applied), `gated` (they or their variants
            lie too far from their class), `far` (unlike the flow's training images, max|z| > 32,
            where its round trip is not exact) and `fell_back` (the variant was not finite).
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


def warn_of_order(nfa: NFAugment) -> None:
    """Warn, once, that integers may mean other classes, unless the classes were compared."""
    if nfa._order_known:
        return
    nfa._order_known = True
    message = order_warning(nfa.engine)
    if message:
        _warn_once(message, nfa._warned_of_order)


def _warn_once(message: str, warned: SharedValue) -> None:
    """Warn, unless this process or a data-loader worker has, which also shares `warned`."""
    if not float(warned):
        warned.set(1.0)
        warnings.warn(message, stacklevel=3)


def check_nfa(nfa: Any) -> NFAugment:
    """The augmentation that an adapter was given; TypeError if it is anything else."""
    if not isinstance(nfa, NFAugment):
        raise TypeError(
            f"nfa must be an NFAugment; got {type(nfa).__name__}. NFAugment.from_pretrained(name) "
            "loads one"
        )
    return nfa
