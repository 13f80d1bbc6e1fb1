"""NFAugment: normalizing-flow augmentation of a batch, as a transform for training loops."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..data.checks import check_choice, check_number, check_same_classes
from ..data.classes import dataset_classes
from .batch import find, replace_images
from .counters import Counters
from .engine import INCONSISTENT, OUTCOMES, Engine
from .labels import class_indices, refuse_unusable
from .params import NFAParams, make_params, to_device
from .pixels import (
    Normalization,
    all_finite,
    check_images,
    range_problem,
    with_finite_pixels,
)
from .settings import (
    checked_axes,
    checked_gate,
    checked_generator,
    checked_share,
    refuse_lacking,
    refuse_other_params,
)
from .switch import Switch

__all__ = ["NFAParams", "NFAugment"]

_CHECKED_BATCHES = 8  # on an accelerator values are read in the first batches only ...
_CHECK_EVERY = 256  # ... and then in one of so many


class NFAugment(nn.Module):
    """Mix images with others of their class along the class's latent PCA axes; labels stay.

        a = U^T (z1 - m),  b = U^T (z2 - m),  w ~ Beta(alpha, alpha),
        z' = z1 + U (strength * w * (b - a)) + noise * e,  e ~ N(0, I)

    `images, labels = nfa(images, labels)`: new images in the dtype, size, device and memory format
    that came in; labels, and images that are not augmented, as they came. uint8, floating point in
    [0, 1], or normalised by `mean`/`std`, of any size: at another size than the flow's the change
    is computed at the flow's size and added to the image. So it is at every size where the flow
    works on an autoencoder's latents, so that the detail that this loses stays. A tuple, list or
    dictionary goes out as what it came in.

    ceil(p*B) images drawn at random go through the flow. An image without a partner, whose latent
    lies outside its class's range (the gate), or whose result is not finite, goes out as it came
    in and is counted (`stats`). No value goes out that is not finite: an image that comes in with
    some is not augmented, NaN becomes mid-grey and an infinity black or white, and it is counted.
    Put it before mixup and cutmix.

    A partner is another image: one that finds itself in the memory (coefficients within 1% of its
    own) takes another row. Where there is no other, it has no partner.

    The module has no parameters, buffers or `state_dict` entries and follows the device of the
    images; `eval()` and `enabled = False` turn it off. Values of labels and images are checked on
    every batch on the CPU; on an accelerator, where reading a value stalls it, in the first 8
    batches and every 256th, and images with unusable labels are left alone in between.

    Args:
        checkpoint: a `Checkpoint`, a pair (flow, pca), or another augmentation's `engine`.
        p: share of images that are augmented; a tensor of K for one per class.
        alpha: of Beta(alpha, alpha).
        mix: "axis" for a weight for each axis, "pair" for one for each image.
        partners: "batch" for images of the batch that go through the flow too, "memory" for the
            checkpoint's memory, "both" for either with equal chance, "auto" for the memory where
            there is one.
        strength: s, how far to go towards the partner; 0 for noise alone. With alpha = 1 an axis
            keeps 1 - s + 2 s^2 / 3 of its variance: all of it at 1.5, two thirds at 1.
        noise: standard deviation of gaussian noise in the latent space, whose class gaussians have
            about 1. It needs no partner, and the gate does not see it.
        axes: mix along this many leading axes only; None for all.
        mean, std: what images were normalised by, as a number or one for each channel; they do not
            concern uint8 images.
        generator: CPU generator to draw from; None for torch's. The same state gives the same
            batch; ranks of a distributed run and workers of a loader differ all the same.
        smoothing: label smoothing of soft labels, needed where there are two classes.
        labels_getter: returns the labels of a sample that is not (images, labels, ...) or a mapping
            with labels.
        keep: "consistent" leaves an image as it came if the flow's gaussians take its variant for
            another class, and counts it as `inconsistent`; "all" asks nobody.
        gate: radius of the gate relative to what was stored when the PCA was fitted; False or None
            for none, True for 1.25: a mixed image spreads as far as the class's own images do, so
            that the stored radius alone would stop half of them where there are few of each class.

    Raises:
        ValueError: a setting is out of range, or the checkpoint has no PCA (or no memory, where
            `partners="memory"` asks for one, or no class gaussians, where `keep` needs them).
    """

    def __init__(
        self,
        checkpoint: Any,
        *,
        p: float | Sequence[float] | Tensor = 0.5,
        alpha: float = 1.0,
        mix: Literal["axis", "pair"] = "axis",
        partners: Literal["auto", "batch", "memory", "both"] = "auto",
        strength: float = 1.5,
        noise: float = 0.0,
        axes: int | None = None,
        mean: Sequence[float] | float | None = None,
        std: Sequence[float] | float | None = None,
        generator: torch.Generator | None = None,
        smoothing: float | None = None,
        labels_getter: Callable[[Any], Tensor] | None = None,
        gate: bool | float | None = True,
        keep: Literal["all", "consistent"] = "all",
    ) -> None:
        super().__init__()
        self._engine = Engine.of(checkpoint)
        self.p = p
        self.alpha = check_number("alpha", alpha, 0, math.inf, open_low=True)
        self.strength = check_number("strength", strength, 0, math.inf)
        self.noise = check_number("noise", noise, 0, math.inf)
        self.smoothing = (
            None if smoothing is None else check_number("smoothing", smoothing, 0, 0.99)
        )
        self.mix = check_choice("mix", mix, ("axis", "pair"))
        self.partners = check_choice("partners", partners, ("auto", "batch", "memory", "both"))
        self.keep = check_choice("keep", keep, ("all", "consistent"))
        refuse_lacking(self._engine, self.partners, self.keep)
        self.axes = checked_axes(axes)
        self.gate = gate
        self.generator = checked_generator(generator)
        self.labels_getter = labels_getter
        self._normalization = Normalization(mean, std, self._engine.codec.channels)
        self._switch = Switch()
        self._calls = self._seen = 0
        asked = (INCONSISTENT,) if self.keep == "consistent" else ()
        self._outcomes = (*OUTCOMES, *asked)
        self._counters = Counters((*self._outcomes, "not_finite"))

    @classmethod
    def from_pretrained(
        cls,
        path_or_repo: str | Path,
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        autoencoder: str | Path | None = None,
        **kwargs: Any,
    ) -> NFAugment:
        """Load a checkpoint from a directory or the Hub; `kwargs` are `NFAugment`'s.

        `revision`, `token` and `autoencoder`, and what is raised, are those of `nfaug.load`.
        """
        from ..checkpoint.checkpoint import load  # only here: a flow at hand needs no reader

        checkpoint = load(path_or_repo, revision=revision, token=token, autoencoder=autoencoder)
        return cls(checkpoint, **kwargs)

    @property
    def enabled(self) -> bool:
        """Whether images are augmented; takes effect at once, in a loader's workers too."""
        return bool(self._switch)

    @enabled.setter
    def enabled(self, value: bool) -> None:
        self._switch.set(value)

    @property
    def p(self) -> float | Tensor:
        """Share of images that are augmented: one number, or (K,) on the CPU."""
        return self._p

    @p.setter
    def p(self, value: float | Sequence[float] | Tensor) -> None:
        self._p = checked_share(value, self.num_classes)

    @property
    def gate(self) -> float | None:
        """Radius of the gate, None where there is none; set to a radius, or to True or False."""
        return self._gate

    @gate.setter
    def gate(self, value: bool | float | None) -> None:
        self._gate = checked_gate(value)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The checkpoint's classes in label order; empty if it has no names."""
        return self._engine.class_names

    @property
    def num_classes(self) -> int:
        """The checkpoint's number of classes K."""
        return self._engine.num_classes

    @property
    def engine(self) -> Engine:
        """The flow and the PCA; another `NFAugment` can share them."""
        return self._engine

    @property
    def rank(self) -> int:
        """Number r of axes."""
        return self._engine.rank

    def memory_range(self, label: int) -> tuple[int, int]:
        """Rows [start, end) of the memory that hold the partners of a class."""
        return self._engine.memory_range(label)

    def check_classes(
        self, classes: Mapping[str, int] | Iterable[str] | Any, *, required: bool = True
    ) -> None:
        """Compare class names and their order with the checkpoint's.

        Takes a `class_to_idx`, names in label order, or a data set that has either. An order that
        differs is the silent killer: images would be mixed with those of another class. Unless
        `required`, names that one side does not have are no error.

        Raises:
            ValueError: they differ (the first difference is quoted), or there are no names.
        """
        names = dataset_classes(classes, required=required)
        if required or (names and self.class_names):
            check_same_classes(names, self.class_names)

    @property
    def normalization(self) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
        """(mean, std) that images are normalised by, each with one value a channel, or None."""
        mean, std = self._normalization.mean, self._normalization.std
        return None if mean is None or std is None else (mean, std)

    def set_normalization(
        self, mean: Sequence[float] | float | None, std: Sequence[float] | float | None
    ) -> None:
        """Say what the images are normalised by, from the next batch on; None for nothing."""
        self._normalization = Normalization(mean, std, self._engine.codec.channels)

    def forward(
        self, *inputs: Any, params: NFAParams | None = None, return_params: bool = False
    ) -> Any:
        """Augment (images, labels), a sample that contains them, or a dictionary.

        `params` replays the draw of an earlier call instead of making a new one: to the same batch
        it does the same, and where labels differ an image may find that it has no partner. With
        `return_params` the result is (sample, params), params being None where it is turned off.

        Raises:
            ValueError: the sample, the images or the labels are not what they must be.
        """
        if not inputs:
            raise ValueError("NFAugment takes images and labels; got nothing")
        run = self._run
        if torch.compiler.is_compiling():  # draws and checks are no part of a graph: break it once
            run = torch.compiler.disable(run)
        sample, params = run(inputs if len(inputs) > 1 else inputs[0], params)
        return (sample, params) if return_params else sample

    @torch.no_grad()
    def _run(self, sample: Any, params: NFAParams | None) -> tuple[Any, NFAParams | None]:
        if not (self.training and self.enabled):
            return sample, None
        found, labels = find(sample, self.labels_getter)
        images, params = self._augment(found.as_subclass(Tensor), labels, params)
        return replace_images(sample, found, images), params

    def make_params(self, labels: Tensor, *, device: torch.device | None = None) -> NFAParams:
        """Draw what one call does to a batch with these labels; `forward` does so itself.

        All randomness is here: which images, which partners, how far.
        """
        index, usable = class_indices(labels, self.num_classes, smoothing=self.smoothing)
        device = labels.device if device is None else device
        return self._make_params(to_device(index, device), to_device(usable, device))

    def _make_params(self, labels: Tensor, usable: Tensor) -> NFAParams:
        engine = self._engine
        return make_params(
            labels,
            usable,
            p=self.p,
            alpha=self.alpha,
            strength=self.strength,
            rank=engine.rank,
            axes=self.axes,
            mix=self.mix,
            partners=self.partners,
            offsets=engine.on(labels.device)[1].offsets if engine.has_memory else None,
            rows=engine.memory_rows,
            noise=self.noise,
            dim=engine.config.dim,
            generator=self.generator,
        )

    def _augment(
        self, images: Tensor, labels: Tensor, params: NFAParams | None
    ) -> tuple[Tensor, NFAParams]:
        check_images(images, self._engine.codec.channels)
        if len(labels) != len(images):
            raise ValueError(f"there are {len(images)} images and {len(labels)} labels")
        index, usable = class_indices(labels, self.num_classes, smoothing=self.smoothing)
        reads = _reads_values(images.device, self._calls)
        if reads:
            refuse_unusable(labels, usable, self.num_classes, smoothing=self.smoothing)
            if problem := range_problem(images, self._normalization):
                raise ValueError(problem)
        self._calls += 1
        self._seen += len(images)
        finite = all_finite(images)
        index = to_device(index, images.device)
        usable = to_device(usable, images.device) & finite
        params = self._make_params(index, usable) if params is None else params.to(images.device)
        refuse_other_params(params, len(images), self._engine)
        self._counters.add({"not_finite": ~finite})
        new = images.clone()
        if images.is_floating_point() and not (reads and bool(finite.all())):
            new.copy_(with_finite_pixels(images, self._normalization))
        if len(taken := params.index):
            params_now = dataclasses.replace(params, chosen=params.chosen & finite[taken])
            with torch.autocast(images.device.type, enabled=False):
                outcome = self._engine.mix(
                    new[taken], index[taken], usable[taken], params_now, self._normalization,
                    self.gate, consistent=self.keep == "consistent",
                )  # fmt: skip
            self._counters.add({name: getattr(outcome, name) for name in self._outcomes})
            new.index_copy_(0, taken, outcome.images)
        return new, params

    def stats(self) -> dict[str, int]:
        """Images seen, and what became of some.

        Of those chosen to be augmented: `applied`, `no_partner` (nothing to mix with), `gated`
        (outside the class's range), `fell_back` (the result was not finite) and, with
        `keep="consistent"`, `inconsistent` (the flow sees another class in it). With `noise` an
        image without a partner is changed by that alone and counts as applied. Of all, chosen or
        not: `not_finite` (came in with NaN or infinite pixels; counted here only). Counted in the
        process that augments: a copy in a loader's worker counts for itself. Stalls an accelerator.
        """
        return {"seen": self._seen, **self._counters.read()}

    def reset_stats(self) -> None:
        """Start counting from zero."""
        self._seen = 0
        self._counters.reset()

    def extra_repr(self) -> str:
        p = "per class" if isinstance(self.p, Tensor) else f"{self.p:g}"
        codec = self._engine.codec
        return (
            f"p={p}, alpha={self.alpha:g}, mix={self.mix!r}, partners={self.partners!r}, "
            f"strength={self.strength:g}, noise={self.noise:g}, gate={self.gate}, "
            f"keep={self.keep!r}, classes={self.num_classes}, "
            f"axes={self.axes or self._engine.rank}, size={codec.image_size}, "
            f"channels={codec.channels}, enabled={self.enabled}"
        )


def _reads_values(device: torch.device, calls: int) -> bool:
    return device.type == "cpu" or calls < _CHECKED_BATCHES or calls % _CHECK_EVERY == 0
