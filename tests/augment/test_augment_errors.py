from __future__ import annotations

import copy
import dataclasses
import inspect
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from nfa_tools import CLASSES, NAMES, batch_of, checkpoint, fitted, tiny_flow

from nfaug.augment.params import pick_in_batch
from nfaug.augment.transform import NFAugment
from nfaug.data.classes import dataset_classes


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"p": 1.5}, r"^p .*1\.5"),
        ({"p": float("nan")}, "^p .*nan"),
        ({"p": [0.5, 0.5]}, r"\[0\.5, 0\.5\]"),
        ({"p": [0.5, 0.5, 2.0]}, r"^p .*2\.0"),
        ({"p": torch.tensor([0.5, 0.5])}, r"\[0\.5, 0\.5\]"),
        ({"smoothing": 1.0}, r"^smoothing .*1\.0"),
        ({"mean": 0.5}, "std=None"),
        ({"mean": (0.5, 0.5), "std": 1.0}, r"^mean .*\(0\.5, 0\.5\)"),
        ({"mean": 0.5, "std": (0.5, 0.0, 0.5)}, r"^std .*0\.0"),
    ],
)
def test_settings_out_of_range(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NFAugment(checkpoint(), **settings)


def test_invalid_checkpoints() -> None:
    with pytest.raises(ValueError, match="nfaug fit"):
        NFAugment(checkpoint(pca=None))
    with pytest.raises(ValueError, match="partners='memory'"):
        NFAugment(checkpoint(memory=False), partners="memory")
    with pytest.raises(ValueError, match="int"):
        NFAugment(3)
    with pytest.raises(ValueError, match="192"):
        NFAugment((tiny_flow(1), checkpoint().pca))
    with pytest.raises(ValueError, match="3 classes"):
        NFAugment(checkpoint(config=SimpleNamespace(class_names=("a", "b"))))
    if torch.cuda.is_available():
        with pytest.raises(ValueError, match="generator"):
            NFAugment(checkpoint(), generator=torch.Generator("cuda"))


def images_and_labels() -> tuple[torch.Tensor, torch.Tensor]:
    images, labels = batch_of(6)
    return images, labels


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, y: (x[0], y), r"\(3, 8, 8\)"),
        (lambda x, y: (x.to(torch.uint16), y), r"torch\.uint16"),
        (lambda x, y: (x.int(), y), r"torch\.int32"),
        (lambda x, y: (x[:, :1], y), "grayscale flow"),
        (lambda x, y: (x[:, [0, 1, 2, 0]], y), "4 channels"),
        (lambda x, y: (x.float(), y), "255"),
        (lambda x, y: (x / 255 * 4 - 2, y), "mean="),
        (lambda x, y: (x[:, :, :0], y), "pixels"),
        (lambda x, y: (x, y[:4]), "6 images"),
        (lambda x, y: (x, y + 2), r"\[0, 3\).* 4 .*nfaug fit"),
        (lambda x, y: (x, y - 1), "-1 .*without"),
        (lambda x, y: (x, torch.where(y > 1, -100, y)), "-100"),
        (lambda x, y: (x.permute(0, 2, 3, 1), y), "permute"),
        (lambda x, y: (x.numpy(), y.numpy()), "from_numpy"),
        (lambda x, y: (x.permute(0, 2, 3, 1).numpy(), y), "permute"),
        (lambda x, y: (x, y.numpy()), "from_numpy"),
        (lambda x, y: (list(x), y), "stack"),
        (lambda x, y: (x[0], 1), "NFACollate"),
        (lambda x, y: (x[0],), "NFACollate"),
        (lambda x, y: (x, ["cat", "dog", "ele"] * 2), "'eel'"),
        (lambda x, y: (x, y.float()), r"torch\.float32"),
        (lambda x, y: (x, y > 0), r"torch\.bool"),
        (lambda x, y: (x, y[:, None]), r"labels\.squeeze"),
        (lambda x, y: (x, torch.eye(4)[y]), "4 classes"),
        (lambda x, y: (x, torch.ones(6, 3, 8)), r"\(6, 3, 8\)"),
        (lambda x, y: (x, torch.ones(6, 3)), "multi-hot"),
        (lambda x, y: (x, torch.ones(6, 3, dtype=torch.int64)), "multi-hot"),
        (lambda x, y: (x, torch.full((6, 3), float("nan"))), "sum nan"),
        (lambda x, y: (x, torch.tensor([[1.5, -0.5, 0]] * 6)), "negative"),
        (lambda x, y: (x, torch.tensor([[0.7, 0.3, 0]] * 6)), "cutmix"),
        (lambda x, y: (x, torch.full((6, 3), 1 / 3)), "cutmix"),
        (lambda x, y: (x, [0] * 6), "list"),
    ],
)
def test_invalid_batches(change: Any, message: str) -> None:
    nfa = NFAugment(checkpoint())
    with pytest.raises(ValueError, match=message):
        nfa(*change(*images_and_labels()))


