"""Running a timm training script unedited, with NFA put in."""

from __future__ import annotations

import contextlib
import inspect
import runpy
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import timm.data

from ...augment.transform import NFAugment
from .loader import NFALoader

__all__ = ["format_stats", "run_script"]

_TIMM: Any = timm.data  # scripts import their loaders from here


@contextlib.contextmanager
def _patched(nfa: NFAugment, off_epoch: int | None) -> Iterator[list[NFALoader]]:
    """timm.data's factories make augmented training loaders; yields those that were made."""
    made: list[NFALoader] = []
    create = _TIMM.create_loader

    def create_loader(*args: Any, **kwargs: Any) -> Any:
        settings = inspect.signature(create).bind(*args, **kwargs).arguments
        loader = create(*args, **kwargs)
        if not settings.get("is_training", False):
            return loader
        device = None if settings.get("use_prefetcher", True) else settings.get("device")
        made.append(NFALoader(loader, nfa, device=device, off_epoch=off_epoch))
        return made[-1]

    def create_naflex_loader(*args: Any, **kwargs: Any) -> Any:
        raise ValueError(
            "NaFlex loaders cut images into patches before they are batched, so NFA cannot be used "
            "with them: leave --naflex-loader out"
        )

    new = {"create_loader": create_loader, "create_naflex_loader": create_naflex_loader}
    old = {name: getattr(_TIMM, name) for name in new if hasattr(_TIMM, name)}
    for name in old:
        setattr(_TIMM, name, new[name])
    try:
        yield made
    finally:
        for name, function in old.items():
            setattr(_TIMM, name, function)


def run_script(
    path: str | Path,
    argv: Sequence[str],
    nfa: NFAugment | str | Path,
    *,
    prob: float | None = None,
    off_epoch: int | None = None,
) -> dict[str, int]:
    """Run a training script that uses `timm.data.create_loader`, unedited, with NFA put in.

    Training loaders become `NFALoader`s; validation loaders stay. The script runs in this process
    as `__main__`, with its folder on the path, as Python would run it.

    Args:
        path: the script, such as timm's own train.py.
        argv: its arguments.
        nfa: the augmentation, or a checkpoint directory or Hub repository.
        prob: share of images to augment, in the place of `nfa.p`.
        off_epoch: NFA stops at this epoch, counted from 0.

    Returns:
        NFA's counters (see `NFAugment.stats`).

    Raises:
        ValueError: the script is not there, makes no training loader, or one that NFA cannot serve.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"there is no script {str(path)!r}; give the path of timm's train.py")
    if not isinstance(nfa, NFAugment):
        nfa = NFAugment.from_pretrained(nfa)
    if prob is not None:
        nfa.p = prob
    saved = sys.argv, sys.path[:]
    sys.argv = [str(path), *argv]
    sys.path.insert(0, str(path.resolve().parent))
    try:
        with _patched(nfa, off_epoch) as made, _clean_exit():
            runpy.run_path(str(path), run_name="__main__")
    finally:
        sys.argv, sys.path[:] = saved
    if not made:
        raise ValueError(
            f"{path} made no training loader with timm.data.create_loader(is_training=True), so "
            "NFA was not used; put NFALoader around its loader"
        )
    return nfa.stats()


@contextlib.contextmanager
def _clean_exit() -> Iterator[None]:
    """Let a script end itself with success; any other exit is the caller's to see."""
    try:
        yield
    except SystemExit as end:
        if end.code not in (None, 0):
            raise


def format_stats(stats: dict[str, int]) -> str:
    """One line of counters."""
    counts = ((name.replace("_", " "), count) for name, count in stats.items() if name != "seen")
    parts = ", ".join(f"{name} {count}" for name, count in counts)
    return f"NFA: of {stats['seen']} images {parts}"
