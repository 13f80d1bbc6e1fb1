from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import timm.data
import torch
from accelerate.data_loader import prepare_data_loader
from timm.data import (
    FastCollateMixup,
    Mixup,
    ScheduledTransformDataset,
    create_dataset,
    create_loader,
)
from tools.nfa import CLASSES, batch_of, checkpoint
from torch.utils.data import DataLoader, TensorDataset

from nfaug.augment.transform import NFAugment
from nfaug.integrations.timm import NFALoader, run_script
from nfaug.integrations.timm.counts import format_stats, many_unchanged
from nfaug.integrations.torchvision import NFACollate

# timm's reader leaves the files that it opened to the garbage collector.
pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = Path(__file__).parents[1] / "tools/timm_train.py"
CPU = torch.device("cpu")
CLIP_MEAN, CLIP_STD = (0.481, 0.458, 0.408), (0.269, 0.261, 0.276)


def make_nfa(**settings: Any) -> NFAugment:
    return NFAugment(checkpoint(), **{"p": 1.0, "gate": None, **settings})


def make_loader(folder: Path, *, prefetcher: bool = True, batch: int = 4, **settings: Any) -> Any:
    return create_loader(
        create_dataset("", root=str(folder), split="train"),
        input_size=(3, 16, 16),
        batch_size=batch,
        is_training=True,
        mean=CLIP_MEAN,
        std=CLIP_STD,
        use_prefetcher=prefetcher,
        device=CPU,
        **{"no_aug": True, "num_workers": 0, **settings},
    )


class Loader(list[Any]):
    """Batches, and the data set that they are of."""

    def __init__(self, batches: list[Any], dataset: Any) -> None:
        super().__init__(batches)
        self.dataset = dataset


@pytest.mark.parametrize("prefetcher", [True, False])
def test_it_takes_the_normalisation_of_the_loader(folder: Path, prefetcher: bool) -> None:
    nfa = make_nfa()
    plain = make_loader(folder, prefetcher=prefetcher)
    loader = NFALoader(plain, nfa, device=CPU)
    assert nfa.normalization.mean == pytest.approx(CLIP_MEAN)
    assert nfa.normalization.std == pytest.approx(CLIP_STD)
    assert len(loader) == len(plain) == 3
    assert loader.dataset is plain.dataset
    assert loader.sampler is plain.sampler
    batches = list(loader)
    assert [tuple(images.shape) for images, _ in batches] == [(4, 3, 16, 16)] * 3
    labels = torch.cat([labels for _, labels in batches])
    assert sorted(labels.tolist()) == [0] * 4 + [1] * 4 + [2] * 4
    assert nfa.stats()["applied"] == 12
    unit = nfa.normalization.unit(torch.cat([images for images, _ in batches]))
    assert ((unit > -1e-4) & (unit < 1 + 1e-4)).all()
    with pytest.raises(ValueError, match="normalizes"):
        NFALoader(plain, make_nfa(mean=0.5, std=0.5))
    NFALoader(plain, make_nfa(mean=CLIP_MEAN, std=CLIP_STD))


@pytest.mark.parametrize("prefetcher", [True, False])
def test_a_checkpoint_of_other_channels(folder: Path, prefetcher: bool) -> None:
    """The error about the mean says what to do; with --in-chans 1 the loader serves it."""
    nfa = NFAugment(checkpoint(channels=1), p=1.0, gate=None)
    with pytest.raises(ValueError, match=r"3 channels.*--in-chans 1 .*--channels 3"):
        NFALoader(make_loader(folder, prefetcher=prefetcher), nfa)
    source = create_dataset("", root=str(folder), split="train", input_img_mode="L")
    gray = create_loader(
        source, (1, 16, 16), 4, is_training=True, no_aug=True, mean=(0.5,), std=(0.5,),
        use_prefetcher=prefetcher, device=CPU, num_workers=0,
    )  # fmt: skip
    batches = list(NFALoader(gray, nfa, device=CPU))
    assert [tuple(images.shape) for images, _ in batches] == [(4, 1, 16, 16)] * 3
    assert nfa.stats()["applied"] == 12


