"""Passes over images that are decoded in the background."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch
from tools.nfa import write_images

from nfaug.data.batches import batches
from nfaug.data.open import open_dataset
from nfaug.data.source import FileSource


def test_passes_that_are_given_up_decode_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After Ctrl-C a fit went on until two classes were decoded."""
    data = open_dataset(write_images(tmp_path, 8, train=100) / "train")
    plain = FileSource.read
    read: list[int] = []

    def slowly(reader: Any, index: int) -> Any:
        read.append(index)
        time.sleep(0.005)
        return plain(reader, index)

    monkeypatch.setattr(FileSource, "read", slowly)
    stream = batches(data, torch.arange(300).split(4))
    images, labels = next(stream)
    assert (images.shape, labels.tolist()) == ((4, 3, 8, 8), [0] * 4)
    stream.close()
    assert 4 <= len(read) < 200
    count = len(read)
    time.sleep(0.1)
    assert len(read) == count
