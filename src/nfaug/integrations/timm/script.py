"""Run an unedited timm training script with NFA."""

from __future__ import annotations

import argparse
import inspect
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import timm.data

from ...augment.transform import NFAugment
from .loader import NFALoader

_NAFLEX = "NFA needs images of one size: leave out --naflex-loader"


def run_script(path: str | Path, argv: Sequence[str], nfa: NFAugment) -> dict[str, int]:
    """Run an unedited training script that uses `timm.data.create_loader`, with NFA.

    Training loaders become `NFALoader`s; validation loaders do not change. The script runs in this
    process as `__main__`, with its folder on `sys.path`.

    Args:
        path: The script, such as timm's own train.py.
        argv: The script's arguments.
        nfa: The augmentation.

    Returns:
        NFA's counters (see `NFAugment.stats`).

    Raises:
        ValueError: There is no such script, its arguments ask for what NFA does not support, or it
            makes no training loader that NFA supports.

    Example:
        >>> import nfaug
        >>> from nfaug.integrations.timm import run_script
        >>> nfa = nfaug.NFAugment.from_pretrained("builtin:rgb32")
        >>> run_script("no-such-script.py", ["--model", "resnet18"], nfa)
        Traceback (most recent call last):
        ...
        ValueError: there is no script 'no-such-script.py'; pass the path of timm's train.py
    """
    if not Path(path).is_file():
        raise ValueError(f"there is no script {str(path)!r}; pass the path of timm's train.py")
    _check_arguments(argv)
    loaders: list[NFALoader] = []
    data: Any = timm.data  # scripts import create_loader from here
    create = data.create_loader

    def create_loader(*args: Any, **kwargs: Any) -> Any:
        settings = inspect.signature(create).bind(*args, **kwargs).arguments
        loader = create(*args, **kwargs)
        if not settings.get("is_training", False):
            return loader
        device = None  # the prefetcher moves batches itself
        if not settings.get("use_prefetcher", True):
            device = settings.get("device")
        loaders.append(NFALoader(loader, nfa, device=device))
        return loaders[-1]

    def create_naflex_loader(*_: Any, **__: Any) -> Any:
        raise ValueError(_NAFLEX)

    script_argv = [str(path)]
    script_argv += argv
    search_path = [str(Path(path).resolve().parent)]
    search_path += sys.path
    try:
        with (
            mock.patch.object(data, "create_loader", create_loader),
            mock.patch.object(data.loader, "create_loader", create_loader),
            mock.patch.object(data, "create_naflex_loader", create_naflex_loader, create=True),
            mock.patch.object(sys, "argv", script_argv),
            mock.patch.object(sys, "path", search_path),
        ):
            runpy.run_path(str(path), run_name="__main__")
    except SystemExit as end:
        if end.code not in (None, 0) or {"-h", "--help"} & set(argv):
            raise
    if not loaders:
        raise ValueError(
            f"{path} did not call timm.data.create_loader(is_training=True), so NFA was not "
            "used; wrap the script's loader in NFALoader"
        )
    return nfa.stats()


def _check_arguments(argv: Sequence[str]) -> None:
    """Raise ValueError for options of timm's script that its loaders would be refused for.

    The loaders are made after the model and the datasets, which may take minutes.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--naflex-loader", action="store_true")
    parser.add_argument("--no-prefetcher", action="store_true")
    parser.add_argument("--aug-splits", type=int, default=0)
    parser.add_argument("--mixup-mode", default="batch")
    parser.add_argument("--mixup", type=float, default=0.0)
    parser.add_argument("--cutmix", type=float, default=0.0)
    parser.add_argument("--cutmix-minmax", nargs="+")
    try:
        options, _ = parser.parse_known_args(argv)
    except argparse.ArgumentError:  # the script's own parser says what is wrong
        return
    if options.naflex_loader:
        raise ValueError(_NAFLEX)
    if options.aug_splits:
        raise ValueError("NFA does not support AugMix splits; remove --aug-splits")
    mixes = options.mixup or options.cutmix or options.cutmix_minmax
    if mixes and options.mixup_mode == "half" and not options.no_prefetcher:
        raise ValueError("--mixup-mode half runs before NFA; use batch, pair or elem")