def test_batches_of_another_form(folder: Path) -> None:
    images, labels = batch_of(4)
    batches = [{"image": images, "label": labels, "path": ["a"] * 4}]
    data = SimpleNamespace(transform=None)
    (batch,) = NFALoader(Loader(batches, data), make_nfa(), device=CPU)
    assert batch["path"] == ["a"] * 4
    assert not torch.equal(batch["image"], images)


def test_it_takes_the_normalisation_of_several_sizes(folder: Path) -> None:
    """timm's --train-img-sizes, without a prefetcher that would know it."""

    shape, given = (3, 16, 16), {"mean": CLIP_MEAN, "std": CLIP_STD, "is_training": True}
    transforms = [timm.data.create_transform(shape, no_aug=True, **given)] * 2
    source = create_dataset("", root=str(folder), split="train")
    data = ScheduledTransformDataset(source, transforms)
    nfa = make_nfa()
    list(NFALoader(DataLoader(data, batch_sampler=[[(0, 0), (4, 0)], [(1, 1), (5, 1)]]), nfa))
    assert nfa.normalization.mean == pytest.approx(CLIP_MEAN)
    assert nfa.stats()["applied"] == 4


@pytest.mark.parametrize("mode", ["batch", "elem"])
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


@pytest.mark.parametrize("prefetcher", [True, False])
@pytest.mark.parametrize(
    "settings",
    [
        {"use_multi_epochs_loader": True, "num_workers": 1, "worker_seeding": "part"},
        {"re_prob": 1.0, "re_mode": "pixel", "re_count": 2, "re_split": True},
        {"img_dtype": torch.bfloat16},
        {"pin_memory": True, "train_crop_mode": "rkrc", "no_aug": False, "auto_augment": "3a"},
    ],
    ids=" ".join,
)
# torch warns of pinned memory without an accelerator.
@pytest.mark.filterwarnings("ignore:.*'pin_memory' argument")
def test_settings_of_its_loader(folder: Path, settings: dict[str, Any], prefetcher: bool) -> None:
    """Every image of two epochs is augmented, whatever the loader does before."""
    nfa = make_nfa()
    loader = NFALoader(make_loader(folder, prefetcher=prefetcher, **settings), nfa)
    for _ in range(2):
        for images, labels in loader:
            assert images.shape == (4, 3, 16, 16)
            assert labels.shape == (4,)
            if prefetcher:
                assert images.dtype == settings.get("img_dtype", torch.float32)
    stats = nfa.stats()
    assert stats["seen"] == stats["applied"] == 24


def counts_of(**counts: int) -> dict[str, int]:
    """Counters of `NFAugment.stats`; those that are not given are 0."""
    names = ("applied", "far", "no_partner", "gated", "fell_back", "not_finite")
    return {"seen": 400, **dict.fromkeys(names, 0), **counts}


def test_what_is_said_of_images_that_stay_unchanged() -> None:
    """It is said of more than a third of at least 30 chosen images, with the main reason."""
    said = many_unchanged(counts_of(applied=81, gated=110, far=9))
    assert said == (
        "NFA left 119 of 200 chosen images unchanged, 110 of them because they, or their variants, "
        "lie outside of the range of their class, as crops do that are unlike the images of the "
        "fit: it chose 50% of all images, and changed 20%"
    )
    assert "9 of them because they are unlike the images that" in many_unchanged(
        counts_of(applied=24, far=9, fell_back=4)
    )
    alone = many_unchanged(counts_of(no_partner=30))
    assert "unchanged, all of them because no other image of their class was found" in alone
    for counts in (
        counts_of(),
        counts_of(applied=20, gated=10),
        counts_of(applied=9, gated=20),  # too few
        counts_of(applied=40, not_finite=100),  # not all of which were chosen
    ):
        assert many_unchanged(counts) == "", counts


@pytest.mark.parametrize("prefetcher", [True, False])
def test_a_loader_says_once_that_many_crops_stay_unchanged(folder: Path, prefetcher: bool) -> None:
    """timm's default crops: 12 of 12 images are chosen in each epoch, and few of them change."""
    nfa = make_nfa(gate=0.01)
    loader = NFALoader(make_loader(folder, prefetcher=prefetcher, no_aug=False), nfa)
    for _ in range(2):
        list(loader)
    with pytest.warns(UserWarning, match=r"left 3\d of 36 chosen images .*, as crops do") as said:
        list(loader)
    places = [one.filename for one in said if issubclass(one.category, UserWarning)]
    assert places == [__file__], "it points to the loop that asked for the epoch"
    list(loader)  # a second warning would be an error


