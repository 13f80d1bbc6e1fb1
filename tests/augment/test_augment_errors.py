"""Invalid settings, checkpoints, images and labels raise errors that quote what arrived."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tools.nfa import (
    CLASSES,
    NAMES,
    Config,
    TensorImages,
    batch_of,
    checkpoint,
    images_of,
    tiny_flow,
)

import nfaug
from nfaug.augment.samples import parse_labels
from nfaug.augment.transform import NFAugment


def test_invalid_checkpoints() -> None:
    with pytest.raises(ValueError, match="nfaug fit"):
        NFAugment(checkpoint(pca=None))
    with pytest.raises(ValueError, match="192"):
        NFAugment(dataclasses.replace(checkpoint(), flow=tiny_flow(1)))
    with pytest.raises(ValueError, match="partners='memory'"):
        NFAugment(checkpoint(memory=False), partners="memory")
    if torch.cuda.is_available():
        with pytest.raises(ValueError, match="generator"):
            NFAugment(checkpoint(), generator=torch.Generator("cuda"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, y: (x[0], y), r"\(3, 8, 8\)"),
        (lambda x, y: (x.int(), y), r"torch\.int32"),
        (lambda x, y: (x[:, :1], y), r"\(6, 1, 8, 8\)"),
        (lambda x, y: (x.float(), y), "255"),
        (lambda x, y: (x / 255 * 4 - 2, y), "mean="),
        (lambda x, y: (torch.full_like(x, 1e300, dtype=torch.float64), y), "to inf"),
        (lambda x, y: (x.permute(0, 2, 3, 1), y), "permute"),
        (lambda x, y: (x, y[:4]), "6 images"),
        (lambda x, y: (x, y + 2), r"\[0, 3\).* 4 .*nfaug fit"),
        (lambda x, y: (x, torch.where(y > 1, -100, y)), "-100"),
        (lambda x, y: (x.numpy(), y), r"ndarray \(6, 3, 8, 8\)"),
        (lambda x, y: (x, {*y.tolist()}), "set"),
        (lambda x, y: (list(x), y), r"\[0\]\[1\]: torch"),
        (lambda x, y: (x[0], 1), "NFACollate"),
        (lambda x, y: (x, ["cat", "dog", "ele"] * 2), "'ele'"),
        (lambda x, y: (x, [0.5] * 6), "float32"),
        (lambda x, y: (x, y.float()), r"torch\.float32"),
        (lambda x, y: (x, y[:, None]), r"\(6, 1\)"),
        (lambda x, y: (x, torch.eye(4)[y]), r"\(6, 4\)"),
        (lambda x, y: (x, torch.ones(6, 3)), "1, 1, 1"),
        (lambda x, y: (x, torch.full((6, 3), float("nan"))), "nan"),
        (lambda x, y: (x, torch.tensor([[1.5, -0.5, 0]] * 6)), "1.5"),
        (lambda x, y: (x, torch.tensor([[0.7, 0.3, 0]] * 6)), "cutmix"),
    ],
)
def test_invalid_batches(change: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NFAugment(checkpoint())(*change(*batch_of(6)))


def test_normalization_that_is_wrong_or_in_other_containers() -> None:
    images, labels = batch_of(6)
    nfa = NFAugment(checkpoint(), mean=0.5, std=0.25)
    with pytest.raises(ValueError, match=r"\(0\.25,"):
        nfa(images.float(), labels)
    nfa(images, labels)  # 8-bit images are not normalized
    of_channels = torch.tensor([0.25, 0.5, 0.75]).view(1, 3, 1, 1)  # to broadcast over a batch
    bgr = np.array([0.75, 0.5, 0.25], dtype=">f8")[::-1]  # neither this order nor these strides
    for mean in (of_channels, bgr, [0.25, 0.5, 0.75]):
        found = NFAugment(checkpoint(), mean=mean, std=torch.tensor(0.25)).normalization
        assert (found.mean, found.std) == ((0.25, 0.5, 0.75), (0.25,) * 3)


@pytest.mark.parametrize(("mean", "std"), [(0.5, 0.5), (0.45, 0.225), (0.5, (1.0, 0.1, 0.1))])
def test_erasing_with_noise_is_within_the_range(mean: float, std: Any) -> None:
    nfa = NFAugment(checkpoint(), p=1.0, mean=mean, std=std)
    images, labels = batch_of(6)
    normalized = (images / 255 - mean) / torch.tensor(std).expand(3)[:, None, None]
    noise = torch.randn(6, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    noise[0, 0, 0, 0], noise[0, 0, 0, 1] = 5.5, -5.5  # one in 25 million
    normalized[..., 2:7, 2:7] = noise  # timm's RandomErasing, mode "pixel"
    assert torch.isfinite(nfa(normalized, labels)[0]).all()
    assert nfa.stats()["gated"] > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_one_hot_labels(dtype: torch.dtype) -> None:
    images, labels = batch_of(6)
    hot = torch.nn.functional.one_hot(labels, CLASSES)
    nfa = NFAugment(checkpoint(), p=1.0)
    draws = nfa.draw(labels)
    expected = nfa.replay(images, labels, draws)[0]
    for rows in (hot, hot.bool(), hot.to(dtype)):
        new, same = nfa.replay(images, rows, draws)
        assert torch.equal(new, expected)
        assert same is rows
    smooth = (hot * 0.9 + 0.1 / CLASSES).to(dtype)
    with pytest.raises(ValueError, match="label smoothing"):
        nfa(images, smooth)


def test_class_names_are_compared_in_order() -> None:
    nfa = NFAugment(checkpoint())
    nfa.check_classes({"cat": 0, "eel": 2, "dog": 1})
    nfa.check_classes(object(), required=False)
    nameless = dataclasses.replace(checkpoint(), config=Config(("0", "1", "2")))
    NFAugment(nameless).check_classes(NAMES, required=False)  # a fit of labels without names
    with pytest.raises(ValueError, match="another order"):
        NFAugment(nameless).check_classes(["0", "2", "1"], required=False)
    with pytest.raises(ValueError, match="'cat'"):
        NFAugment(nameless).check_classes(NAMES)
    for classes, message in (({"cat": 0, "eel": 1, "dog": 2}, "'eel'"), (["fox"], "'fox'")):
        with pytest.raises(ValueError, match=message):
            nfa.check_classes(classes)


def test_a_bundled_flow_warns_once_unless_its_classes_are_compared(tmp_path: Path) -> None:
    images, labels = batch_of(6)
    for make in (NFAugment, NFAugment.from_pretrained):
        nfa = make("builtin:rgb32")
        with pytest.warns(UserWarning, match=r"0 airplane.*nfaug\.fit\('builtin:rgb32'"):
            nfa(images, labels)
        nfa(images, labels)
        checked = make("builtin:rgb32")
        with pytest.raises(ValueError, match="'airplane'"):
            checked.check_classes(NAMES)
        checked.check_classes(checked.classes)
        checked(images, labels)
    for given in (labels.tolist(), labels.numpy()):
        with pytest.warns(UserWarning, match="0 airplane"):
            NFAugment("builtin:rgb32")(images, given)
    by_name = NFAugment("builtin:rgb32")
    by_name(images, [by_name.classes[label] for label in labels])
    order = torch.arange(24) % 12
    numbered = TensorImages(images_of(order), order, [str(label) for label in range(12)])
    fitted = nfaug.fit("builtin:pixels", numbered, rank=1, progress=False)
    with pytest.warns(UserWarning, match="natural order"):
        NFAugment.from_pretrained(fitted.save(tmp_path / "flow"))(images, labels)


@pytest.mark.parametrize("given", [0, "cpu"])
def test_a_generator_of_another_kind(given: Any) -> None:
    with pytest.raises(ValueError, match=r"torch\.Generator; got"):
        NFAugment(checkpoint(), generator=given)


def test_labels_by_name() -> None:
    images, labels = batch_of(6)
    nfa = NFAugment(checkpoint(), p=1.0)
    draws = nfa.draw(labels)
    expected = nfa.replay(images, labels, draws)[0]
    names = [NAMES[label] for label in labels]
    for given in (names, tuple(names), np.array(names)):
        new, same = nfa.replay(images, given, draws)
        assert torch.equal(new, expected)
        assert same is given or list(same) == names
    assert torch.equal(nfa.replay({"image": images, "label": names}, draws)["image"], expected)
    one, two = (nfa.draw(x, generator=torch.Generator()) for x in (names, labels))
    assert torch.equal(one.partner, two.partner)


def test_lists_and_arrays_of_labels() -> None:
    images, labels = batch_of(6)
    nfa = NFAugment(checkpoint(), p=1.0)
    draws = nfa.draw(labels)
    expected = nfa.replay(images, labels, draws)[0]
    hot = torch.nn.functional.one_hot(labels, CLASSES)
    for given in (
        labels.tolist(),
        labels.numpy(),
        hot.tolist(),
        hot.numpy(),
        tuple(labels.tolist()),
    ):
        assert torch.equal(nfa.replay(images, given, draws)[0], expected)
    for wrong in ([[1], [1, 2]], [None] * 6, {1, 2}):
        with pytest.raises(ValueError, match="labels must"):
            nfa(images, wrong)


def test_rows_that_are_one_hot() -> None:
    rows = torch.tensor([[0.95, 0.05], [0.05, 0.95], [0.0, 1.0], [1.0, 1.0], [0.0, 0.0]])
    assert parse_labels(rows, 2)[1].tolist() == [False, False, True, False, False]
    assert parse_labels(torch.full((1, 2), torch.nan), 2)[1].tolist() == [False]
    assert parse_labels(torch.ones(3, 1), 1)[1].all()


@pytest.mark.parametrize("make", [nfaug.NFAugment, nfaug.NFAugment.from_pretrained])
def test_a_checkpoint_that_is_not_fitted(make: Any) -> None:
    """What a newcomer types: the error has the line to type instead."""
    with pytest.raises(ValueError, match=r"nfaug\.fit\('builtin:pixels', dataset\)"):
        make("builtin:pixels")
    with pytest.raises(ValueError, match=r"nfaug\.fit\(checkpoint, dataset\)"):
        nfaug.NFAugment(nfaug.load("builtin:pixels"))


def test_draws_and_configs_in_the_wrong_place() -> None:
    images, labels = batch_of(12)
    nfa = nfaug.NFAugment(checkpoint())
    draws = nfa.draw(labels)
    calls: dict[str, Callable[[], object]] = {
        "nfa.replay": lambda: nfa(images, labels, draws),
        r"\['Draws'\]": lambda: nfa.replay(draws),
        "a nfaug.MixConfig; got None": lambda: setattr(nfa, "config", None),
        "a nfaug.MixConfig; got {'p'": lambda: nfaug.NFAugment(checkpoint(), config={"p": 1}),  # type: ignore[arg-type]
    }
    for said, call in calls.items():
        with pytest.raises(ValueError, match=said):
            call()
    with pytest.raises(AttributeError, match="mix='pair'"):
        nfa.mix = "pair"


def test_errors_say_what_to_do() -> None:
    dataset = TensorImages(torch.zeros(4, 3, 8, 8, dtype=torch.uint8), torch.arange(4) % 2, NAMES)
    with pytest.raises(TypeError, match="Images are fitted first: NFAugment"):
        nfaug.NFAugment(dataset)
    with pytest.raises(TypeError, match="the checkpoint comes first"):
        nfaug.fit(dataset, "builtin:pixels")  # type: ignore[arg-type]
    with pytest.raises(FileNotFoundError, match="did you mean builtin:pixels"):
        nfaug.fit("pixels", dataset)
