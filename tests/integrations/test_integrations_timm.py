from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import timm.data
import torch
from nfa_tools import CLASSES, NAMES, batch_of, checkpoint, images_of
from PIL import Image
from timm.data import (
    FastCollateMixup,
    Mixup,
    ScheduledTransformDataset,
    create_dataset,
    create_loader,
)
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from nfaug.augment.transform import NFAugment
from nfaug.checkpoint.checkpoint import Checkpoint, CheckpointConfig
from nfaug.integrations.timm import NFALoader, format_stats, run_script

# timm's reader leaves the files that it opened to the garbage collector.
pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = Path(__file__).parents[1] / "timm_train.py"
CPU = torch.device("cpu")
CLIP_MEAN, CLIP_STD = (0.481, 0.458, 0.408), (0.269, 0.261, 0.276)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve training and six validation images of three classes."""
    root = tmp_path_factory.mktemp("images")
    for split, count in (("train", 4), ("val", 2)):
        for label, name in enumerate(NAMES):
            (root / split / name).mkdir(parents=True)
            images = images_of(torch.full((count,), label), seed=label, size=(24, 24))
            for number, image in enumerate(images):
                picture = Image.fromarray(image.permute(1, 2, 0).numpy())
                picture.save(root / split / name / f"{number}.png")
    return root


@pytest.fixture(scope="module")
def flow_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    parts = checkpoint()
    config = CheckpointConfig(parts.flow.config, class_names=NAMES)
    path = tmp_path_factory.mktemp("flow") / "tiny"
    return Checkpoint(parts.flow, config, pca=parts.pca).save(path)


def make_nfa(**settings: Any) -> NFAugment:
    return NFAugment(checkpoint(), **{"p": 1.0, "gate": False, **settings})


def make_loader(folder: Path, *, prefetcher: bool = True, batch: int = 4, **settings: Any) -> Any:
    return create_loader(
        create_dataset("", root=str(folder), split="train"),
        input_size=(3, 16, 16),
        batch_size=batch,
        is_training=True,
        no_aug=True,
        mean=CLIP_MEAN,
        std=CLIP_STD,
        num_workers=0,
        use_prefetcher=prefetcher,
        device=CPU,
        **settings,
    )


@pytest.mark.parametrize("prefetcher", [True, False])
def test_it_takes_the_normalisation_of_the_loader(folder: Path, prefetcher: bool) -> None:
    nfa = make_nfa()
    plain = make_loader(folder, prefetcher=prefetcher)
    loader = NFALoader(plain, nfa, device=CPU)
    assert nfa.normalization is not None
    assert torch.allclose(torch.tensor(nfa.normalization), torch.tensor([CLIP_MEAN, CLIP_STD]))
    assert len(loader) == len(plain) == 3
    assert loader.dataset is plain.dataset
    assert loader.sampler is plain.sampler
    assert list(loader.batch_sampler)
    batches = list(loader)
    assert [tuple(images.shape) for images, _ in batches] == [(4, 3, 16, 16)] * 3
    assert sorted(torch.cat([labels for _, labels in batches]).tolist()) == [0, 1, 2] * 0 + [
        0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2,
    ]  # fmt: skip
    assert nfa.stats()["applied"] == 12
    std = torch.tensor(CLIP_STD)[:, None, None]
    unit = (
        torch.cat([images for images, _ in batches]) * std + torch.tensor(CLIP_MEAN)[:, None, None]
    )
    assert ((unit > -1e-4) & (unit < 1 + 1e-4)).all()
    with pytest.raises(ValueError, match="normalises"):
        NFALoader(plain, make_nfa(mean=0.5, std=0.5))
    NFALoader(plain, make_nfa(mean=CLIP_MEAN, std=CLIP_STD))


def test_a_loader_in_bfloat16_rounds_its_mean(folder: Path) -> None:
    mean, std = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)  # of CIFAR-100
    loader = create_loader(
        create_dataset("", root=str(folder), split="train"), (3, 16, 16), 4, mean=mean, std=std,
        is_training=True, num_workers=0, device=CPU, img_dtype=torch.bfloat16,
    )  # fmt: skip
    assert abs(float(loader.mean.flatten()[0]) / 255 - mean[0]) > 1e-3
    NFALoader(loader, make_nfa(mean=mean, std=std))
    with pytest.raises(ValueError, match="normalises"):
        NFALoader(loader, make_nfa(mean=0.48, std=std))


def test_it_takes_the_normalisation_of_several_sizes(folder: Path) -> None:
    """timm's --train-img-sizes, without a prefetcher that would know it."""

    def plain(transforms: list[Any]) -> DataLoader[Any]:
        source = create_dataset("", root=str(folder), split="train")
        data = ScheduledTransformDataset(source, transforms)
        return DataLoader(data, batch_sampler=[[(0, 0), (4, 0)], [(1, 1), (5, 1)]])

    def transform(size: int) -> Any:
        shape, statistics = (3, size, size), {"mean": CLIP_MEAN, "std": CLIP_STD}
        return timm.data.create_transform(shape, is_training=True, no_aug=True, **statistics)

    nfa = make_nfa()
    loader = NFALoader(plain([transform(16), transform(24)]), nfa)
    assert nfa.normalization is not None
    assert torch.allclose(torch.tensor(nfa.normalization), torch.tensor([CLIP_MEAN, CLIP_STD]))
    assert [images.shape[-1] for images, _ in loader] == [16, 24]
    assert nfa.stats()["applied"] == 4