def test_one_process_of_a_run_says_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    nfa = make_nfa(gate=0.01)
    loader = NFALoader(make_loader(folder, no_aug=False), nfa)
    for _ in range(4):
        list(loader)
    assert many_unchanged(nfa.stats())


def test_most_crops_change_with_a_wide_gate(folder: Path) -> None:
    nfa = make_nfa(gate=10.0)
    loader = NFALoader(make_loader(folder, no_aug=False), nfa)
    for _ in range(4):
        list(loader)
    assert nfa.stats()["applied"] > 32


def test_a_given_mixup() -> None:
    images, labels = batch_of(8)
    plain = DataLoader(TensorDataset(images / 255, labels), batch_size=4)
    mixup = Mixup(mixup_alpha=1.0, num_classes=CLASSES, label_smoothing=0.0)
    loader = NFALoader(plain, make_nfa(strength=0.0), mixup=mixup)
    assert [labels.shape for _, labels in loader] == [(4, CLASSES)] * 2
    loader.mixup_enabled = False
    assert not mixup.mixup_enabled
    own = NFALoader(plain, make_nfa(), mixup=lambda x, y: (x * 0, y))
    assert own.mixup_enabled
    assert not next(iter(own))[0].any()
    own.mixup_enabled = False
    assert not own.mixup_enabled
    assert next(iter(own))[0].any(), "a function is switched off too"
    without = NFALoader(plain, make_nfa())
    without.mixup_enabled = False  # as timm's script does
    assert not without.mixup_enabled


def test_arguments_of_another_kind() -> None:
    images, labels = batch_of(8)
    plain = DataLoader(TensorDataset(images, labels), batch_size=4)
    for make in (lambda: NFALoader(plain, "my-nfa"), lambda: NFACollate("my-nfa")):  # type: ignore[arg-type]
        with pytest.raises(TypeError, match=r"got str\. NFAugment\.from_pretrained"):
            make()
    items = [{"image": image, "label": label} for image, label in zip(images, labels, strict=True)]
    named: Any = DataLoader(items, batch_size=4)  # type: ignore[arg-type]
    assert sorted(next(iter(NFALoader(named, make_nfa())))) == ["image", "label"]
    with pytest.raises(ValueError, match="dictionary of image, label"):
        next(iter(NFALoader(named, make_nfa(), mixup=Mixup(num_classes=CLASSES))))


def test_the_order_of_a_prepared_loader_follows_its_epochs() -> None:
    images, labels = batch_of(24)
    data = TensorDataset(images, labels)

    def order(wrap: Any, epoch: int) -> list[int]:
        plain: Any = DataLoader(data, batch_size=24, shuffle=True)
        loader = wrap(prepare_data_loader(plain, use_seedable_sampler=True, data_seed=0))
        loader.set_epoch(epoch)
        found, _ = next(iter(loader))
        return [int((images == image).flatten(1).all(1).nonzero()[0]) for image in found]

    first, fifth = (order(lambda loader: loader, epoch) for epoch in (0, 5))
    assert first != fifth
    still = make_nfa(strength=0.0)
    assert order(lambda loader: NFALoader(loader, still), 0) == first
    assert order(lambda loader: NFALoader(loader, still), 5) == fifth, "as after a resume"


def test_what_cannot_be_served_is_refused(folder: Path) -> None:
    nfa = make_nfa()
    other = NFAugment(checkpoint(config=SimpleNamespace(classes=("cat", "eel", "dog"))))
    with pytest.raises(ValueError, match="another order"):
        NFALoader(make_loader(folder), other)
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


