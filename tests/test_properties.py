"""What holds for all inputs of a kind: layouts of files, JSON, manifests, and labels.

Examples are drawn by hypothesis, the same ones in every run.
"""

from __future__ import annotations

import copy
import json
import shutil
import tarfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tools.images import save
from tools.nfa import NAMES

import nfaug
from nfaug import MixConfig, open_dataset
from nfaug.augment.samples import as_labels, parse_labels
from nfaug.bank.format import MANIFEST, Manifest
from nfaug.checkpoint.manifest import CheckpointError
from nfaug.data.batches import decode
from nfaug.data.sources.layout import MissingSplitError, arrange
from nfaug.flows.config import FlowConfig
from nfaug.io.strict_json import parse_json

FEW = settings(max_examples=10, derandomize=True, deadline=None, database=None)
FILES = settings(FEW, max_examples=30)
MANY = settings(FEW, max_examples=100)

# JSON

NUMBERS = st.integers(-2, 40) | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
SCALARS = st.none() | st.booleans() | NUMBERS | st.text(max_size=8)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)
LIKE_JSON = st.text('{}[]":,01e-. \\u dtrulsnafNIity', max_size=30).map(str.encode)
UNLIKE_JSON = [b"NaN", b"[-Infinity]", b'{"a": 1e999}', b'"\\ud800"', b"[" * 2000]


@MANY
@given(VALUES)
def test_json_is_read_as_it_was_written(value: Any) -> None:
    assert parse_json(json.dumps(value).encode()) == value


@MANY
@given(st.dictionaries(st.text(max_size=4), SCALARS, min_size=1), st.data())
def test_an_object_with_a_key_twice_is_a_value_error(value: Any, data: st.DataObject) -> None:
    key = data.draw(st.sampled_from([*value]))
    text = json.dumps(value)
    twice = f"{text[:-1]}, {json.dumps(key)}: 1}}"
    with pytest.raises(ValueError, match="twice"):
        parse_json(twice.encode())


@MANY
@given(st.binary(max_size=30) | LIKE_JSON | st.sampled_from(UNLIKE_JSON))
def test_other_bytes_are_value_errors(data: bytes) -> None:
    try:
        value = parse_json(data)
    except ValueError:
        return
    assert parse_json(json.dumps(value, allow_nan=False).encode()) == value


# Manifests

PLACES = st.integers(0, 10**6)


def changed(values: Any, place: int, new: Any) -> Any:
    """A copy of JSON values with another value at one of its places."""
    found: list[tuple[Any, Any]] = []

    def walk(node: Any) -> None:
        items = node.items() if isinstance(node, dict) else enumerate(node)
        for key, inner in items:
            found.append((node, key))
            if isinstance(inner, (dict, list)):
                walk(inner)

    values = copy.deepcopy(values)
    walk(values)
    node, key = found[place % len(found)]
    node[key] = new
    return values


BANK = Manifest(4, 2, (1, 8, 8), NAMES, "0" * 64, "1" * 64, 0, 2, MixConfig())


@FILES
@given(PLACES, VALUES)
def test_the_manifest_of_a_bank_with_any_value(
    tmp_path_factory: pytest.TempPathFactory, place: int, new: Any
) -> None:
    folder = tmp_path_factory.mktemp("bank")
    BANK.save(folder)
    values = changed(json.loads((folder / MANIFEST).read_text()), place, new)
    (folder / MANIFEST).write_text(json.dumps(values))
    try:
        manifest = Manifest.load(folder)
    except ValueError:
        return
    for name, value in vars(BANK).items():
        assert type(getattr(manifest, name)) is type(value), name
    assert [str(name) for name in values["classes"]] == [*manifest.classes]
    manifest.save(folder)
    assert Manifest.load(folder) == manifest


@MANY
@given(PLACES, VALUES)
def test_the_shape_of_a_flow_with_any_value(place: int, new: Any) -> None:
    values = FlowConfig(channels=3, image_size=(8, 8)).to_dict()
    try:
        config = FlowConfig.from_dict(changed(values, place, new))
    except (ValueError, TypeError):
        return
    assert FlowConfig.from_dict(config.to_dict()) == config


@FILES
@given(PLACES, VALUES)
def test_a_checkpoint_with_any_value_in_its_manifest(
    tiny_path: Path, tmp_path_factory: pytest.TempPathFactory, place: int, new: Any
) -> None:
    """It loads, or is a CheckpointError, and soon."""
    folder = tmp_path_factory.mktemp("flow") / "flow"
    shutil.copytree(tiny_path, folder)
    values = changed(json.loads((folder / "config.json").read_text()), place, new)
    (folder / "config.json").write_text(json.dumps(values))
    try:
        loaded = nfaug.load(folder)
    except CheckpointError:
        return
    again = nfaug.load(loaded.save(folder, overwrite=True))
    assert again.config == loaded.config
    assert again.flow.config.shape == (1, 8, 8)


