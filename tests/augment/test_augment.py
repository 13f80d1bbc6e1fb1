from __future__ import annotations

import copy
import dataclasses
import io
import pickle
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from tools.device import Pretended, pretended_gpu
from tools.forked import run_python
from tools.nfa import CLASSES, NAMES, SIZE, batch_of, checkpoint, images_of, tiny_flow
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import nfaug
from nfaug.augment.engine import Engine
from nfaug.augment.mixing import Batch
from nfaug.augment.pixel_engine import PixelEngine
from nfaug.augment.pixels import Normalization
from nfaug.augment.transform import NFAugment
from nfaug.checkpoint import checkpoint as reader
from nfaug.data.view import View

PER_IMAGE = ("index", "chosen", "partner", "fallback", "from_memory", "paired", "weights", "noise")
ALL = ("seen", "applied", "no_partner", "gated", "fell_back", "not_finite", "far")


def changed(one: Tensor, two: Tensor) -> Tensor:
    return (one != two).flatten(1).any(1)


@pytest.mark.parametrize("mix", ["axis", "pair"])
@pytest.mark.parametrize("partners", ["batch", "memory"])
def test_the_formula(mix: str, partners: str) -> None:
    parts, flow = checkpoint(), tiny_flow()
    pca: Any = parts.pca
    settings: Any = {"mix": mix, "partners": partners, "strength": 0.8, "gate": None}
    nfa = NFAugment(parts, p=0.7, generator=torch.Generator().manual_seed(0), **settings)
    images, labels = batch_of(21)
    draws = nfa.draw(labels)
    new, _ = nfa.replay(images, labels, draws)
    assert draws.weights.shape == (15, 1 if mix == "pair" else pca.rank)
    z = flow.encode(images)[0].flatten(1)
    expected = images.clone()
    for slot, i in enumerate(draws.index.tolist()):
        axes, mean = pca.axes[labels[i]], pca.mean[labels[i]]
        a = axes @ (z[i] - mean)
        partner = int(draws.partner[slot])
        if draws.from_memory[slot]:
            assert pca.memory_labels[partner] == labels[i]
            b = pca.memory[partner].float()
        else:
            j = int(draws.index[partner])
            assert labels[j] == labels[i]
            assert i != j
            b = axes @ (z[j] - mean)
        if draws.chosen[slot]:
            moved = z[i] + (draws.weights[slot] * (b - a)) @ axes
            expected[i] = flow.decode(moved.view(1, *flow.config.shape))[0]
    assert (new.int() - expected.int()).abs().max() <= 1, "a rounding edge is worth one level"
    assert (new != expected).float().mean() < 1e-3
    assert draws.from_memory.any() == (partners != "batch")
    assert draws.from_memory.all() == (partners == "memory")
    assert (draws.weights <= 0.8).all()
    assert 10 < changed(new, images).sum() <= nfa.stats()["applied"]


def test_noise() -> None:
    nfa = NFAugment(checkpoint(), p=0.6, strength=0.0, noise=0.3, gate=None)
    images, labels = batch_of(20)
    draws = nfa.draw(labels)
    new, _ = nfa.replay(images, labels, draws)
    assert draws.noise.shape == (12, 192)
    assert draws.noise.std() == pytest.approx(0.3, rel=0.1)
    assert draws.noise.mean() == pytest.approx(0, abs=0.03)
    flow = tiny_flow()
    z = flow.encode(images)[0]
    expected = images.clone()
    expected[draws.index] = flow.decode(z[draws.index] + draws.noise.view(12, 3, 8, 8))
    off = (new.int() - expected.int()).abs()
    assert off.max() <= 1, "a rounding at most"
    assert (off > 0).float().mean() < 1e-3
    assert nfa.stats()["applied"] == 12
    assert torch.equal(nfa.replay(images, labels, draws)[0], new)


