"""Collected by pytest, with a checkout of kornia on `sys.path`."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
from tests.augmentation.test_augmentation import CommonTests

from .kornia import Labelled


class TestNFAugmentation(CommonTests):
    _augmentation_cls = Labelled
    _default_param_set: ClassVar[dict[str, Any]] = {}

    @pytest.fixture
    def param_set(self) -> dict[str, Any]:
        return {}