# Labels

FORMS: dict[str, Callable[[torch.Tensor], Any]] = {
    "tensor": lambda labels: labels,
    "uint8": lambda labels: labels.to(torch.uint8),
    "array": lambda labels: labels.numpy(),
    "int16 array": lambda labels: labels.numpy().astype(np.int16),
    "list": lambda labels: labels.tolist(),
    "tuple of NumPy": lambda labels: tuple(labels.numpy()),
    "tensors": lambda labels: list(labels),
    "names": lambda labels: [NAMES[label] for label in labels],
    "array of names": lambda labels: np.array([NAMES[label] for label in labels]),
    "one-hot": lambda labels: torch.nn.functional.one_hot(labels, len(NAMES)),
    "one-hot floats": lambda labels: torch.nn.functional.one_hot(labels, len(NAMES)).half(),
    "one-hot bools": lambda labels: torch.nn.functional.one_hot(labels, len(NAMES)).bool(),
    "one-hot array": lambda labels: np.eye(len(NAMES))[labels.numpy()],
    "one-hot lists": lambda labels: np.eye(len(NAMES))[labels.numpy()].tolist(),
    "one-hot tensors": lambda labels: list(torch.eye(len(NAMES))[labels]),
}


@MANY
@given(st.lists(st.integers(0, len(NAMES) - 1), min_size=1, max_size=9), st.sampled_from([*FORMS]))
def test_labels_mean_the_same_in_every_form(labels: list[int], form: str) -> None:
    given_labels = FORMS[form](torch.tensor(labels))
    index, usable = parse_labels(as_labels(given_labels, NAMES), len(NAMES))
    assert index.tolist() == labels
    assert usable.all()


@MANY
@given(st.lists(st.floats(0, 1, width=32), min_size=3, max_size=3))
def test_a_row_is_a_label_if_it_is_one_hot(row: list[float]) -> None:
    _, usable = parse_labels(torch.tensor([row]), 3)
    assert usable.item() == (sorted(row) == [0, 0, 1])


# Layouts

WORDS = ("train", "Train", "training", "train2017", "seg_train", "Training set", "val", "valid",
         "validation", "dev", "val2017", "seg_test", "test", "Test set", "trainer", "train cars",
         "cat", "bus1", "latest")  # fmt: skip
FOLDERS = st.lists(st.sampled_from(WORDS), min_size=1, max_size=4, unique=True)
WRAPPERS = st.sampled_from(["", "data/", "outer/inner/"])


@MANY
@given(FOLDERS, WRAPPERS, st.booleans())
def test_no_image_is_left_out_without_a_word(names: list[str], wrapper: str, deep: bool) -> None:
    """Breaks 43 and 63: every image is in a split, or an error or a warning says why not."""
    inner = ("cat/", "dog/") if deep else ("",)
    files = [f"{wrapper}{name}/{part}{number}.png" for name in names for part in inner
             for number in range(2)]  # fmt: skip
    read: set[str] = set()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for split in ("train", "validation", "test"):
            try:
                found = arrange(files, split, "the data")
            except MissingSplitError:
                continue
            except ValueError:
                return
            assert len(found.paths) == len(found.targets)
            for path, label in zip(found.paths, found.targets.tolist(), strict=True):
                assert path.partition("/")[0] == found.classes[label]
                read.add(found.folder + path)
    assert caught or read == {*files}


@FEW
@given(
    st.lists(st.sampled_from(["a2", "a10", "B", "é", "two words"]), min_size=2, unique=True),
    st.sampled_from([("",), ("train/", "val/"), ("Training/", "Test/")]),
    WRAPPERS,
    st.sampled_from([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
)
def test_a_tar_is_its_folder(
    tmp_path_factory: pytest.TempPathFactory,
    classes: list[str],
    splits: tuple[str, ...],
    wrapper: str,
    kind: int,
) -> None:
    folder = tmp_path_factory.mktemp("layout") / "images"
    for seed, split in enumerate(splits):
        for name in classes:
            save(folder / f"{wrapper}{split}{name}" / "0.png", seed + len(name))
    archive = folder.with_suffix(".tar")
    with tarfile.open(archive, "w", format=kind) as opened:
        opened.add(folder, arcname=".")
    for split in ("train", "test")[: len(splits)]:
        one = open_dataset(folder, split=split)
        other = open_dataset(archive, split=split)
        assert one.classes == other.classes
        assert one.fingerprint() == other.fingerprint()
        assert torch.equal(decode(one), decode(other))