def test_types_and_normalizations_agree() -> None:
    nfa = NFAugment(checkpoint(), p=1.0, gate=None)
    images, labels = batch_of(12)
    draws = nfa.draw(labels)
    eight, _ = nfa.replay(images, labels, draws)
    unit = nfa.replay(images / 255, labels, draws)[0]
    assert (unit * 255 - eight).abs().max() < 0.51, "8 bits are the continuous result, rounded"
    for mean, std in (((0.4, 0.5, 0.6), (0.2, 0.3, 0.25)), (0.5, 0.25)):
        other = NFAugment(nfa.engine, gate=None, mean=mean, std=std)
        normalized = other.normalization.undo(images / 255)
        assert float(normalized.min()) < 0
        new = other.replay(normalized, labels, draws)[0]
        assert torch.allclose(other.normalization.unit(new), unit, atol=1e-5)


def test_strength_zero_is_exact() -> None:
    images, labels = batch_of(64)
    nfa = NFAugment(checkpoint(), p=1.0, strength=0.0)
    assert torch.equal(nfa(images, labels)[0], images)
    assert nfa.stats()["applied"] > 50
    large = torch.randint(256, (64, 3, 21, 17), dtype=torch.uint8)
    assert torch.equal(nfa(large, labels)[0], large)


def test_share_and_number_of_images() -> None:
    _, labels = batch_of(10)
    for p, slots in ((0.0, 0), (0.05, 1), (0.51, 6), (0.7, 7), (1.0, 10)):
        draws = NFAugment(checkpoint(), p=p).draw(labels)
        assert len(draws.index) == slots, p
        assert len(set(draws.index.tolist())) == slots
    torch.manual_seed(0)
    one = NFAugment(checkpoint(), p=0.25)
    share = sum(bool(one.draw(labels[:1]).chosen) for _ in range(1000)) / 1000
    assert abs(share - 0.25) < 0.05, "a batch of one is augmented with probability p"
    each = NFAugment(checkpoint(), p=[0.1, 0.5, 0.9])
    drawn, chosen = torch.zeros(CLASSES), torch.zeros(CLASSES)
    for _ in range(300):
        draws = each.draw(labels)
        assert len(draws.index) == 9
        own = labels[draws.index]
        chosen += torch.bincount(own[draws.chosen], minlength=CLASSES)
        drawn += torch.bincount(labels, minlength=CLASSES)
    assert torch.allclose(chosen / drawn, torch.tensor([0.1, 0.5, 0.9]), atol=0.06)


def test_weights_are_beta_distributed() -> None:
    _, labels = batch_of(400)
    for alpha in (0.05, 0.4, 1.0, 5.0):
        nfa = NFAugment(checkpoint(), p=1.0, alpha=alpha, strength=1.0)
        weights = nfa.draw(labels).weights
        assert ((weights >= 0) & (weights <= 1)).all()
        assert abs(float(weights.mean()) - 0.5) < 0.03
        assert float(weights.var()) == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.1)


def test_disabled_returns_the_input() -> None:
    nfa = NFAugment(checkpoint(), p=1.0)
    images, labels = batch_of(8)
    nfa.enabled = False
    assert nfa(images, labels)[0] is images
    assert nfa.replay(images, labels, nfa.draw(labels)) == (images, labels)
    nfa.enabled = True
    assert nfa.eval()(images, labels)[0] is images
    assert nfa.stats()["seen"] == 0
    assert changed(nfa.train()(images, labels)[0], images).any()


