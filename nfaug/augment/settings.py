"""MixSettings: everything that decides what NFA does to an image."""

from __future__ import annotations

import ast
import dataclasses
import difflib
import inspect
import itertools
import math
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypedDict, TypeVar, get_args, get_origin, get_type_hints

from torch import Tensor

__all__ = [
    "MixKeywords",
    "MixSettings",
    "accepts_settings",
    "check_names",
    "check_number",
    "document_settings",
]

_GATE = 1.25
_Function = TypeVar("_Function", bound=Callable[..., Any])
_Type = TypeVar("_Type", bound=type)


@dataclass(frozen=True)
class MixSettings:
    """What NFA does to an image.

    `NFAugment`, banks, previews, the albumentations transform and the command line all take these
    settings. To add one, add a field with its default, docstring and check, a key of `MixKeywords`,
    and the arithmetic in `params` or `engine`.

    Example:
        >>> from nfaug.augment.settings import MixSettings
        >>> settings = MixSettings(strength=1.0, gate=False)
        >>> settings.strength, settings.gate
        (1.0, None)

    Raises:
        ValueError: A setting is out of range.
    """

    p: float | tuple[float, ...] = 0.5
    """Share of images that are augmented, in [0, 1]: one number, or one for each class."""

    alpha: float = 1.0
    """Parameter of Beta(alpha, alpha), the distribution of the mixing weights."""

    mix: Literal["axis", "pair"] = "axis"
    """Mixing weights: one for each PCA axis ("axis") or one for each image ("pair")."""

    partners: Literal["auto", "batch", "memory", "both"] = "auto"
    """Source of partners: other images of the batch that go through the flow ("batch"), the
    checkpoint's memory ("memory"), either with equal probability ("both"), or the memory if the
    checkpoint has one, else the batch ("auto")."""

    strength: float = 1.5
    """Factor s of the mixing weights; 0 for noise alone. With alpha = 1 an axis keeps
    1 - s + 2 s^2 / 3 of its variance: all of it at 1.5, two thirds at 1."""

    noise: float = 0.0
    """Standard deviation of gaussian noise in the latent space, where the class gaussians have a
    standard deviation of about 1. Noise needs no partner, and the gate ignores it."""

    axes: int | None = None
    """Number of leading PCA axes to mix along; all of them by default."""

    gate: bool | float | None = _GATE
    """Radius beyond which an image is not augmented, relative to the radius stored at fitting
    (True: 1.25). No gate: False, None or, on the command line, off. At 1.0 the gate rejects half
    of the images of small classes, because mixed images spread as far as the class's own."""

    keep: Literal["all", "consistent"] = "all"
    """Which variants are used: all, or only those that the flow's gaussians assign to the image's
    own class ("consistent")."""

    def __post_init__(self) -> None:
        checked = {
            "p": _check_share(self.p),
            "alpha": check_number("alpha", self.alpha, 0, math.inf, open_low=True),
            "strength": check_number("strength", self.strength, 0, math.inf),
            "noise": check_number("noise", self.noise, 0, math.inf),
            "gate": _check_gate(self.gate),
        }
        if self.axes is not None and (type(self.axes) is not int or self.axes < 1):
            raise ValueError(f"axes must be an integer >= 1, or None; got {self.axes!r}")
        for name, hint in _type_hints().items():
            value = getattr(self, name)
            if get_origin(hint) is Literal and value not in get_args(hint):
                raise ValueError(f"{name} must be one of {list(get_args(hint))}; got {value!r}")
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Names of the settings, in order."""
        return tuple(field.name for field in dataclasses.fields(cls))

    @classmethod
    def docs(cls) -> dict[str, str]:
        """Docstrings of the settings by name."""
        try:
            (body,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
        except OSError:  # no source code, as in a frozen application
            return dict.fromkeys(cls.names(), "")
        found = {}
        for field, doc in itertools.pairwise(body.body if isinstance(body, ast.ClassDef) else ()):
            if isinstance(field, ast.AnnAssign) and isinstance(doc, ast.Expr):
                found[ast.unparse(field.target)] = " ".join(ast.literal_eval(doc.value).split())
        return found

    @classmethod
    def merge(cls, settings: MixSettings | None, changes: Mapping[str, Any]) -> MixSettings:
        """`settings`, or the defaults, with some settings replaced.

        Raises:
            TypeError: A name is not a setting. The message suggests the nearest one.
            ValueError: A value is out of range.
        """
        check_names(changes, cls.names())
        return dataclasses.replace(settings or cls(), **changes)


def check_names(given: Iterable[str], known: Sequence[str]) -> None:
    """Raise TypeError if a keyword argument is unknown, and suggest the nearest name."""
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1, cutoff=0.4)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise TypeError(
                f"unexpected keyword argument {name!r}; {hint}Known are {', '.join(known)}"
            )


class MixKeywords(TypedDict, total=False):
    """The settings as keyword arguments, for type checkers."""

    p: float | Sequence[float] | Tensor
    alpha: float
    mix: Literal["axis", "pair"]
    partners: Literal["auto", "batch", "memory", "both"]
    strength: float
    noise: float
    axes: int | None
    gate: bool | float | None
    keep: Literal["all", "consistent"]


def accepts_settings(*leave_out: str) -> Callable[[_Function], _Function]:
    """Show the settings, but those of `leave_out`, in the signature of a function of **keywords."""

    def decorate(function: _Function) -> _Function:
        signature = inspect.signature(function)
        own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
        settings = [
            inspect.Parameter(
                field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default,
                annotation=field.type,
            )
            for field in dataclasses.fields(MixSettings)
            if field.name not in leave_out
        ]  # fmt: skip
        at = next((i for i, p in enumerate(own) if p.kind is p.KEYWORD_ONLY), len(own))
        shown = signature.replace(parameters=[*own[:at], *settings, *own[at:]])
        function.__signature__ = shown  # type: ignore[attr-defined]
        return function

    return decorate


def document_settings(documented: _Type) -> _Type:
    """Replace the line `p, ..., keep:` of a class's docstring by the docs of the settings."""
    lines = []
    for line in (documented.__doc__ or "").splitlines():
        if line.strip().startswith("p, ..., keep:"):
            indent = line[: line.index("p")]  # Python 3.13 removes the common indentation
            for name, doc in MixSettings.docs().items():
                lines += textwrap.wrap(
                    f"{name}: {doc}",
                    100,
                    initial_indent=indent,
                    subsequent_indent=f"{indent}    ",
                )
        else:
            lines.append(line)
    documented.__doc__ = "\n".join(lines)
    return documented


def check_number(
    name: str, value: float, low: float, high: float, *, open_low: bool = False
) -> float:
    """The value as a float, if it is a finite number in [low, high], or in (low, high].

    Raises:
        ValueError: It is not.
    """
    bounds = f"{'(' if open_low else '['}{low:g}, {high:g}]"
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise ValueError(f"{name} must be a number in {bounds}; got {value!r}") from None
    if not (math.isfinite(number) and low <= number <= high and not (open_low and number == low)):
        raise ValueError(f"{name} must be a finite number in {bounds}; got {value}")
    return number


def _check_share(value: Any) -> float | tuple[float, ...]:
    listed = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(listed, Sequence):
        return tuple(check_number("p", share, 0, 1) for share in listed)
    return check_number("p", listed, 0, 1)


def _check_gate(value: Any) -> float | None:
    gate = value.item() if hasattr(value, "item") else value  # a numpy.bool_ is not a bool
    if gate is None or gate is False:
        return None
    return check_number("gate", _GATE if gate is True else gate, 0, math.inf)


def _type_hints() -> dict[str, Any]:
    return get_type_hints(MixSettings)