@pytest.mark.parametrize("mode", ["batch", "pair", "elem"])
def test_mixing_moves_from_the_workers_to_behind_nfa(folder: Path, mode: str) -> None:
    collate = FastCollateMixup(mixup_alpha=1.0, cutmix_alpha=1.0, mode=mode, num_classes=CLASSES)
    plain = make_loader(folder, collate_fn=collate)
    nfa = make_nfa()
    loader = NFALoader(plain, nfa)
    assert isinstance(loader.mixup, Mixup)
    assert loader.mixup.mode == mode
    assert loader.mixup_enabled
    batches = list(loader)
    assert {tuple(labels.shape) for _, labels in batches} == {(4, 3)}
    assert nfa.stats()["applied"] == 12, "NFA saw images that were not mixed yet"
    loader.mixup_enabled = False
    assert not loader.mixup_enabled
    pure = torch.cat([labels for _, labels in loader])
    assert torch.allclose(pure.max(1).values, torch.tensor(0.9 + 0.1 / CLASSES)), "smoothed only"
    assert nfa.stats()["applied"] == 24, "--mixup-off-epoch leaves NFA on"
    nfa.enabled = False
    list(loader)
    assert nfa.stats()["applied"] == 24


def test_a_given_mixup() -> None:
    images, labels = batch_of(8)
    plain = DataLoader(TensorDataset(images / 255, labels), batch_size=4)
    mixup = Mixup(mixup_alpha=1.0, num_classes=CLASSES, label_smoothing=0.0)
    loader = NFALoader(plain, make_nfa(strength=0.0), mixup=mixup)
    assert [labels.shape for _, labels in loader] == [(4, CLASSES)] * 2
    assert loader.mixup_enabled
    assert mixup.mixup_enabled
    loader.mixup_enabled = False
    assert not mixup.mixup_enabled
    own = NFALoader(plain, make_nfa(), mixup=lambda x, y: (x * 0, y))
    assert not next(iter(own))[0].any()
    assert not own.mixup_enabled


def test_epochs_and_the_off_epoch() -> None:
    images, labels = batch_of(8)
    told: list[int] = []
    sampler = SimpleNamespace(set_epoch=told.append)
    plain = SimpleNamespace(
        dataset=None, sampler=sampler, batch_sampler=None, __len__=lambda: 1, loader=None
    )
    nfa = make_nfa()
    counted = NFALoader(DataLoader(TensorDataset(images, labels), batch_size=8), nfa, off_epoch=2)
    for _ in range(4):
        list(counted)
    assert nfa.stats()["seen"] == 16, "two passes, then off"
    told_loader = NFALoader(
        DataLoader(TensorDataset(images, labels), batch_size=8), nfa, off_epoch=2
    )
    told_loader.batch_sampler.set_epoch(5)  # as after a resume
    list(told_loader)
    assert nfa.stats()["seen"] == 16
    told_loader.set_epoch(1)
    list(told_loader)
    assert nfa.stats()["seen"] == 24
    NFALoader(plain, nfa).batch_sampler.set_epoch(3)
    assert told == [3], "the sampler is told too"


def test_what_cannot_be_served_is_refused(folder: Path) -> None:
    nfa = make_nfa()
    other = NFAugment(checkpoint(config=SimpleNamespace(class_names=("cat", "eel", "dog"))))
    with pytest.raises(ValueError, match="another order"):
        NFALoader(make_loader(folder), other)
    NFALoader(make_loader(folder), other, check_classes=False)
    with pytest.raises(ValueError, match="twice"):
        NFALoader(NFALoader(make_loader(folder), nfa), nfa)
    mixing = FastCollateMixup(mixup_alpha=1.0, num_classes=CLASSES)
    with pytest.raises(ValueError, match="FastCollateMixup"):
        NFALoader(make_loader(folder, collate_fn=mixing), nfa, mixup=Mixup(num_classes=CLASSES))
    half = FastCollateMixup(mixup_alpha=1.0, mode="half", num_classes=CLASSES)
    with pytest.raises(ValueError, match="'half'"):
        NFALoader(make_loader(folder, collate_fn=half), nfa)
    splits = timm.data.AugMixDataset(create_dataset("", root=str(folder), split="train"))
    with pytest.raises(ValueError, match="AugMix"):
        NFALoader(DataLoader(splits), nfa)
    patches = {"patches": torch.zeros(2, 4, 8), "labels": torch.zeros(2, dtype=torch.int64)}
    with pytest.raises(ValueError, match="NaFlex"):
        list(NFALoader([(patches, patches["labels"])], nfa))
    sample = {"image": batch_of(4)[0], "labels": batch_of(4)[1]}
    with pytest.raises(ValueError, match="dict"):
        list(NFALoader([sample], nfa, mixup=Mixup(num_classes=CLASSES), device=CPU))


