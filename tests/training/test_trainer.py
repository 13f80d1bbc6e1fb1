from __future__ import annotations

import csv
import dataclasses
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tools.nfa import NAMES, TensorImages, images_of
from torch import Tensor
from torch.utils.data import TensorDataset
from torchvision.transforms.functional import to_pil_image

import nfaug
from nfaug.checkpoint.checkpoint import Checkpoint
from nfaug.classes.priors import PriorConfig
from nfaug.data.augmentation import FlowAugmentation
from nfaug.fitting.config import PCAConfig
from nfaug.flows.flow import Flow
from nfaug.training import TrainConfig, TrainingDiverged, TrainResult, context, train
from nfaug.training.config import DataConfig, OptimConfig, TrainPriorConfig
from nfaug.training.optimizer import FlowOptimizer, learning_rate
from nfaug.training.snapshots import Snapshots


def changed(config: TrainConfig, **changes: Any) -> TrainConfig:
    return dataclasses.replace(config, **changes)


def weights(result: TrainResult) -> Tensor:
    return torch.cat([p.flatten() for p in result.checkpoint.flow.parameters()])


def test_the_result(
    tiny_result: TrainResult, tiny_config: TrainConfig, tiny_images: TensorImages
) -> None:
    checkpoint = tiny_result.checkpoint
    assert not checkpoint.flow.training
    config = checkpoint.config
    assert config.classes == NAMES
    assert config.preprocessing == tiny_images.preprocessing
    assert config.training["steps"] == 6
    assert config.training["epochs"] == 2
    assert config.training["images"] == 36
    assert config.training["skipped_steps"] == 0
    assert config.gaussians["kind"] == "fpi"
    assert config.gaussians["kld_weight"] == 20
    assert (config.gaussians["update"], config.gaussians["rules_version"]) == ("released", 2)
    assert config.metrics == {}, "classes of 12 hold nothing out"
    assert checkpoint.pca is not None
    assert (checkpoint.pca.rank, checkpoint.pca.num_classes) == (4, 3)
    assert len(tiny_result.loss) == 6
    assert all(math.isfinite(loss) for loss in tiny_result.loss)
    assert [row["step"] for row in tiny_result.history] == [3, 6]


def test_the_flow_before_training(
    tiny_config: TrainConfig, tiny_images: TensorImages, tmp_path: Path
) -> None:
    """Its latents have mean 0 and variance 1, and it is saved."""
    config = changed(tiny_config, epochs=1, tensorboard=False, pictures_every=0)
    (tmp_path / "state" / "thesis").mkdir(parents=True)
    result = train(tiny_images, config=config, out=tmp_path, progress=False)
    assert (tmp_path / "state" / "thesis").exists(), "of the user"
    initial = Snapshots(tmp_path).initial()
    assert initial.gaussians is not None
    assert not torch.equal(
        next(initial.flow.parameters()), next(result.checkpoint.flow.parameters())
    )
    with torch.no_grad():
        z = initial.flow.encode(tiny_images.images)[0].flatten(1)
    assert z.mean(0).abs().max() < 0.3
    assert 0.9 < z.var(0).mean() < 1.1
    assert initial.config.classes == NAMES


def test_the_seed_fixes_the_result(
    tiny_images: TensorImages, tiny_config: TrainConfig, tiny_result: TrainResult
) -> None:
    torch.manual_seed(1)
    torch.rand(3)
    before = torch.get_rng_state()
    config = changed(
        tiny_config,
        augmentation=FlowAugmentation(hflip=True, pad_crop=1),
        dataset=DataConfig(test_fraction=0.2),
    )
    many = TensorImages(
        tiny_images.images.repeat(2, 1, 1, 1), tiny_images.targets.repeat(2), tiny_images.classes
    )
    once, again = (train(many, config=config, progress=False) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before), "torch's own generator was used"
    assert torch.equal(weights(once), weights(again))
    assert once.loss == again.loss
    assert once.checkpoint.gaussians is not None
    assert again.checkpoint.gaussians is not None
    assert torch.equal(once.checkpoint.gaussians.means, again.checkpoint.gaussians.means)
    other = train(many, config=changed(config, seed=1), progress=False)
    assert not torch.equal(weights(once), weights(other))


