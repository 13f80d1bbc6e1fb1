"""MixConfig: one declaration for NFAugment, banks, previews and the command line."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import json
from typing import Any

import docstring_parser
import numpy as np
import pytest
import torch
from tools.nfa import checkpoint

from nfaug.augment.config import MixConfig, MixSettings
from nfaug.augment.transform import NFAugment
from nfaug.pictures.preview import preview_grid


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"p": -0.1}, r"^p .*-0\.1"),
        ({"p": "half"}, "^p .*'half'"),
        ({"p": [0.5, 1.5]}, r"^p .*1\.5"),
        ({"alpha": 0.0}, r"^alpha .*0\.0"),
        ({"strength": -1.0}, r"^strength .*-1\.0"),
        ({"noise": float("inf")}, "^noise .*inf"),
        ({"gate": -2.0}, r"^gate .*-2\.0"),
        ({"gate": 1e308}, "^gate .*308"),
        ({"gate": 10**400}, "^gate .*1000"),
        ({"alpha": None}, "^alpha .*None"),
        ({"strength": "x"}, "^strength .*'x'"),
        ({"gate": bool(0)}, "^gate .*False"),
        ({"gate": np.True_}, "^gate .*True"),
        ({"mix": "both"}, "^mix .*'both'"),
    ],
)
def test_errors_name_the_setting_and_the_value(settings: dict[str, Any], message: str) -> None:
    for make in (MixConfig, functools.partial(NFAugment, checkpoint())):
        with pytest.raises(ValueError, match=message):
            make(**settings)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"p": [0.5, 0.5]}, r"\(0\.5, 0\.5\)"),
        ({"mean": 0.5}, "std=None"),
        ({"mean": (0.5, 0.5), "std": 1.0}, r"^mean .*\(0\.5, 0\.5\)"),
        ({"mean": 0.5, "std": (0.5, 0.0, 0.5)}, r"^std .*0\.0"),
        ({"mean": 123.675, "std": 58.4}, "^mean .*255"),
    ],
)
def test_options_out_of_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NFAugment(checkpoint(), **options)


def test_values_are_normalized() -> None:
    for gate, radius in ((None, None), (2, 2.0), (np.float32(0.5), 0.5)):
        assert MixConfig(gate=gate).gate == radius
    shares = (0.25, 0.5, 1.0)
    for p in (list(shares), np.array(shares), torch.tensor(shares)):
        assert MixConfig(p=p) == MixConfig(p=shares)  # type: ignore[arg-type]
    assert hash(MixConfig(p=shares)) == hash(MixConfig(p=shares))
    values = dataclasses.asdict(MixConfig(p=shares, gate=None))
    assert MixConfig(**json.loads(json.dumps(values))) == MixConfig(**values)


def test_every_setting_is_documented_and_a_keyword() -> None:
    fields = [field.name for field in dataclasses.fields(MixConfig)]
    assert list(MixSettings.__annotations__) == fields
    entries = docstring_parser.parse(inspect.getdoc(MixConfig) or "").params
    assert [entry.arg_name for entry in entries] == fields


def test_settings_of_an_augmentation_can_be_set() -> None:
    nfa = NFAugment(checkpoint(), config=MixConfig(strength=0.7, gate=None))
    assert nfa.p == 0.5
    nfa.config = dataclasses.replace(nfa.config, gate=1.25)
    nfa.p = 0.25
    assert nfa.config == MixConfig(p=0.25, strength=0.7)
    with pytest.raises(ValueError, match="p must"):
        nfa.p = -1.0
    with pytest.raises(AttributeError, match=r"replace\(nfa\.config, strength=1\.0\)"):
        nfa.strength = 1.0
    bare = NFAugment(checkpoint(memory=False))
    with pytest.raises(ValueError, match="'memory'"):
        bare.config = MixConfig(partners="memory")
    assert bare.config == MixConfig(), "a rejected value changes nothing"


def test_a_setting_that_does_not_exist() -> None:
    parts: Any = checkpoint()
    for make in (functools.partial(NFAugment, parts), functools.partial(preview_grid, parts, [])):
        with pytest.raises(TypeError, match="'strenght'; did you mean strength"):
            make(strenght=1.0)
    with pytest.raises(TypeError, match="no argument 'axes'"):
        NFAugment(parts, axes=3)  # type: ignore[call-arg]


def test_an_argument_of_an_earlier_version() -> None:
    parts: Any = checkpoint()
    for settings in ({"cuda_graphs": True}, {"cuda_graphs": False, "config": MixConfig()}):
        with pytest.raises(TypeError, match=r"'cuda_graphs' any more.*leave it out"):
            NFAugment(parts, **settings)