@pytest.mark.parametrize("prefetcher", [True, False])
def test_an_unedited_script_with_all_on(folder: Path, tmp_path: Path, prefetcher: bool) -> None:
    nfa = make_nfa(p=0.5)
    arguments = [
        str(folder), "--out", str(tmp_path / "record.json"), "--epochs", "3", "--mixup", "0.8",
        "--cutmix", "1.0", "--mixup-off-epoch", "2", "--aa", "rand-m9-mstd0.5", "--reprob", "0.5",
    ]  # fmt: skip
    before = timm.data.create_loader, sys.argv, list(sys.path)
    stats = run_script(SCRIPT, arguments + ["--no-prefetcher"] * (not prefetcher), nfa)
    assert (timm.data.create_loader, sys.argv, sys.path) == before
    record = json.loads((tmp_path / "record.json").read_text())
    assert record["sizes"] == [[4, 3, 32, 32]] * 9
    assert record["labels"][6:] == ["pure"] * 3, "--mixup-off-epoch"
    assert "mixed" in record["labels"][:6]
    assert record["eval"] == 6
    assert stats["seen"] == 36
    assert stats["applied"] >= 9
    assert format_stats(stats).startswith("NFA: of 36 images applied ")


@pytest.mark.parametrize(
    ("model", "size"), [("swin_tiny_patch4_window7_224", "32"), ("eva02_tiny_patch14_224", "28")]
)
def test_models_by_script_and_by_example(
    folder: Path,
    flow_dir: str,
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
    words = f"finetune_timm.py {folder} --checkpoint {flow_dir} --model {model} --img-size {size}"
    words += " --no-pretrained --epochs 1 --batch-size 6 --workers 0 --device cpu --mixup 0.2"
    monkeypatch.setattr(sys, "argv", words.split())
    runpy.run_path(str(ROOT / "examples" / "finetune_timm.py"), run_name="__main__")
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("epoch 1: loss ")
    assert "'seen': 12" in printed[-1]


def test_what_is_refused_is_refused_before_data_are_read(tmp_path: Path) -> None:
    """In each way to write an option; and what has no effect is not refused."""
    ran = tmp_path / "ran"
    script = tmp_path / "script.py"
    script.write_text(f"open({str(ran)!r}, 'w').close()\n")
    mixing = ["--mixup", "0.8", "--cutmix-minmax", "0.2", "0.8"]
    refused = [
        ("--naflex-loader", ["--naflex-loader"]),
        ("--aug-splits", ["data", "--lr", "0.1", "--aug-splits=3"]),
        ("half", [*mixing, "--mixup-mode", "half"]),
        ("half", ["--cutmix=1", "--mixup-mode=half"]),
    ]
    for token, words in refused:
        with pytest.raises(ValueError, match=token):
            run_script(script, words, make_nfa())
    assert not ran.exists()
    taken = [
        ["--aug-splits", "0", "-b", "4"],
        ["--mixup-mode", "half"],
        [*mixing, "--mixup-mode", "half", "--no-prefetcher"],
        ["--mixup", "a word"],
    ]
    for words in taken:
        ran.unlink(missing_ok=True)
        with pytest.raises(ValueError, match="create_loader"):
            run_script(script, words, make_nfa())
        assert ran.exists(), words


def test_scripts_that_will_not_do(folder: Path, tmp_path: Path) -> None:
    nfa = make_nfa()
    with pytest.raises(ValueError, match="nowhere"):
        run_script("nowhere.py", [], nfa)
    idle = tmp_path / "idle.py"
    idle.write_text("import sys\nsys.exit(0)\n")
    with pytest.raises(ValueError, match="create_loader"):
        run_script(idle, [], nfa)
    with pytest.raises(SystemExit):  # of help, which is no failure to use NFA
        run_script(idle, ["--help"], nfa)
    idle.write_text("import sys\nsys.exit(3)\n")
    with pytest.raises(SystemExit):
        run_script(idle, [], nfa)
    with pytest.raises(ValueError, match="--aug-splits"):
        run_script(SCRIPT, [str(folder), "--aug-splits", "3"], nfa)
    idle.write_text("import timm\ntimm.data.create_naflex_loader()\n")
    with pytest.raises(ValueError, match="naflex"):
        run_script(idle, [], nfa)
    original = timm.data.create_loader
    assert original.__module__ == "timm.data.loader", "restored after a failure"