def test_it_learns(tiny_images: TensorImages, tiny_config: TrainConfig) -> None:
    config = changed(tiny_config, epochs=25, optim=OptimConfig(warmup_steps=5, ema_decay=0.9))
    result = train(tiny_images, config=config, progress=False)
    assert sum(result.loss[-3:]) / 3 < result.loss[0] - 0.5
    labels = torch.arange(30) % 3
    checkpoint = result.checkpoint
    assert checkpoint.gaussians is not None
    with torch.no_grad():
        z = checkpoint.flow.encode(images_of(labels, channels=1, seed=9))[0]
    assert (checkpoint.gaussians.log_prob(z).argmax(1) == labels).float().mean() > 0.8


def test_the_average_is_returned(tiny_images: TensorImages, tiny_config: TrainConfig) -> None:
    last, average = (
        train(
            tiny_images,
            config=changed(tiny_config, optim=OptimConfig(warmup_steps=1, ema_decay=decay)),
            progress=False,
        )
        for decay in (0.0, 0.9999)
    )
    assert last.loss == average.loss
    assert not torch.equal(weights(last), weights(average))


@pytest.mark.parametrize("kind", ["data", "single"])
def test_every_prior(
    tiny_images: TensorImages, tiny_config: TrainConfig, kind: Any, tmp_path: Path
) -> None:
    prior = TrainPriorConfig(kind=kind, refit_epoch=1)
    config = changed(tiny_config, prior=prior)
    checkpoint = train(tiny_images, config=config, test_data=tiny_images, progress=False).checkpoint
    assert checkpoint.config.gaussians["kind"] == kind
    assert checkpoint.gaussians is not None
    assert checkpoint.gaussians.num_classes == (1 if kind == "single" else 3)
    assert ("nf_acc" in checkpoint.config.metrics) == (kind != "single")
    assert (checkpoint.pca is None) == (kind == "single")
    checkpoint.save(tmp_path / "flow")
    loaded = nfaug.load(tmp_path / "flow")
    assert loaded.config.classes == (() if kind == "single" else NAMES)
    if kind == "single":  # fit adds the classes
        fitted = nfaug.fit(loaded, tiny_images, rank=4, progress=False)
        assert fitted.config.classes == NAMES
        assert fitted.pca is not None
        images, _ = nfaug.NFAugment(fitted, p=1.0)(tiny_images.images, tiny_images.targets)
        assert not torch.equal(images, tiny_images.images)
        nfaug.load(fitted.save(tmp_path / "fitted"))


def test_unlabelled_images(tiny_config: TrainConfig) -> None:
    """With one class the error suggests a single gaussian."""
    labels = torch.zeros(12, dtype=torch.int64)
    dataset = TensorDataset(images_of(labels, channels=1), labels)
    single = changed(tiny_config, prior=TrainPriorConfig(kind="single"))
    assert train(dataset, config=single, progress=False).checkpoint.config.classes == ()
    with pytest.raises(ValueError, match="single"):
        train(dataset, config=tiny_config, progress=False)


def test_rare_classes_are_in_the_statistics(tiny_config: TrainConfig) -> None:
    """The images for a solve include two of every class."""
    labels = torch.tensor([0] * 60 + [1, 1])
    dataset = TensorDataset(images_of(labels, channels=1), labels)
    prior = TrainPriorConfig(kind="data", statistics_images=10)
    config = changed(tiny_config, epochs=1, prior=prior, pca=PCAConfig(rank=1))
    assert train(dataset, config=config, progress=False).checkpoint.gaussians is not None


def test_images_through_worker_processes_give_the_same(
    tiny_images: TensorImages, tiny_config: TrainConfig, tiny_result: TrainResult
) -> None:
    config = changed(tiny_config, dataset=DataConfig(memory_gib=0, workers=0))
    assert torch.equal(
        weights(train(tiny_images, config=config, progress=False)), weights(tiny_result)
    )


def test_recomputing_activations_gives_the_same(
    tiny_images: TensorImages, tiny_config: TrainConfig, tiny_result: TrainResult
) -> None:
    config = changed(tiny_config, optim=OptimConfig(warmup_steps=2, recompute="steps"))
    # test_wiring.py shows that the setting arrives.
    difference = weights(train(tiny_images, config=config, progress=False)) - weights(tiny_result)
    assert difference.abs().max() < 1e-5


# Held-out images and the log.


