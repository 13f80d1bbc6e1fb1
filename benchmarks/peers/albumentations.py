"""albumentations' own tests of all its transforms on `NFATransform`."""

from __future__ import annotations

import importlib
import sys
import tempfile
from pathlib import Path
from typing import Any

from nfaug.integrations.albumentations import NFATransform

from .collected import run_pytest
from .outcomes import Outcomes, fitted

FILES = ("serialization", "augmentations", "core", "targets", "transforms")
NOTES = [
    "The tests pass no label: a subclass of two methods adds `label=0`. Their images are noise, "
    "which the gate would leave as it is: it is off.",
    "`NFATransform` stands for all of albumentations' transforms, as an `ImageOnlyTransform`; "
    "tests of `DualTransform` alone have no case.",
    "Several images, volumes, masks, boxes and keypoints are refused by design, as are images of "
    "other numbers of channels than the flow's; so `test_image_only`, which asks for volumes, "
    "cannot hold.",
]


class Labelled(NFATransform):
    """`NFATransform` with a label."""

    @property
    def targets_as_params(self) -> list[str]:
        """Nothing is required."""
        return []

    def get_params_dependent_on_data(
        self, params: dict[str, Any], data: dict[str, Any]
    ) -> dict[str, Any]:
        """The label and the seed."""
        return super().get_params_dependent_on_data(params, {**data, "label": 0})


def run(checkout: Path) -> Outcomes:
    """The outcomes of the tests that run over all transforms."""
    # After `albumentations` itself, which is the installed one.
    sys.path.insert(0, str(checkout))
    definitions = importlib.import_module("tests.aug_definitions")
    with tempfile.TemporaryDirectory() as folder:
        path = fitted().save(Path(folder) / "pixels")
        settings = {"checkpoint": str(path), "config": {"gate": None}}
        definitions.AUGMENTATION_CLS_PARAMS[:] = [[Labelled, settings]]
        importlib.import_module("tests.utils").get_all_valid_transforms = lambda: [Labelled]
        files = [str(checkout / "tests" / f"test_{name}.py") for name in FILES]
        outcomes = run_pytest(files, _is_ours)
    outcomes.notes += NOTES
    return outcomes


def _is_ours(item: Any) -> bool:
    """Whether a test is given our class."""
    if not hasattr(item, "callspec"):
        return False
    return any(value is Labelled for value in item.callspec.params.values())