@pytest.mark.parametrize("prefetcher", [True, False])
def test_an_unedited_script_with_everything_on(
    folder: Path, tmp_path: Path, prefetcher: bool
) -> None:
    nfa = make_nfa()
    arguments = [
        str(folder), "--out", str(tmp_path / "record.json"), "--epochs", "3", "--mixup", "0.8",
        "--cutmix", "1.0", "--mixup-off-epoch", "2", "--aa", "rand-m9-mstd0.5", "--reprob", "0.5",
    ]  # fmt: skip
    before = timm.data.create_loader, sys.argv, list(sys.path)
    stats = run_script(
        SCRIPT, arguments + ["--no-prefetcher"] * (not prefetcher), nfa, prob=0.5, off_epoch=2
    )
    assert (timm.data.create_loader, sys.argv, sys.path) == before
    record = json.loads((tmp_path / "record.json").read_text())
    assert record["sizes"] == [[4, 3, 32, 32]] * 9
    assert record["labels"][6:] == ["pure"] * 3, "--mixup-off-epoch"
    assert "mixed" in record["labels"][:6]
    assert record["eval"] == 6
    assert stats["seen"] == 24, "NFA is off in the third epoch"
    assert stats["applied"] >= 6
    assert nfa.p == 0.5
    assert format_stats(stats).startswith("NFA: of 24 images applied ")


@pytest.mark.parametrize(
    ("model", "size"),
    [
        ("resnet18", "32"),
        ("convnext_atto", "32"),
        ("swin_tiny_patch4_window7_224", "32"),
        ("eva02_tiny_patch14_224", "28"),
    ],
)
def test_models_by_script_and_by_example(
    folder: Path,
    flow_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    model: str,
    size: str,
) -> None:
    out = tmp_path / "record.json"
    nfa = make_nfa()
    run_script(SCRIPT, [str(folder), "--out", str(out), "--model", model, "--img-size", size], nfa)
    assert json.loads(out.read_text())["sizes"] == [[4, 3, int(size), int(size)]] * 3
    assert nfa.stats()["applied"] == 12
    arguments = [
        "finetune_timm.py", str(folder), "--nfa", str(flow_dir), "--model", model, "--img-size",
        size, "--no-pretrained", "--epochs", "1", "--batch-size", "6", "--workers", "0",
        "--device", "cpu", "--mixup", "0.2",
    ]  # fmt: skip
    monkeypatch.setattr(sys, "argv", arguments)
    runpy.run_path(str(ROOT / "examples" / "finetune_timm.py"), run_name="__main__")
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("epoch 1: loss ")
    assert printed[-1].startswith("NFA: of 12 images applied ")


def test_scripts_that_will_not_do(folder: Path, tmp_path: Path, flow_dir: Path) -> None:
    nfa = make_nfa()
    with pytest.raises(ValueError, match="nowhere"):
        run_script("nowhere.py", [], nfa)
    idle = tmp_path / "idle.py"
    idle.write_text("import sys\nsys.exit(0)\n")
    with pytest.raises(ValueError, match="create_loader"):
        run_script(idle, [], flow_dir)
    idle.write_text("import sys\nsys.exit(3)\n")
    with pytest.raises(SystemExit):
        run_script(idle, [], nfa)
    with pytest.raises(ValueError, match="--naflex-loader"):
        run_script(SCRIPT, [str(folder), "--naflex-loader"], nfa)
    with pytest.raises(ValueError, match="--aug-splits"):
        run_script(SCRIPT, [str(folder), "--aug-splits", "3"], nfa)
    original = timm.data.create_loader
    assert original.__module__ == "timm.data.loader", "restored after a failure"


def test_batches_may_carry_more(folder: Path) -> None:
    images, labels = batch_of(4)
    batch: list[Any] = [images, labels, torch.arange(4)]
    mixup = Mixup(mixup_alpha=1.0, num_classes=CLASSES)
    (out,) = NFALoader([batch], make_nfa(), mixup=lambda x, y: mixup(x.float() / 255, y))
    assert isinstance(out[1], Tensor)
    assert out[2].tolist() == [0, 1, 2, 3]


def test_a_named_batch_is_moved_too() -> None:
    class Batch(NamedTuple):
        images: Tensor
        labels: Tensor

    images, labels = batch_of(4)
    nfa = make_nfa()
    nfa.eval()
    (out,) = NFALoader([Batch(images, labels)], nfa, device="meta")
    assert isinstance(out, Batch)
    assert out.images.device.type == out.labels.device.type == "meta"