def test_grayscale_flow_on_rgb_images() -> None:
    nfa = NFAugment(checkpoint(channels=1))
    images, labels = images_and_labels()
    with pytest.raises(ValueError, match="grayscale"):
        nfa(images, labels)
    assert nfa(images[:, :1], labels)[0].shape == (6, 1, 8, 8)


def test_wrong_normalization_is_detected() -> None:
    nfa = NFAugment(checkpoint(), mean=0.5, std=0.25)
    images, labels = images_and_labels()
    with pytest.raises(ValueError, match=r"\(0\.25,"):
        nfa(images.float(), labels)
    nfa(images, labels)  # 8-bit images are not normalised
    double = torch.full((6, 3, 8, 8), 1e300, dtype=torch.float64)  # infinite in float32 only
    for other in (nfa, NFAugment(checkpoint())):
        with pytest.raises(ValueError, match="to inf"):
            other(double, labels)


@pytest.mark.parametrize(
    ("mean", "std", "name"),
    [((123.675, 116.28, 103.53), (58.395, 57.12, 57.375), "mean"), (0.5, 58.4, "std")],
)
def test_mean_and_std_in_grey_levels_are_refused(mean: Any, std: Any, name: str) -> None:
    with pytest.raises(ValueError, match=f"^{name} .*255"):
        NFAugment(checkpoint(), mean=mean, std=std)
    NFAugment(checkpoint(), mean=0.0, std=1 / 255)  # float images in grey levels