def test_a_seed_reproduces() -> None:
    images, labels = batch_of(16)

    def run(generator: torch.Generator | None) -> Tensor:
        nfa = NFAugment(checkpoint(), generator=generator)
        return torch.cat([nfa(images, labels)[0] for _ in range(3)])

    one, same, other = (run(torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    first, again = (run(None) for _ in range(2) if torch.manual_seed(5))
    assert torch.equal(first, again), "torch's seed does too"
    state = torch.get_rng_state()
    run(torch.Generator())
    assert torch.equal(torch.get_rng_state(), state), "a generator leaves torch's alone"


def test_ranks_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels = batch_of(16)

    def run() -> Tensor:
        generator = torch.Generator().manual_seed(0)
        return NFAugment(checkpoint(), generator=generator)(images, labels)[0]

    first = run()
    monkeypatch.setenv("RANK", "1")
    second = run()
    assert not torch.equal(first, second)
    monkeypatch.setenv("RANK", "0")
    assert torch.equal(first, run())
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 1)
    assert torch.equal(second, run())


def test_a_replay_is_the_call_again() -> None:
    images, labels = batch_of(16)
    nfa = NFAugment(checkpoint(), generator=torch.Generator().manual_seed(0))
    draws = nfa.draw(labels, generator=torch.Generator().manual_seed(0))
    first, same = nfa(images, labels)
    assert changed(first, images).any()
    assert same is labels
    for _ in range(2):
        again, same = nfa.replay(images, labels, draws)
        assert torch.equal(again, first)
        assert same is labels
    with pytest.raises(ValueError, match="16 images"):
        nfa.replay(images[:4], labels[:4], draws)
    with pytest.raises(ValueError, match=r"\['Tensor', 'Tensor'\]"):
        nfa.replay(images, labels)  # type: ignore[call-overload]


@pytest.mark.parametrize("partners", ["batch", "memory"])
def test_replay_with_other_labels_never_mixes_classes(partners: str) -> None:
    nfa = NFAugment(checkpoint(), p=1.0, gate=None, partners=partners)
    images, labels = batch_of(16)
    draws = nfa.draw(labels)
    assert torch.equal(nfa.replay(images, (labels + 1) % CLASSES, draws)[0], images) == (
        partners == "memory"
    ), "in a batch whole classes have moved together"
    nfa = NFAugment(nfa.engine, p=1.0, gate=None, partners=partners)
    others = torch.where(torch.arange(16) == draws.index[0], (labels + 1) % CLASSES, labels)
    new = nfa.replay(images, others, draws)[0]
    assert torch.equal(new[draws.index[0]], images[draws.index[0]])
    assert nfa.stats()["no_partner"] >= 1
    assert nfa.stats()["applied"] >= 8


def test_permuting_the_batch_permutes_the_result() -> None:
    nfa = NFAugment(checkpoint(), p=0.8)
    images, labels = batch_of(20)
    draws = nfa.draw(labels)
    new = nfa.replay(images / 255, labels, draws)[0]
    rows, slots = torch.randperm(20), torch.randperm(len(draws.index))
    moved = {name: getattr(draws, name)[slots] for name in PER_IMAGE}
    moved["index"] = rows.argsort()[moved["index"]]
    in_batch = moved["partner"].clamp(max=len(slots) - 1)
    moved["partner"] = torch.where(
        moved["from_memory"], moved["partner"], slots.argsort()[in_batch]
    )
    again = nfa.replay(images[rows] / 255, labels[rows], dataclasses.replace(draws, **moved))[0]
    assert changed(new, images / 255).sum() > 10
    assert (again - new[rows]).abs().max() < 1e-5
    assert torch.equal(nfa.replay(images / 255, labels, draws)[0], new), "bit for bit"


def test_batches_without_partners() -> None:
    nfa = NFAugment(checkpoint(memory=False), p=1.0, gate=None)
    images, labels = batch_of(3)
    assert nfa(images[:0], labels[:0])[0].shape == (0, 3, 8, 8)
    assert torch.equal(nfa(images[:1], labels[:1])[0], images[:1]), "no partner"
    alone = torch.tensor([0, 0, 2])
    new, _ = nfa(images_of(alone), alone)
    assert torch.equal(new[2], images_of(alone)[2])
    assert nfa.stats() == dict.fromkeys(ALL, 0) | {"seen": 4, "applied": 2, "no_partner": 2}
    nfa.config = dataclasses.replace(nfa.config, noise=0.3)  # which needs no partner
    assert changed(nfa(images[:1], labels[:1])[0], images[:1]).all()


@pytest.mark.parametrize("partners", ["batch", "memory"])
def test_rejected_images_stay_unchanged_and_are_counted(partners: str) -> None:
    images, labels = batch_of(12)
    unit = images / 255
    unit[1, 0, 0, 0], unit[5] = torch.nan, torch.inf
    unit[7] = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0)).round()
    nfa = NFAugment(checkpoint(), p=1.0, partners=partners)
    with pytest.warns(UserWarning, match="not_finite"):
        new, _ = nfa(unit, labels)
    assert torch.allclose(new[[1, 5]], unit[[1, 5]], rtol=0, atol=0, equal_nan=True)
    assert torch.isfinite(new[[0, *range(2, 5), *range(6, 12)]]).all(), "partners are finite"
    assert torch.equal(new[7], unit[7])
    stats = nfa.stats()
    assert (stats["not_finite"], stats["fell_back"]) == (2, 0)
    assert stats["gated"] >= 1
    assert sum(stats[name] for name in ALL[1:]) == stats["seen"] == 12
    nfa.config = dataclasses.replace(nfa.config, gate=1e4)
    assert changed(nfa(unit, labels)[0], unit)[7]


