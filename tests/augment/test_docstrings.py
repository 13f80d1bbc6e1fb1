"""The examples in docstrings run."""

from __future__ import annotations

import doctest
from typing import Any

import pytest

from nfaug.augment.settings import MixSettings
from nfaug.augment.transform import NFAugment
from nfaug.bank import BankDataset, make_bank
from nfaug.pca.classwise import ClasswisePCA


@pytest.mark.parametrize(
    "documented", [NFAugment, MixSettings, ClasswisePCA, BankDataset, make_bank]
)
def test_examples(documented: Any) -> None:
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    tests = doctest.DocTestFinder(recurse=False).find(documented, documented.__name__)
    for test in tests:
        runner.run(test)
    results = runner.summarize(verbose=False)
    assert results.attempted > 1
    assert results.failed == 0
