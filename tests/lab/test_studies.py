"""Each study of the laboratory runs, tiny: `make lab`."""

from __future__ import annotations

import csv
import dataclasses
import importlib
import io
import re
import tarfile
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from tools.forked import run_python

import nfaug
from nfaug.compare import Classifier, CompareConfig
from nfaug.data.batches import decode

pytestmark = pytest.mark.soak
LAB = Path(__file__).resolve().parents[2] / "lab"
SIDE = 32


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with 200 photographs of clothes under the names of other sets."""
    folder = tmp_path_factory.mktemp("data")
    clothes = nfaug.open_dataset("builtin:clothes")
    images = decode(clothes, progress=False)
    labels = clothes.targets
    for name in (
        "blood128-train",
        "blood128-validation",
        "cifar10-train",
        "cifar10-test",
        "blood128-test",
    ):
        with tarfile.open(folder / f"{name}.tar", "w") as archive:
            for number, (image, label) in enumerate(zip(images, labels.tolist(), strict=True)):
                encoded = io.BytesIO()
                Image.fromarray(image.permute(1, 2, 0).numpy()).save(encoded, "png")
                entry = tarfile.TarInfo(f"{clothes.classes[label]}/{number}.png")
                entry.size = len(encoded.getvalue())
                encoded.seek(0)
                archive.addfile(entry, encoded)
    return folder


def run(*words: object) -> str:
    ran = run_python([LAB / str(words[0]), *words[1:]])
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def rows_of(file: Path) -> set[tuple[str, str]]:
    """The rows of a CSV file of cells, and their seeds."""
    with file.open(newline="") as opened:
        return {(line["augmentation"], line["seed"]) for line in csv.DictReader(opened)}


def options(data: Path, out: Path) -> list[object]:
    """What the studies over many sets share."""
    words = ["--data", data, "--out", out / "cells", "--results", out / "results", "--sets"]
    return [*words, "cells", "--per-class", 4, "--seeds", 1]


def test_defaults(data: Path, tmp_path: Path) -> None:
    run("defaults.py", *options(data, tmp_path), "--steps", 2)
    found = rows_of(tmp_path / "results/cells-scratch.csv")
    assert {row for row, _ in found} >= {"nothing more", "NFA in pixels", "CutMix", "RandAugment"}


def test_final(data: Path, tmp_path: Path) -> None:
    """The run of the protocol, on a folder of other images."""
    words = [word for word in options(data, tmp_path) if word not in ("--seeds", 1)]
    run("final.py", *words, "--steps", 1)
    found = rows_of(tmp_path / "results/cells-scratch.csv")
    assert {seed for _, seed in found} == {str(seed) for seed in range(100, 108)}


def folder_of(archive: Path, folder: Path) -> Path:
    """A folder of train/ and test/ from a tar: of five images, four and one, of a cluster each."""
    with tarfile.open(archive) as images:
        for entry in images:
            kind, _, name = entry.name.partition("/")
            cluster = int(name.removesuffix(".png")) // 5
            part = "test" if cluster % 2 else "train"
            file = images.extractfile(entry)
            assert file is not None
            made = folder / part / kind / f"{cluster}__{name}"
            made.parent.mkdir(parents=True, exist_ok=True)
            made.write_bytes(file.read())
    return folder


def test_second(data: Path, tmp_path: Path) -> None:
    """The run of the second protocol, on a folder that was made of a tar of other images."""
    torch.manual_seed(0)
    weights = tmp_path / "weights.safetensors"
    save_file(timm.create_model("test_resnet").state_dict(), weights)
    folder = folder_of(data / "cifar10-train.tar", tmp_path / "clothes")
    words = ["second.py", "--data", folder, "--augment", "flip,crop", "--size", SIDE]
    words += ["--out", tmp_path / "cells", "--results", tmp_path / "results", "--per-class", 4]
    words += ["--steps", 1, "--image-size", SIDE, "--weights", weights, "--network", "test_resnet"]
    said = run(*words, "--seeds", 1)
    found = {}
    for study in ("scratch", "finetuned", "frozen"):
        rows = rows_of(tmp_path / f"results/clothes-{study}.csv")
        assert {seed for _, seed in rows} == {"300"}
        found[study] = {row for row, _ in rows}
    assert found["scratch"] == {
        "nothing more", "NFA in pixels", "NFA in pixels at p = 0.25", "same-class mixup",
        "NFA with builtin:rgb32", "RandAugment at p = 0.5", "RandAugment", "TrivialAugment",
        "MixUp", "CutMix",
    }  # fmt: skip
    assert found["finetuned"] == {
        "nothing more", "NFA in pixels", "NFA in pixels at p = 0.25", "MixUp"
    }  # fmt: skip
    assert found["frozen"] == {"logistic regression", "class Gaussians"}
    assert "| clothes, scratch | accuracy, % | over nothing more |" in said
    said = run(*words, "--seeds", 2, "--methods", "nothing more", "class Gaussians")
    trained = [line for line in said.splitlines() if line.startswith("(")]
    assert len(trained) == 3, "what there is is not trained again"
    assert all(", 301: " in line for line in trained)


def test_second_refuses_a_cluster_in_both_parts(data: Path, tmp_path: Path) -> None:
    folder = folder_of(data / "cifar10-train.tar", tmp_path / "clothes")
    known = next((folder / "train").glob("*/0__*"))
    known.rename(folder / "test" / known.parent.name / known.name)
    ran = run_python([LAB / "second.py", "--data", folder, "--augment", "crop", "--steps", 1])
    assert ran.returncode != 0
    assert "train/ and test/ have 1 clusters in common: 0" in ran.stderr


def test_clusters_are_before_two_underscores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(LAB))
    second = importlib.import_module("second")
    for name in ("cat/anna__1.png", "cat/2.png", "dog/anna__2.png", "dog/b_3.png"):
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        Image.new("L", (8, 8)).save(file)
    images = nfaug.open_dataset(tmp_path)
    assert second.clusters_of(images) == ["cat/2.png", "anna", "anna", "dog/b_3.png"]


def test_frozen(data: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    weights = tmp_path / "weights.safetensors"
    save_file(timm.create_model("test_resnet").state_dict(), weights)
    words = ["--out", tmp_path / "features", "--results", tmp_path, "--sets", "cells"]
    said = run("frozen.py", *words, "--data", data, "--weights", weights, "--network",
               "test_resnet", "--labels", 1, 2, "--seeds", 3)  # fmt: skip
    assert rows_of(tmp_path / "cells.csv") == {
        (f"{classifier} from {labels}", str(seed))
        for classifier in ("logistic regression", "middle penalty", "class Gaussians")
        for labels in (1, 2)
        for seed in (200, 201, 202)
    }
    assert said.endswith(run("frozen.py", "--print", *words))
    assert "\nfrom 2: " in said


def test_tuned(data: Path, tmp_path: Path) -> None:
    words = ["--data", data / "blood128-train.tar", "--test-data", data / "blood128-validation.tar"]
    run("tuned.py", *words, "--out", tmp_path, "--methods", "NFA in pixels", "CutMix", "--seeds", 1,
        "--choices", 1, "--steps", 1, "--lr", 0.1, "--per-class", 4)  # fmt: skip
    assert "CutMix" in (tmp_path / "table.md").read_text()


def test_crops(data: Path, tmp_path: Path) -> None:
    words = [*options(data, tmp_path), "--steps", 2]
    said = run("crops.py", *words)
    places = {"with a wide gate", "and fitted to crops"}
    wanted = {"nothing more", "after the crop", "before the crop"}
    wanted |= {f"after the crop {place}" for place in places}
    assert rows_of(tmp_path / "results/cells-64.csv") == {(row, "0") for row in wanted}
    assert said.count("on the mean over sets, not clearly better") == 3, "there is one seed"
    run("crops.py", *words, "--counts", "--batches", 1, "--networks", "ResNet-18")
    with (tmp_path / "results/counts.csv").open(newline="") as opened:
        lines = list(csv.DictReader(opened))
    assert {(line["flow"], line["fit"]) for line in lines} == {
        (flow, fit)
        for flow in ("builtin:pixels", "builtin:rgb32")
        for fit in ("images", "crops")
    }  # fmt: skip
    for line in lines:
        counts = [int(line[name]) for name in ("applied", "gated", "far")]
        assert sum(counts) == int(line["chosen"]) > 0, line
        assert float(line["left"]) == pytest.approx(1 - counts[0] / sum(counts), abs=1e-4)


def test_crops_of_a_seed_are_the_same_for_each_method(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What NFA draws moves no number of timm's transforms."""
    monkeypatch.syspath_prepend(str(LAB))
    crops = importlib.import_module("crops")
    pool, _ = crops.parts_of(data, "cells")
    few, _ = pool.split(per_class=4, seed=0)

    def batches(method: str, **settings: float) -> list[torch.Tensor]:
        nfa = crops.nfa_of(method, few, "cells", seed=0)
        nfa.config = dataclasses.replace(nfa.config, **settings)
        loader = crops.loader_of(crops.Stored(few), "cells", True, (3, SIDE, SIDE))
        crops.seeded(0)
        return [images for images, _ in crops.batches(crops.NFALoader(loader, nfa), 4)]

    plain = batches(crops.AFTER, p=0.0)
    same = [torch.equal(*pair) for pair in zip(plain, batches(crops.WIDER, p=0.0), strict=True)]
    assert all(same)
    pairs = zip(plain, batches(crops.FITTED), strict=True)
    changed = torch.cat([(one != other).flatten(1).any(1) for one, other in pairs])
    assert 0 < changed.sum() < len(changed), "the images that NFA does not choose"


