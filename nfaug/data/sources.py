"""The kinds of data that `open_dataset` reads, in the order in which they are tried."""

from __future__ import annotations

from .arrays import DIGITS, IDX, NPZ
from .folders import FOLDER
from .named import TIMM
from .readers import Source
from .tables import HUB, PARQUET
from .tars import TAR
from .webdataset import WEBDATASET

__all__ = ["SOURCES"]

# Names come first: a folder may be called so. Image folders come before what may lie beside them.
SOURCES: tuple[Source, ...] = (DIGITS, TIMM, HUB, FOLDER, TAR, NPZ, IDX, WEBDATASET, PARQUET)