def test_held_out_images(tiny_config: TrainConfig) -> None:
    labels = torch.tensor([0] * 40 + [1] * 25 + [2] * 19)
    images = TensorImages(images_of(labels, channels=1), labels)
    held, rest = images.split(share=0.2)
    assert sorted([*held.rows.tolist(), *rest.rows.tolist()]) == list(range(84))
    assert torch.bincount(held.targets, minlength=3).tolist() == [8, 5, 0]
    all_but_two, _ = images.split(share=0.99)
    assert torch.bincount(all_but_two.targets, minlength=3).tolist() == [38, 23, 0]
    dataset = TensorDataset(images_of(labels, channels=1), labels)
    config = changed(tiny_config, epochs=1, dataset=DataConfig(test_fraction=0.2))
    result = train(dataset, config=config, progress=False)
    assert result.checkpoint.config.training["images"] == 71
    assert result.checkpoint.config.metrics["images"] == 13
    assert result.history[-1]["nf_acc"] == result.checkpoint.config.metrics["nf_acc"]
    assert result.checkpoint.pca is not None
    assert result.checkpoint.pca.counts.tolist() == [32, 20, 19]


def test_explicit_held_out_images(tiny_config: TrainConfig, tiny_images: TensorImages) -> None:
    few = torch.tensor([0, 2, 2])  # not every class
    config = changed(tiny_config, epochs=1)
    val = TensorDataset(images_of(few, channels=1), few)
    assert (
        train(tiny_images, config=config, test_data=val, progress=False).history[0]["images"] == 3
    )
    wrong = torch.tensor([0, 3])
    outside = TensorDataset(images_of(wrong, channels=1), wrong)
    others = TensorImages(tiny_images.images, tiny_images.targets, ["cat", "cow", "eel"])
    large = TensorDataset(images_of(few, channels=1, size=(9, 9)), few)
    pil: Any = to_pil_image
    unwrapped: Any = [(pil(image), int(label)) for image, label in others]  # with names of its own

    class Named(list[Any]):
        classes = others.classes

    for held, message in (
        (outside, r"0\.\.2"),
        (others, "cow"),
        (Named(unwrapped), "cow"),
        (large, "1, 8, 8"),
    ):
        with pytest.raises(ValueError, match=message):
            train(tiny_images, config=config, test_data=held, progress=False)
    nameless = TensorDataset(tiny_images.images, tiny_images.targets)
    named = Named((to_pil_image(image), int(label)) for image, label in val)
    assert train(nameless, config=config, test_data=named, progress=False).history[0]["images"] == 3


def test_classes_named_by_numbers_are_names(
    tiny_config: TrainConfig, tiny_images: TensorImages
) -> None:
    """Those of test_data were taken for labels without names, and renamed."""
    config = changed(tiny_config, epochs=1)
    numbers = TensorImages(tiny_images.images, tiny_images.targets, ["0", "1", "2"])
    rows = tiny_images.targets > 0
    fewer = TensorImages(tiny_images.images[rows], tiny_images.targets[rows] - 1, ["1", "2"])
    with pytest.raises(ValueError, match="classes of the others, 0, 1, 2; they have 1, 2"):
        train(numbers, config=config, test_data=fewer, progress=False)


def test_settings_of_the_images_hold_in_python(
    tiny_config: TrainConfig, tiny_images: TensorImages
) -> None:
    """`train` ignored them, so that recipes had other sizes than in nfaug train."""
    dataset = dataclasses.replace(tiny_config.dataset, image_size=(4, 6))
    config = changed(tiny_config, epochs=1, dataset=dataset)
    plain: Any = [(to_pil_image(image), int(label)) for image, label in tiny_images]
    for data in (tiny_images, plain):
        flow = train(data, config=config, test_data=data, progress=False).checkpoint.flow
        assert flow.config.image_size == (4, 6)
    color = changed(config, dataset=dataclasses.replace(dataset, channels=3))
    assert train(tiny_images, config=color, progress=False).checkpoint.flow.config.channels == 3


def test_a_start_by_its_folder(
    tiny_config: TrainConfig, tiny_images: TensorImages, tiny_path: Path, tmp_path: Path
) -> None:
    """A run that goes on needs it no more."""
    start, out = tmp_path / "start", tmp_path / "run"
    shutil.copytree(tiny_path, start)
    config = changed(tiny_config, epochs=1, tensorboard=False, pictures_every=0)
    train(tiny_images, out, config=config, checkpoint=start, progress=False)
    shutil.rmtree(start)
    longer = changed(config, epochs=2)
    found = train(tiny_images, out, config=longer, checkpoint=start, resume=True, progress=False)
    assert found.checkpoint.config.training["epochs"] == 2