def test_sheets(data: Path, tmp_path: Path) -> None:
    file = tmp_path / "sheet.png"
    words = ["--data", data / "blood128-train.tar", "--image-size", SIDE, "--per-class", 4]
    run("sheets.py", *words, "--classes", "dress", "hat", "--out", file)
    with Image.open(file) as sheet:
        assert sheet.size[0] > 4 * SIDE


def test_hero(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row of the picture of the first page: an image, its partner, and four variants."""
    monkeypatch.syspath_prepend(str(LAB))
    hero = importlib.import_module("hero")
    pictures = hero.row_of(data / "cifar10-train.tar", "dress", (0, 3), "regions")
    assert len(pictures) == len(hero.TITLES)
    assert all(picture.shape == (3, hero.SIDE, hero.SIDE) for picture in pictures)
    assert not any(torch.equal(picture, pictures[0]) for picture in pictures[1:])


def test_backbones(data: Path, tmp_path: Path) -> None:
    words = ["--data", data / "cifar10-train.tar", "--out", tmp_path / "cells"]
    words += ["--results", tmp_path / "results", "--labels", 4, "--test-images", 5, "--seeds", 1]
    run("backbones.py", *words, "--networks", "swin_small", "--pretraining-epochs", 0.2,
        "--flow-epochs", 1, "--steps", 2)  # fmt: skip
    found = {row for row, _ in rows_of(tmp_path / "results/swin_small-4.csv")}
    assert found == {
        "nothing more", "RandAugment", "MixUp", "NFA with the flow", "NFA in pixels",
        "noise on latents",
    }  # fmt: skip
    flows = (tmp_path / "results/flows.csv").read_text().splitlines()
    assert flows[0].startswith("labels,seed,nf_acc")
    assert flows[1].startswith("4,0,")


def test_table5(data: Path, tmp_path: Path) -> None:
    """The pilot and two stages, on one draw."""
    words = ["--data", data / "cifar10-train.tar", "--test-data", data / "cifar10-test.tar"]
    words += ["--labels", 8, "--test-images", 5, "--draws", 1, "--flow-epochs", 1]
    words += ["--out", tmp_path / "out", "--results", tmp_path / "results"]
    assert "2 passes: " in run("table5.py", *words, "--pilot", "--pilot-passes", 1, 2)
    for stage in "AC":
        run("table5.py", *words, "--passes", 1, "--stage", stage)
    found = {
        file.name: {method for method, _ in rows_of(file)}
        for file in (tmp_path / "results").glob("*_small-*.csv")
    }
    assert found == {
        "resnet18_small-none.csv": {
            "nothing", "NFA with the flow", "noise on latents", "NFA, one weight up to 1",
            "NFA in pixels",
        },
        "resnet18_small-flips.csv": {
            "nothing", "NFA with the flow", "NFA, one weight up to 1", "NFA in pixels",
        },
        "swin_small-none.csv": {"nothing", "NFA with the flow", "noise on latents"},
        "resnet18_small-none-rgb32.csv": {"nothing", "NFA with builtin:rgb32"},
    }  # fmt: skip
    run("table5.py", *words, "--judge", "--judge-passes", 1)
    with (tmp_path / "results/labels.csv").open(newline="") as opened:
        lines = list(csv.DictReader(opened))
    assert [line["mixing"] for line in lines][::7] == ["the images", "noise"]
    assert all(int(line["applied"]) + int(line["gated"]) <= 80 for line in lines)
    flows = (tmp_path / "results/flows.csv").read_text().splitlines()
    assert flows[0] == "draw,nf_acc,bits_per_dim,on,seconds"
    assert len(flows) == 2
    assert not list((tmp_path / "out" / "states").iterdir())


def test_a_training_of_table5_goes_on_bit_for_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(LAB))
    table5 = importlib.import_module("table5")
    monkeypatch.setattr(table5, "SAVED", 2)
    images = torch.randint(256, (100, 3, 32, 32), dtype=torch.uint8)
    labels = torch.arange(100) % 2
    draw = table5.drawn(images, labels, images[:, None], 0.5, "standard", 2)

    def interrupted(rows: torch.Tensor, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        if step == 3:
            raise KeyboardInterrupt
        found: tuple[torch.Tensor, torch.Tensor] = draw(rows, step)
        return found

    def classifier() -> Classifier:
        return Classifier(CompareConfig(steps=5, device="cpu"), (3, 32, 32), 2, seed=0)

    calm = classifier()
    table5.trained(calm, draw, 100, 5, 0, tmp_path / "calm")
    file = tmp_path / "cut.state"
    with pytest.raises(KeyboardInterrupt):
        table5.trained(classifier(), interrupted, 100, 5, 0, file)
    assert file.exists()
    other = classifier()
    table5.trained(other, draw, 100, 5, 0, file)
    assert not file.exists()
    for name, value in calm.model.state_dict().items():
        assert torch.equal(value, other.model.state_dict()[name]), name


def test_limit(data: Path, tmp_path: Path) -> None:
    words = ["--data", data / "cifar10-train.tar", "--test-data", data / "cifar10-test.tar"]
    words += ["--limits", 3, 5, "--steps", 1, "--seeds", 1]
    run("limit.py", *words, "--out", tmp_path / "out", "--results", tmp_path / "results")
    fewer, more = (f"NFA in pixels, {limit} images of each class" for limit in (3, 5))
    assert rows_of(tmp_path / "results/cells.csv") == {
        ("nothing more", "0"), (fewer, "0"), (more, "0"),
    }  # fmt: skip
    with (tmp_path / "results/fits.csv").open(newline="") as opened:
        fits = list(csv.DictReader(opened))
    assert [line["limit"] for line in fits] == ["3", "5"]
    assert float(fits[0]["megabytes"]) < float(fits[1]["megabytes"])


def test_paper_released(data: Path, tmp_path: Path) -> None:
    """Grey images with all tables, where seed 0 chooses weights; then Table 3 of colour images."""
    clothes = nfaug.open_dataset("builtin:clothes")
    images = decode(clothes, progress=False)
    labels = clothes.targets
    grey = images[:, :, :28, :28].float().mean(1).to(torch.uint8)
    stored = tmp_path / "grey.npz"
    np.savez(stored, images=grey.numpy(), labels=labels.numpy())
    rows = tmp_path / "rows.csv"
    tiny = ["--epochs", 2, "--passes", 1, "--per-class", 8, "--seeds", 1, "--csv", rows]
    words = ["paper_released.py", "--data", stored, "--test-data", stored, *tiny]
    said = run(*words)
    with rows.open(newline="") as file:
        found = list(csv.DictReader(file))
    after = "after-epoch"
    table = ["data", f"{after}-means-c1852", f"{after}-covariances-c370", f"{after}-both-c1111"]
    averaged = [f"{after}-both-c{weight}-mean" for weight in (37, 183, 1111)]
    others = [f"{after}-both-c{weight}" for weight in (37, 183, 367, 1833)]
    assert [row["setting"] for row in found[:11]] == [*table, *averaged, *others]
    assert {row["seed"] for row in found[:11]} == {"0"}
    chosen = [row["setting"] for row in found[11:]]
    assert [row["seed"] for row in found[11:]] == ["1", "1"]
    assert {chosen[0]} < {*others, table[3]}
    assert {chosen[1]} < {*averaged}
    for row in found:
        assert row["steps"] == "2"
        assert 0 <= float(row["nf_acc"]) <= 100
        assert 0 <= float(row["cnn_acc"]) <= 100
        assert (row["converged"] == "") == (row["setting"] == "data")
        assert float(row["cnn_minutes"]) <= float(row["minutes"])
    before = rows.read_bytes()
    assert said.endswith(run(*words))
    assert rows.read_bytes() == before
    words = ["paper_released.py", "--name", "cifar10", "--data", data / "cifar10-train.tar", *tiny]
    said = run(*words, "--test-images", 5, "--without", f"{after}-both-c3333")
    assert "| #2 KLD on means, c = 5,556 | " in said
    planned = run("paper_released.py", "--plan", "--seeds", 1, "--csv", rows)
    assert re.search(r"^\| fashion-mnist \| 13 \| 13 \| .* \| 0.0 \|$", planned, re.MULTILINE)
    assert re.search(r"^\| cifar10 \| 4 \| 3 \|", planned, re.MULTILINE)


def test_paper_solves(data: Path) -> None:
    """Each pi, with damping and without, at six weights."""
    words = ["--name", "cifar10", "--data", data / "cifar10-train.tar", "--per-class", 8]
    lines = run("paper_solves.py", *words).splitlines()
    found = [re.findall(r"\| (\w+) \| (Eq. 9|Eq. 10) \| (1|0.5) \|", line) for line in lines[2:]]
    assert [each for [each] in found] == [
        (fit, kernel, damping)
        for fit in ("means", "both")
        for kernel in ("Eq. 9", "Eq. 10")
        for damping in ("1", "0.5")
    ]
    assert all(line.count("|") == 10 for line in lines)