@pytest.mark.parametrize(("mean", "std"), [(0.5, 0.5), (0.45, 0.225), (0.5, (1.0, 0.1, 0.1))])
def test_erasing_with_noise_is_within_the_range(mean: float, std: Any) -> None:
    nfa = NFAugment(checkpoint(), p=1.0, mean=mean, std=std)
    images, labels = images_and_labels()
    normalised = (images / 255 - mean) / torch.tensor(std).expand(3)[:, None, None]
    noise = torch.randn(6, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    noise[0, 0, 0, 0], noise[0, 0, 0, 1] = 5.5, -5.5  # one in 25 million
    normalised[..., 2:7, 2:7] = noise  # timm's RandomErasing, mode "pixel"
    new = nfa(normalised, labels)[0]
    assert torch.isfinite(new).all()
    assert nfa.stats()["gated"] > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_one_hot_and_smoothed_labels(dtype: torch.dtype) -> None:
    images, labels = images_and_labels()
    hot = torch.nn.functional.one_hot(labels, CLASSES)
    nfa = NFAugment(checkpoint(), p=1.0)
    params = nfa.make_params(labels)
    expected = nfa(images, labels, params=params)[0]
    smooth = (hot * 0.9 + 0.1 / CLASSES).to(dtype)
    for soft in (hot, hot.bool(), hot.to(dtype), smooth):
        new, same = nfa(images, soft, params=params)
        assert torch.equal(new, expected)
        assert same is soft
    exact = NFAugment(checkpoint(), p=1.0, smoothing=0.1)
    assert torch.equal(exact(images, smooth, params=params)[0], expected)
    with pytest.raises(ValueError, match=r"0\.1"):
        exact(images, (hot * 0.8 + 0.2 / CLASSES).to(dtype))


def test_two_classes_need_smoothing() -> None:
    from nfaug.augment.labels import check_usable, class_indices

    rows = torch.tensor([[0.95, 0.05], [0.05, 0.95]])
    index, usable = class_indices(rows, 2)
    assert not usable.any()
    with pytest.raises(ValueError, match="smoothing="):
        check_usable(rows, usable, 2)
    index, usable = class_indices(rows, 2, smoothing=0.1)
    assert usable.all()
    assert index.tolist() == [0, 1]
    assert class_indices(torch.eye(2), 2)[1].all()
    assert not class_indices(torch.tensor([[0.7, 0.3]]), 2, smoothing=0.1)[1].any()
    assert class_indices(torch.ones(3, 1), 1)[1].all()


def test_class_names_are_compared_in_order() -> None:
    nfa = NFAugment(checkpoint())
    nfa.check_classes({"cat": 0, "eel": 2, "dog": 1})
    nfa.check_classes(["cat", "dog", "eel"])
    nfa.check_classes(SimpleNamespace(classes=("cat", "dog", "eel")))
    wrapped = SimpleNamespace(dataset=SimpleNamespace(class_to_idx={"cat": 0, "dog": 1, "eel": 2}))
    nfa.check_classes(wrapped)
    reader = SimpleNamespace(reader=SimpleNamespace(class_to_idx={"cat": 0, "dog": 1, "eel": 2}))
    nfa.check_classes(reader)
    with pytest.raises(ValueError, match="'eel'"):
        nfa.check_classes({"cat": 0, "eel": 1, "dog": 2})
    with pytest.raises(ValueError, match="'fox'"):
        nfa.check_classes(["cat", "fox"])
    with pytest.raises(ValueError, match="class_to_idx"):
        nfa.check_classes({"cat": 1, "dog": 2})
    with pytest.raises(ValueError, match=" int"):
        nfa.check_classes(3)
    with pytest.raises(ValueError, match="class names"):
        NFAugment((tiny_flow(), checkpoint().pca)).check_classes(["cat"])
    assert dataset_classes(object()) is None


def test_partners_in_a_batch_are_uniform_over_the_others() -> None:
    labels = torch.tensor([0, 1, 0, 0, 1, 2])
    allowed = torch.tensor([True, True, True, False, True, True])
    coins = [torch.full((6,), coin) for coin in (0, 2**30, 2**31 - 1)]
    found = [pick_in_batch(coin, labels, allowed)[0] for coin in coins]
    paired = pick_in_batch(coins[0], labels, allowed)[1]
    assert paired.tolist() == [True, True, True, True, True, False]
    assert [f[0].item() for f in found] == [2, 2, 2]
    assert [f[3].item() for f in found] == [0, 2, 2]
    assert [f[1].item() for f in found] == [4, 4, 4]


def test_unknown_keywords_suggest_the_nearest() -> None:
    for make in (NFAugment, NFAugment.from_pretrained):
        for wrong, right in (("prob", "p"), ("smothing", "smoothing"), ("partner", "partners")):
            with pytest.raises(TypeError, match=f"'{right}'"):
                make(checkpoint(), **{wrong: 0.5})  # type: ignore[operator]


def test_keywords_are_typed() -> None:
    own = set(inspect.signature(NFAugment).parameters) - {"checkpoint"}
    assert own == set(AugmentKeywords.__annotations__)
    assert NFAugment.from_pretrained.__annotations__["kwargs"] == "Unpack[AugmentKeywords]"


def test_labels_by_name() -> None:
    images, labels = batch_of(6)
    nfa = NFAugment(checkpoint(), p=1.0)
    params = nfa.make_params(labels)
    expected = nfa(images, labels, params=params)[0]
    names = [NAMES[label] for label in labels]
    for given in (names, tuple(names), np.array(names)):
        new, same = nfa(images, given, params=params)
        assert torch.equal(new, expected)
        assert same is given or list(same) == names
    assert torch.equal(nfa({"image": images, "label": names}, params=params)["image"], expected)


def test_errors_name_what_arrived() -> None:
    images, labels = batch_of(6)
    nfa = NFAugment(checkpoint())
    for settings, message in (
        ({"alpha": None}, "^alpha .*None"),
        ({"p": None}, "^p .*None"),
        ({"strength": "x"}, "^strength .*'x'"),
    ):
        with pytest.raises(ValueError, match=message):
            NFAugment(checkpoint(), **settings)
    with pytest.raises(ValueError, match=r"\(\)"):
        nfa(images[:1], torch.tensor(3))
    mean, std = torch.tensor(0.5), torch.tensor(0.2)
    normalized = NFAugment(checkpoint(), mean=mean, std=std).normalization
    assert normalized is not None
    assert normalized[0] == (0.5,) * 3
    of_channels = torch.tensor([0.25, 0.5, 0.75]).view(1, 3, 1, 1)  # to broadcast over a batch
    normalized = NFAugment(checkpoint(), mean=of_channels, std=std).normalization
    assert normalized is not None
    assert normalized[0] == (0.25, 0.5, 0.75)
    bgr = np.array([0.75, 0.5, 0.25], dtype=">f8")[::-1]  # neither this order nor these strides
    assert NFAugment(checkpoint(), mean=bgr, std=std).normalization == normalized
    read_only = std.numpy().repeat(3)
    read_only.flags.writeable = False
    assert NFAugment(checkpoint(), mean=of_channels, std=read_only).normalization == normalized
    named = nfa.make_params([NAMES[y] for y in labels], generator=torch.Generator().manual_seed(0))
    drawn = nfa.make_params(labels, generator=torch.Generator().manual_seed(0))
    assert torch.equal(named.partner, drawn.partner)


def test_moving_the_checkpoint_later_does_not_break_it() -> None:
    images, labels = batch_of(12)
    parts = fitted()
    parts = dataclasses.replace(parts, pca=copy.deepcopy(parts.pca))
    assert parts.pca is not None
    nfa = NFAugment(parts, p=1.0, gate=False, generator=torch.Generator().manual_seed(0))
    for part in (parts.pca, parts.gaussians):
        part.to("meta")
    new, _ = nfa(images, labels)
    assert (new != images).any()