@pytest.mark.parametrize("size", [(8, 8), (16, 16), (57, 57)])
def test_a_flow_sees_the_8_bit_images_that_it_was_fitted_to(size: tuple[int, int]) -> None:
    images = images_of(torch.arange(6) % CLASSES, size=size)
    expected = torch.stack([View(3, (8, 8))(image, "") for image in images])
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
    unit = images.float() / 255
    normalized = (unit - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    engine = NFAugment(checkpoint()).engine
    for given, normalization in (
        (images, Normalization(None, None, 3)),
        (unit, Normalization(None, None, 3)),
        (normalized, Normalization(mean, std, 3)),
    ):
        labels = torch.arange(6) % CLASSES
        batch = Batch(given, labels, labels >= 0, normalization)
        encoded = engine.encode(batch, torch.arange(len(labels)), None)
        assert torch.equal(encoded.z, engine.on(given.device)[0].encode(expected)[0])


@pytest.mark.parametrize("size", [SIZE, (20, 20)], ids=["own size", "another size"])
@pytest.mark.parametrize("mix", ["axis", "regions"])
def test_pixels_in_parts_are_the_same(
    mix: Any, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = torch.utils.data.TensorDataset(*batch_of(40))
    fitted = nfaug.fit("builtin:pixels", data, rank=7, progress=False)
    images, labels = batch_of(21, seed=3, size=size)
    images[3] = 0  # out of range, in the middle of a part
    results = []
    for in_cache in (1, 2**22):
        monkeypatch.setattr("nfaug.run.blocks.IN_CACHE", in_cache)
        nfa = NFAugment(fitted, p=0.8, mix=mix, generator=torch.Generator().manual_seed(0))
        results.append(torch.cat([nfa(images, labels)[0], 255 * nfa(images / 255, labels)[0]]))
        assert nfa.stats()["applied"] > 10
    assert torch.equal(*results)


@pytest.mark.parametrize("kind", ["float32", "float16", "normalized"])
def test_pixels_in_floating_point_are_not_rounded(kind: str) -> None:
    """Images between two gray levels get the change of the formula, x + U (w * (b - a)) / 2."""
    data = torch.utils.data.TensorDataset(*batch_of(40))
    fitted = nfaug.fit("builtin:pixels", data, rank=7, progress=False)
    pca: Any = fitted.pca
    images, labels = batch_of(21, seed=3)
    given = (images / 255 * 0.98 + 0.003).clamp(0, 1)
    if kind == "float16":
        given = given.half()
    settings: Any = {"mean": 0.5, "std": 0.25} if kind == "normalized" else {}
    nfa = NFAugment(fitted, p=1.0, gate=None, partners="batch", **settings)
    draws = nfa.draw(labels, generator=torch.Generator().manual_seed(0))
    if kind == "normalized":
        new = nfa.replay((given - 0.5) / 0.25, labels, draws)[0] * 0.25 + 0.5
    else:
        new, _ = nfa.replay(given, labels, draws)
    z = (given.float()[draws.index] * 255 + 0.5) / 128 - 1
    own = labels[draws.index]
    a = pca.locate(z, own)[0]
    moved = pca.add(torch.zeros_like(z), own, draws.weights * (a[draws.partner] - a))
    expected = given.float()
    expected[draws.index] += torch.where(draws.paired[:, None, None, None], moved, 0) * 128 / 255
    assert changed(new, given).sum() > 10
    tolerance = 1e-3 if kind == "float16" else 1e-6
    assert (new.float() - expected.clamp(0, 1)).abs().max() < tolerance


@pytest.mark.filterwarnings("ignore:images hold NaN or infinite pixels")
@pytest.mark.parametrize("mix", ["axis", "pair", "regions"])
def test_images_that_are_not_finite_spoil_no_other(mix: Any) -> None:
    """Such an image is no partner, and noise needs none."""
    data = torch.utils.data.TensorDataset(*batch_of(40))
    fitted = nfaug.fit("builtin:pixels", data, rank=7, progress=False)
    images, labels = batch_of(21, seed=3)
    given = images / 255
    given[0, 0, 0, 0] = torch.nan
    given[1] = torch.inf
    for seed, noise in enumerate((0.0, 0.05, 0.0, 0.05, 0.0)):
        nfa = NFAugment(fitted, p=1.0, mix=mix, partners="batch", noise=noise, gate=None)
        nfa.generator = torch.Generator().manual_seed(seed)
        new, _ = nfa(given, labels)
        assert new[2:].isfinite().all()
        assert nfa.stats() == nfa.stats() | {"not_finite": 2, "fell_back": 0, "no_partner": 0}


@pytest.mark.parametrize("floating", [False, True])
@pytest.mark.parametrize("partners", ["batch", "memory"])
@pytest.mark.parametrize("mix", ["axis", "pair", "regions"])
def test_mixed_pixels_are_mixed_latents(mix: Any, partners: Any, floating: bool) -> None:
    """builtin:pixels mixes pixels; the same formula on its latents gives the same images."""
    data = torch.utils.data.TensorDataset(*batch_of(40))
    fitted = nfaug.fit("builtin:pixels", data, rank=7, progress=False)
    images, labels = batch_of(21, seed=3)
    given = images / 255 if floating else images
    assert isinstance(NFAugment(fitted).engine, PixelEngine)
    results = []
    for kind in (PixelEngine, Engine):
        engine = kind(fitted.flow, fitted.pca)
        nfa = NFAugment(engine, p=1.0, mix=mix, partners=partners, noise=0.05, gate=2.0)
        nfa.generator = torch.Generator().manual_seed(0)
        results.append(nfa(given, labels)[0] * (255 if floating else 1))
    assert changed(results[0], given * (255 if floating else 1)).sum() > 10
    assert (results[0].float() - results[1].float()).abs().max() <= (1e-3 if floating else 1)
    assert (results[0].round() != results[1].round()).float().mean() < 1e-3


def test_adds_nothing_to_a_model() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.nfa = NFAugment(checkpoint(), p=1.0)
            self.head = nn.Linear(192, CLASSES)

        def forward(self, images: Tensor, labels: Tensor) -> Tensor:
            return self.head(self.nfa(images, labels)[0].flatten(1))

    model = Model()
    assert set(model.state_dict()) == {"head.weight", "head.bias"}
    assert len(list(model.parameters())) == 2
    assert not list(model.nfa.buffers())
    images, labels = batch_of(8)
    loss = nn.functional.cross_entropy(model(images / 255, labels), labels)
    loss.backward()
    assert model.head.weight.grad is not None
    model.half().float().to("cpu")
    twin = copy.deepcopy(model)
    assert twin.nfa.engine is model.nfa.engine, "copies share the flow"
    twin.nfa.enabled = False
    assert model.nfa.enabled
    model.eval()
    assert torch.equal(model(images / 255, labels), model.head((images / 255).flatten(1)))


def test_two_ranks_of_a_distributed_run(tmp_path: Path) -> None:
    script = Path(__file__).parents[1] / "tools/two_ranks.py"
    ran = run_python([script, tmp_path])
    assert ran.returncode == 0, ran.stderr
    runs = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    for first, again in runs:
        assert torch.equal(first["images"], again["images"]), "a seed reproduces"
        assert changed(*first["images"]).any(), "epochs differ"
        assert first["stats"]["seen"] == 16
        assert first["stats"]["applied"] > 8
        assert first["keys"] == ["module.head.weight", "module.head.bias"]
    (one, _), (two, _) = runs
    assert changed(one["images"][0], two["images"][0]).any(), "ranks differ"
    assert torch.equal(one["grad"], two["grad"]), "and train one model"


def test_copies() -> None:
    nfa = NFAugment(checkpoint(), generator=torch.Generator().manual_seed(3), mean=0.5, std=0.5)
    images, labels = batch_of(8)
    nfa(images, labels)
    nfa.enabled = False
    again = pickle.loads(pickle.dumps(nfa))
    assert not again.enabled
    assert again.stats()["seen"] == copy.deepcopy(nfa).stats()["seen"] == 0, "copies start at zero"
    nfa.enabled = again.enabled = True
    assert torch.equal(again(images, labels)[0], nfa(images, labels)[0]), "the generator goes along"
    assert torch.equal(copy.deepcopy(nfa)(images, labels)[0], nfa(images, labels)[0])
    assert repr(again) == repr(nfa)


def test_torch_saves_a_model_with_a_flow() -> None:
    """As Lightning does, with every checkpoint of a training."""
    images, labels = batch_of(8, size=(32, 32))
    nfa = NFAugment("builtin:rgb32", p=1.0, gate=None)
    nfa.check_classes(nfa.classes)
    stored = io.BytesIO()
    torch.save(nn.Sequential(nfa), stored)
    stored.seek(0)
    (again,) = torch.load(stored, weights_only=False)
    draws = nfa.draw(labels)
    made, _ = nfa.replay(images, labels, draws)
    assert changed(made, images).any()
    assert torch.equal(again.replay(images, labels, draws)[0], made)


def test_results_are_ordinary_tensors() -> None:
    nfa = NFAugment(checkpoint(), p=1.0)
    images, labels = batch_of(8)
    unit = (images / 255).requires_grad_()
    new, _ = nfa(unit, labels)
    assert not new.requires_grad
    assert not new.is_inference()
    new.mul_(0.5).add_(new.flip(0))  # as mixup does
    weight = torch.ones(3, requires_grad=True)
    (new * weight[:, None, None]).sum().backward()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        draws = nfa.draw(labels)
        auto, _ = nfa.replay(images, labels, draws)
    assert torch.equal(auto, nfa.replay(images, labels, draws)[0]), "float32 under autocast"
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half, _ = nfa(images.half() / 255, labels)  # torch.stack refuses two half types there
    assert half.dtype == torch.float16


def test_compiled_steps() -> None:
    nfa = NFAugment(checkpoint(), p=1.0)
    images, labels = batch_of(8)
    graphs = []

    def backend(graph: torch.fx.GraphModule, _: list[Tensor]) -> torch.fx.GraphModule:
        graphs.append(graph)
        return graph

    @torch.compile(backend=backend)
    def step(images: Tensor, labels: Tensor) -> Tensor:
        new, _ = nfa(images / 255, labels)
        return (new * 2).flatten(1).mean(1)

    for _ in range(3):
        result = step(images, labels)
    assert result.shape == (8,)
    assert nfa.stats()["seen"] == 24
    assert len(graphs) == 2, "one break, before and after"


def test_devices() -> None:
    images, labels = batch_of(12)
    parts = dataclasses.replace(checkpoint(), pca=copy.deepcopy(checkpoint().pca))
    nfa = NFAugment(parts, p=1.0, gate=None)
    parts.pca.to("meta")
    assert changed(nfa(images, labels)[0], images).any(), "moving a checkpoint later is harmless"
    flow, pca = nfa.engine.on(torch.device("meta"))
    assert {tensor.device.type for tensor in (*flow.buffers(), *pca.buffers())} == {"meta"}


class NoReading(TorchDispatchMode):
    """Fails on operations that wait for the GPU: their results depend on values that lie there."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        name = str(func)
        if any(isinstance(value, Pretended) for value in args):
            for word in ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "unique"):
                assert word not in name, name
        return func(*args, **(kwargs or {}))


def test_no_value_is_read_back_from_the_device() -> None:
    images, labels = batch_of(16)
    with pretended_gpu() as gpu:
        unit = (images / 255).to(gpu)
        there = labels.to(gpu)
        hot = nn.functional.one_hot(labels, CLASSES).float().to(gpu)
        for partners in ("auto", "batch", "memory"):
            for mix in ("axis", "regions"):
                nfa = NFAugment(checkpoint(), p=1.0, mix=mix, partners=partners, noise=0.1)
                for _ in range(8):  # batches whose values are checked
                    nfa(unit, there)
                with NoReading():
                    nfa(unit, there)
                    nfa(unit, hot)
        unit[3, 0, 0, 0] = float("nan")
        with NoReading():  # unusable labels: images stay unchanged
            bad = nfa(unit, there + 2)[0]
        with pytest.raises(AssertionError, match="nonzero"), NoReading():
            there.nonzero()
        unit, bad = unit.cpu(), bad.cpu()
    assert torch.allclose(bad[labels > 0], unit[labels > 0], rtol=0, atol=0, equal_nan=True)


def test_default_device_and_inference_mode_change_nothing() -> None:
    """Every new tensor must name its device and type."""
    images, labels = batch_of(16)

    def run(context: AbstractContextManager[Any]) -> Tensor:
        generator = torch.Generator("cpu").manual_seed(0)
        with context:
            made = NFAugment(checkpoint(), alpha=0.7, generator=generator, mean=0.0, std=1.0)
            made(images, labels)
            made = pickle.loads(pickle.dumps(made))
            inside = made(images / 255, labels)[0]
        made.enabled = True
        made(images, labels)  # what inference mode saw first serves training later
        return inside.clone()

    expected = run(nullcontext())
    for context in (torch.device("meta"), torch.inference_mode()):
        with ThreadPoolExecutor(1) as fresh:  # a thread that keeps no memory of an earlier call
            assert torch.equal(fresh.submit(run, context).result(), expected)


def test_from_pretrained_calls_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(
        reader, "load", lambda path, **options: seen.append((path, options)) or checkpoint()
    )
    options = {
        "revision": "v1", "token": False, "cache_dir": tmp_path / "cache",
        "local_files_only": True, "force_download": True, "autoencoder": "vae",
    }  # fmt: skip
    nfa = NFAugment.from_pretrained(tmp_path, p=0.25, **options)
    assert (nfa.p, nfa.classes) == (0.25, NAMES)
    assert NFAugment("owner/name", p=0.25).p == 0.25
    assert seen == [
        (tmp_path, {**options, "gaussians": False}),
        ("owner/name", {"gaussians": False}),
    ]
