"""The engine of a checkpoint, and what to know of the order of its classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..checkpoint.resolve import builtin_names
from ..data.sources.layout import natural_key
from .engine import Engine, not_fitted
from .pixel_engine import PixelEngine


def engine_of(checkpoint: Any) -> Engine:
    """The engine of a checkpoint, of its name or path, or of itself."""
    if isinstance(checkpoint, Engine):
        return checkpoint
    if isinstance(checkpoint, (str, Path)):
        from ..checkpoint.checkpoint import load  # a flow in memory needs no reader

        name = str(checkpoint)
        checkpoint = load(checkpoint, gaussians=False)
        if checkpoint.pca is None:
            raise not_fitted(name, repr(name))
    if not hasattr(checkpoint, "pca"):
        raise TypeError(
            f"checkpoint must be a Checkpoint, its name or its path; got "
            f"{type(checkpoint).__name__}. Images are fitted first: "
            'NFAugment(nfaug.fit("builtin:pixels", dataset))'
        )
    kind = PixelEngine if checkpoint.flow.shape_free else Engine
    classes = checkpoint.config.classes or ()
    return kind(checkpoint.flow, checkpoint.pca, classes, checkpoint.source)


def order_warning(engine: Engine) -> str:
    """What to warn of before integers are taken for the classes of an engine; often nothing.

    A bundled flow has classes of its own, and timm orders classes in another way than torchvision.
    """
    source = engine.source
    names = list(engine.classes)
    if source in builtin_names():
        shown = ", ".join(f"{label} {name}" for label, name in enumerate(names[:3]))
        return (
            f"{source} has classes of its own ({shown}, ...), and mixes images along their axes. "
            f"For other classes pass nfaug.fit({source!r}, dataset) in its place; for these, call "
            "nfa.check_classes(dataset) first"
        )
    if source and names != sorted(names) and names == sorted(names, key=natural_key):
        return (
            f"the classes of {source} are in natural order, as timm has them; torchvision's "
            "ImageFolder has 10 before 9, and B before a: pass nfa.check_classes your names"
        )
    return ""
