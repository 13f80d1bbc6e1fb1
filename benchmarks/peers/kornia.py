"""kornia's own tests of all augmentations, `CommonTests`, on `NFAugmentation`."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nfaug import NFAugment
from nfaug.integrations.kornia import NFAugmentation

from .collected import run_pytest
from .outcomes import Outcomes, fitted

NOTES = [
    "The tests pass no labels: a subclass of two methods sets `labels`, 0 and 1 in turn.",
    "A flow has a fixed number of channels, and the tests take images of 1 and 3: the subclass "
    "takes the flow with the channels of the batch.",
    "`test_gradcheck`, which kornia runs only with `--runslow`, cannot hold: no gradient flows "
    "through NFA. kornia skips those that a class must write itself, and coordinates of "
    "transforms that move nothing.",
]


class Labelled(NFAugmentation):
    """`NFAugmentation` with labels, and with a flow for 1 and one for 3 channels."""

    def __init__(self, **options: Any) -> None:
        self.engines = {channels: NFAugment(fitted(channels)).engine for channels in (1, 3)}
        super().__init__(self.engines[3], **options)

    def apply_transform(self, input: Tensor, *options: Any, **named: Any) -> Tensor:
        """The images, with labels."""
        self.nfa.engine = self.engines[input.shape[1]]
        self.labels = torch.arange(len(input)) % 2
        return super().apply_transform(input, *options, **named)


def run(checkout: Path) -> Outcomes:
    """The outcomes of `CommonTests`, with the checkout's conftest, in a temporary folder."""
    # After `kornia` itself, which is the installed one; only its tests come from the checkout.
    sys.path.insert(0, str(checkout))
    cases = str(Path(__file__).with_name("kornia_cases.py"))
    started = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        settings = Path(folder) / "pytest.ini"
        settings.write_text("[pytest]\n")
        os.chdir(folder)  # the conftest makes a folder for weights
        options = ["-c", str(settings), "--rootdir", folder, "-p", "conftest", "--runslow"]
        outcomes = run_pytest([cases, *options], lambda item: True)
        os.chdir(started)
    outcomes.notes += NOTES
    return outcomes
