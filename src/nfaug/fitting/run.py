"""A fit into a folder: its lock, and the classes that are finished, so that a kill loses one."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor

from ..classes.pca_parts import ClassFit
from ..data.images import Images
from ..flows.flow import Flow
from ..io.atomic import check_output, write_bytes
from ..io.facts import Facts
from ..io.lock import lock_output
from ..io.tensors import read_tensors, tensors_sha256
from ..io.version import __version__
from .config import FitConfig


class FitRun:
    """A fit into a folder, which is locked, and the files of its finished classes beside it.

    The files are in the folder `.NAME.fit` until `close` removes them.

    Args:
        out: The folder of the checkpoint.
    """

    def __init__(self, out: Path) -> None:
        self.out: Path = out
        self.folder: Path = out.resolve().parent / f".{out.name}.fit"

    @classmethod
    @contextlib.contextmanager
    def open(cls, out: Path, *, overwrite: bool) -> Iterator[FitRun]:
        """Lock a folder, which is new or empty unless `overwrite` is set.

        Raises:
            FileExistsError: The folder is not empty.
            OSError: Another process writes to it, or it cannot be replaced.
        """
        with lock_output(out):
            check_output(out, overwrite=overwrite)
            yield cls(out)

    def close(self) -> None:
        """Remove the files of finished classes, once the checkpoint is saved."""
        shutil.rmtree(self.folder, ignore_errors=True)


class FinishedClasses:
    """The finished classes of a fit in a folder.

    A class is a file, whose name has a hash of all that the class follows from: the flow, the
    settings, and the paths, labels and contents of its images. A class of another flow or of other
    images is therefore not found, and is fitted again.

    Args:
        folder: The folder.
        flow: The flow.
        images: The images.
        config: The settings of the fit.
    """

    def __init__(self, folder: Path, flow: Flow, images: Images, config: FitConfig) -> None:
        self.folder: Path = folder
        self.images: Images = images
        autoencoder = flow.codec.record
        self.facts: dict[str, Any] = {
            "nfaug": __version__,
            "flow": flow.config.to_dict(),
            "weights": tensors_sha256(flow.state_dict()),
            "autoencoder": None if autoencoder is None else asdict(autoencoder),
            "device": flow.device.type,
            "preprocessing": images.preprocessing,
            "settings": {
                "rank": config.rank,
                "batch_size": config.batch_size,
                "seed": config.seed,
                "statistics": config.prior is not None,
            },
        }

    def file(self, label: int, rows: Tensor) -> Path:
        """The file of a class whose images have these indices; it exists if that is finished."""
        facts = {
            **self.facts,
            "label": label,
            "of": int((self.images.targets == label).sum()),
            "images": self.images.subset(rows).fingerprint(len(rows)),
        }
        return self.folder / f"{label:05}-{Facts(facts).sha256()}.safetensors"

    def save(self, file: Path, fit: ClassFit) -> None:
        """Write a finished class to its file."""
        self.folder.mkdir(parents=True, exist_ok=True)
        tensors = {}
        for field in fields(fit):
            value = getattr(fit, field.name)
            if value is not None:
                tensors[field.name] = value
        write_bytes(file, save(tensors))

    def load(self, file: Path) -> ClassFit:
        """Read a finished class from its file."""
        return ClassFit(**read_tensors(file))