def test_the_log(tiny_config: TrainConfig, tiny_images: TensorImages, tmp_path: Path) -> None:
    folder = tmp_path / "runs"
    folder.mkdir()
    (folder / "log.csv").write_text("of another run\n")
    config = changed(tiny_config, epochs=5, eval_every=2, tensorboard=False, pictures_every=0)
    result = train(tiny_images, config=config, test_data=tiny_images, out=folder, progress=False)
    with (folder / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["2", "4", "5"]
    names = {"train_bits_per_dim", "bits_per_dim", "nf_acc", "lr", "skipped_steps"}
    assert names < rows[0].keys()
    assert float(rows[-1]["bits_per_dim"]) == result.history[-1]["bits_per_dim"]


def test_a_limit_of_time(tiny_images: TensorImages, tiny_config: TrainConfig) -> None:
    config = changed(tiny_config, epochs=10**6, max_minutes=0.005)
    result = train(tiny_images, config=config, progress=False)
    assert 0 < result.checkpoint.config.training["steps"] < 1000
    assert result.checkpoint.config.training["seconds"] < 20
    assert result.history, "the last evaluation can be in the middle of an epoch"


@pytest.mark.parametrize(
    ("schedule", "kind", "refit", "solves"),
    [
        ("twice", "fpi", 0, ["fpi"]),
        ("twice", "fpi", 1, ["fpi", "fpi"]),
        ("twice", "fpi", 2, ["fpi", "fpi"]),
        ("twice", "fpi", 3, ["fpi"]),  # no solve after the last epoch
        ("twice", "data", 1, ["data", "data"]),
        ("once", "fpi", 0, ["fpi"]),
        ("once", "fpi", 1, ["data", "fpi"]),
        ("once", "fpi", 2, ["data", "fpi"]),
        ("once", "fpi", 3, ["data"]),
        ("once", "data", 1, ["data"]),
        ("once", "single", 1, ["single"]),
    ],
)
def test_when_gaussians_are_solved(
    tiny_images: TensorImages,
    tiny_config: TrainConfig,
    schedule: Any,
    kind: str,
    refit: int,
    solves: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kinds = []
    solve = context.RunContext.solve

    def noted(self: context.RunContext, prior: PriorConfig, *args: Any) -> Any:
        kinds.append(prior.kind)
        return solve(self, prior, *args)

    monkeypatch.setattr(context.RunContext, "solve", noted)
    prior = dataclasses.replace(tiny_config.prior, kind=kind, schedule=schedule, refit_epoch=refit)
    config = changed(tiny_config, epochs=3, prior=prior)
    record = train(tiny_images, config=config, progress=False).checkpoint.config.gaussians
    assert kinds == solves
    assert (record["kind"], record["schedule"]) == (solves[-1], schedule)


def test_the_first_epoch_of_the_released_schedule(
    tiny_images: TensorImages, tiny_config: TrainConfig
) -> None:
    """It is that of the data's Gaussians; the fixed point then has identity covariances."""
    once = dataclasses.replace(tiny_config.prior, schedule="once")
    data = TrainPriorConfig(kind="data", schedule="once")
    results = [
        train(tiny_images, config=changed(tiny_config, prior=prior), progress=False)
        for prior in (once, data)
    ]
    steps = len(results[0].loss) // 2
    assert results[0].loss[:steps] == results[1].loss[:steps]
    assert results[0].loss[steps:] != results[1].loss[steps:]
    variances = [result.checkpoint.gaussians.variances for result in results]  # type: ignore[union-attr]
    assert bool((variances[0] == 1).all())
    assert not bool((variances[1] == 1).any())


# The optimiser.


def test_the_learning_rate() -> None:
    config = TrainConfig(lr=0.1, optim=OptimConfig(warmup_steps=4))
    rates = [learning_rate(config, step, 0.0) for step in range(6)]
    assert rates == pytest.approx([0.025, 0.05, 0.075, 0.1, 0.1, 0.1])
    assert learning_rate(config, 10, 1.0) == pytest.approx(0.001)
    assert learning_rate(config, 10, 0.5) == pytest.approx(0.0505)
    constant = TrainConfig(lr=0.1, optim=OptimConfig(warmup_steps=0, decay="constant"))
    assert learning_rate(constant, 0, 0.9) == 0.1


def loss_of(flow: Flow, kind: str) -> Tensor:
    total = torch.cat([p.flatten() for p in flow.parameters()]).square().sum()
    if kind == "gradient":  # the root at 0 has an infinite slope
        return total + (total.detach() - total).abs().sqrt()
    return total * {"nan": math.nan, "inf": math.inf, "good": 1.0}[kind]


@pytest.mark.parametrize("kind", ["nan", "inf", "gradient"])
def test_a_step_that_is_not_finite_is_skipped(
    tiny_checkpoint: Checkpoint,
    tiny_config: TrainConfig,
    kind: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("nfaug.training.optimizer.MAX_BAD_STEPS", 3)
    flow = tiny_checkpoint.flow.train()
    optimizer = FlowOptimizer(flow, tiny_config)

    def stepped(kind: str) -> bool:
        loss = loss_of(flow, kind)
        return optimizer.step(loss, 0.0, loss.detach()[None])[0]

    before = [p.clone() for p in flow.parameters()]
    average = [p.clone() for p in optimizer.average.parameters()]
    for _ in range(2):
        assert not stepped(kind)
    assert all(map(torch.equal, before, flow.parameters()))
    assert all(map(torch.equal, average, optimizer.average.parameters()))
    assert (optimizer.steps, optimizer.skipped) == (2, 2)
    # A finite step resets the count.
    assert stepped("good")
    assert not all(map(torch.equal, before, flow.parameters()))
    for _ in range(2):
        stepped(kind)
    with pytest.raises(TrainingDiverged, match="warmup_steps"):
        stepped(kind)
    assert optimizer.skipped == 5


@pytest.mark.filterwarnings("ignore")
def test_training_that_diverges_stops(tiny_images: TensorImages, tiny_config: TrainConfig) -> None:
    prior = dataclasses.replace(tiny_config.prior, refit_epoch=0)
    optim = OptimConfig(warmup_steps=1)
    config = changed(tiny_config, lr=1e9, epochs=20, prior=prior, optim=optim)
    with pytest.raises(TrainingDiverged, match="20 steps"):
        train(tiny_images, config=config, progress=False)


@pytest.mark.filterwarnings("ignore:.*scales of")
@pytest.mark.parametrize("refit_epoch", [0, 1])
def test_a_flow_with_infinite_latents_is_not_fitted(
    tiny_images: TensorImages, tiny_config: TrainConfig, refit_epoch: int
) -> None:
    """The epoch ends before so many bad steps in a row that the run would roll back."""
    prior = dataclasses.replace(tiny_config.prior, refit_epoch=refit_epoch)
    optim = OptimConfig(warmup_steps=1)
    config = changed(tiny_config, lr=1e9, prior=prior, optim=optim)
    with (
        pytest.raises(TrainingDiverged, match="3 rollbacks"),
        pytest.warns(RuntimeWarning, match="step 0"),
    ):
        train(tiny_images, config=config, progress=False)


# Bad input.


def test_a_missing_device(tiny_images: TensorImages, tiny_config: TrainConfig) -> None:
    with pytest.raises(ValueError, match="cuda:99"):
        train(tiny_images, config=changed(tiny_config, device="cuda:99"), progress=False)


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: TrainConfig(epochs=-1, device="cpu"), "epochs"),
        (lambda: TrainConfig(batch_size=0), "batch_size"),
        (lambda: TrainConfig(lr=0.0), "lr"),
        (lambda: TrainConfig(seed=2**63), "seed"),
        (lambda: OptimConfig(decay="linear"), "'linear'"),
        (lambda: OptimConfig(recompute="step"), "'step'"),
        (lambda: TrainConfig(max_minutes=0.0), "max_minutes"),
        (lambda: OptimConfig(clip_norm=0.0), "clip_norm"),
        (lambda: OptimConfig(ema_decay=1.0), "ema_decay"),
        (lambda: OptimConfig(warmup_steps=-1), "warmup_steps"),
        (lambda: PCAConfig(rank=0), "rank"),
        (lambda: DataConfig(test_fraction=1.0), "test_fraction"),
        (lambda: TrainPriorConfig(refit_epoch=-1), "refit_epoch"),
        (lambda: TrainPriorConfig(schedule="never"), r"prior\.schedule .*'never'"),
    ],
)
def test_settings_out_of_range(make: Any, name: str) -> None:
    with pytest.raises(ValueError, match=name):
        make()
