"""Breaks of `NFAugment` and its settings."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from PIL import Image
from tools.device import pretended_gpu
from tools.nfa import CLASSES, NAMES, TensorImages, batch_of, checkpoint, fit_pca, images_of
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torchvision import tv_tensors

import nfaug
from nfaug.augment.config import MixConfig, MixSettings
from nfaug.augment.transform import NFAugment
from nfaug.bank import make_bank
from nfaug.integrations.torchvision import NFACollate
from nfaug.pictures.preview import preview_grid
from nfaug.run.seeds import SharedGenerator


class Model(nn.Module):
    """A classifier that augments its own images."""

    def __init__(self) -> None:
        super().__init__()
        self.nfa = NFAugment(checkpoint(), p=1.0, gate=None)
        self.head = nn.Linear(192, CLASSES)

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        images, labels = self.nfa(images, labels)
        return self.head(images.flatten(1))


@pytest.mark.parametrize("p", [0.0, (0.0, 0.0, 0.0)])
def test_a_share_of_zero_draws_nothing(p: Any) -> None:
    """Break 17: p = 0 drew a number, so that what was drawn after it differed."""
    images, labels = batch_of(8)
    generator = torch.Generator().manual_seed(0)
    own_state = generator.get_state()
    torch_state = torch.get_rng_state()
    for source in (generator, None):
        NFAugment(checkpoint(), p=p, generator=source)(images, labels)
    assert torch.equal(generator.get_state(), own_state)
    assert torch.equal(torch.get_rng_state(), torch_state)


def switch_off(model: Model, how: str) -> None:
    if how == "eval":
        model.eval()
    else:
        model.nfa.enabled = False


@pytest.mark.parametrize("how", ["eval", "enabled"])
@pytest.mark.parametrize("tool", ["compile", "export"])
def test_a_graph_with_nfa_in_it_that_is_off(how: str, tool: str) -> None:
    """Break 51: a model could be neither compiled to one graph nor exported, though NFA was off."""
    model = Model()
    switch_off(model, how)
    images, labels = batch_of(8)
    unit = images / 255
    made: Callable[..., Tensor]
    if tool == "compile":
        made = torch.compile(model, fullgraph=True, backend="eager")
    else:
        made = torch.export.export(model, (unit, labels), strict=True).module()
    assert torch.equal(made(unit, labels), model.head(unit.flatten(1)))


def test_a_compiled_model_follows_the_switches() -> None:
    """Break 51: a graph of the model with NFA off is not used once it is on."""
    model = Model()
    images, labels = batch_of(8)
    unit = images / 255
    plain = model.head(unit.flatten(1))
    compiled = torch.compile(model, backend="eager")
    for enabled in (False, True, False):
        model.nfa.enabled = enabled
        assert torch.equal(compiled(unit, labels), plain) != enabled
    assert model.nfa.stats()["seen"] == 8


@pytest.mark.parametrize(
    "single", [{"p": 0.5}, {"p": 0.3}, {"gate": None}, {"mix": "axis", "noise": 0}]
)
def test_settings_given_twice(single: dict[str, Any], tmp_path: Path) -> None:
    """Break 71: p=0.5, the default, was ignored beside config=MixConfig(p=0.9)."""
    parts: Any = checkpoint()
    data = TensorImages(*batch_of(12), NAMES)
    settings = MixConfig(p=0.9)
    with pytest.raises(ValueError, match="config="):
        NFAugment(parts, config=settings, **single)
    with pytest.raises(ValueError, match="config="):
        preview_grid(parts, data, config=settings, **single)
    with pytest.raises(ValueError, match="config="):
        make_bank(parts, data, tmp_path / "bank", config=settings, **single)
    assert not (tmp_path / "bank").exists()
    assert NFAugment(checkpoint(), config=settings).p == 0.9
    assert NFAugment(checkpoint(), config=None, p=0.5).p == 0.5


def test_the_signature_shows_each_setting() -> None:
    """Break 71: what refuses settings that are given twice leaves help() and types as they are."""
    shown = inspect.signature(NFAugment).parameters
    assert list(shown)[:2] == ["checkpoint", "config"]
    assert shown["settings"].annotation == "Unpack[MixSettings]"
    assert "float" in str(MixSettings.__annotations__["p"])


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda both: pickle.loads(pickle.dumps(both))])
def test_copies_of_two_that_share_a_generator(copied: Callable[[Any], Any]) -> None:
    """Break 48: bytes of the generator are for workers alone; copies share it as the originals."""
    images, labels = batch_of(24)
    shared = torch.Generator().manual_seed(0)
    both = nn.ModuleList(NFAugment(checkpoint(), p=1.0, generator=shared) for _ in range(2))
    one, other = (nfa(images, labels)[0] for nfa in copied(both))
    assert not torch.equal(one, other)


def test_a_loaded_checkpoint_warns_of_its_classes_as_its_name_does(tmp_path: Path) -> None:
    """Break 92: NFAugment("builtin:rgb32") warned, and a checkpoint that was loaded did not."""
    images, labels = batch_of(6)
    loaded = nfaug.load("builtin:rgb32")
    for given in ("builtin:rgb32", loaded, NFAugment(loaded).engine):
        nfa = NFAugment(given)
        with pytest.warns(UserWarning, match="0 airplane"):
            nfa(images, labels)
        nfa(images, labels)
    order = torch.arange(24) % 12
    for label, image in zip(order.tolist(), images_of(order), strict=True):
        folder = tmp_path / "data" / str(label)
        folder.mkdir(parents=True, exist_ok=True)
        name = f"{len(list(folder.iterdir()))}.png"
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / name)
    fitted = nfaug.fit("builtin:pixels", tmp_path / "data", rank=1, progress=False)
    saved = fitted.save(tmp_path / "flow")
    for natural in (fitted, nfaug.load(saved), str(saved)):
        with pytest.warns(UserWarning, match="natural order"):
            NFAugment(natural)(images, labels)
    ours = TensorDataset(images_of(order), order)  # whose labels are those of the checkpoint
    NFAugment(nfaug.fit("builtin:pixels", ours, rank=1, progress=False))(images, labels)


@pytest.mark.parametrize("size", [(8, 8), (12, 10)])
def test_an_image_with_a_pixel_that_is_no_number_stays_as_it_is(size: tuple[int, int]) -> None:
    """Break 94: its pixel became gray, though the documentation says that it stays unchanged."""
    images, labels = batch_of(12, size=size)
    unit = images / 255
    whole = NFAugment(checkpoint(), p=1.0, gate=None, partners="memory")
    draws = whole.draw(labels, generator=torch.Generator().manual_seed(0))
    expected = whole.replay(unit, labels, draws)[0]
    unit[3, 1, 2, 4] = torch.nan
    nfa = NFAugment(checkpoint(), p=1.0, gate=None, partners="memory")
    with pytest.warns(UserWarning, match="NaN"):
        new = nfa.replay(unit, labels, draws)[0]
    nfa(unit, labels)  # which does not warn again
    assert torch.allclose(new[3], unit[3], rtol=0, atol=0, equal_nan=True)
    others = torch.arange(12) != 3
    assert torch.equal(new[others], expected[others])
    assert nfa.stats()["not_finite"] == 2


@pytest.mark.parametrize("key", ["seg", "depth", "heatmap", "boundaries", "extra"])
def test_tensors_with_positions_under_any_key(key: str) -> None:
    """Break 90: only a few words in keys were known, and others passed beside mixed images."""
    images, labels = batch_of(6)
    nfa = NFAugment(checkpoint(), p=1.0)
    for beside in (torch.zeros(6, 8, 8), torch.zeros(6, 68, 2), torch.zeros(6, 8, 8).numpy()):
        with pytest.raises(ValueError, match=f"{key}.*{beside.shape[1]}"):
            nfa({"image": images, "label": labels, key: beside})
    flat = torch.zeros(6, 500)  # an embedding has no positions
    assert nfa({"image": images, "label": labels, key: flat})[key] is flat


def unusable(kind: str, tensor: Tensor) -> Tensor:
    return tensor.to("meta") if kind == "meta" else tensor.to_sparse()


@pytest.mark.parametrize("kind", ["meta", "sparse"])
def test_tensors_that_are_not_dense_or_have_no_values(kind: str) -> None:
    """Break 104: torch's errors said nothing of the images or the labels."""
    images, labels = batch_of(6)
    nfa = NFAugment(checkpoint(), p=1.0)
    hot = nn.functional.one_hot(labels, CLASSES)
    with pytest.raises(ValueError, match=f"images must be a dense tensor.*{kind}"):
        nfa(unusable(kind, images / 255), labels)
    for given in (labels, hot):
        with pytest.raises(ValueError, match=f"labels must be a dense tensor.*{kind}"):
            nfa(images, unusable(kind, given))


@pytest.mark.parametrize("kind", [">i2", ">i8", ">u8", "<u8", "<u2"])
def test_arrays_of_labels_of_any_order_of_bytes(kind: str) -> None:
    """Break 104: labels in another machine's order of bytes, or of uint64, were torch's errors."""
    images, labels = batch_of(6)
    nfa = NFAugment(checkpoint(), p=1.0)
    draws = nfa.draw(labels)
    expected = nfa.replay(images, labels, draws)[0]
    hot = nn.functional.one_hot(labels, CLASSES)
    for given in (labels, hot):
        assert torch.equal(nfa.replay(images, given.numpy().astype(kind), draws)[0], expected)
    with pytest.raises(ValueError, match="got 9223372036854775809"):
        nfa(images, np.full(6, 2**63 + 1, np.uint64))


def test_draws_of_a_larger_checkpoint() -> None:
    """Break 104: replayed on a smaller one, they were an IndexError, or gave other partners."""
    images, labels = batch_of(6)
    large = NFAugment(checkpoint(), p=1.0, noise=0.1, partners="memory")
    flow = checkpoint().flow
    few = [flow.encode(images_of(torch.full((5,), label)))[0].detach() for label in range(CLASSES)]
    parts: Any = checkpoint(pca=fit_pca(few, rank=3))
    small = NFAugment(parts, p=1.0)
    with pytest.raises(ValueError, match="of 120 images in the memory; this one has 15"):
        small.replay(images, labels, large.draw(labels))
    large.config = dataclasses.replace(large.config, partners="batch")
    with pytest.raises(ValueError, match="of 8 axes; this one has 3"):
        small.replay(images, labels, large.draw(labels))
    large.config = dataclasses.replace(large.config, mix="pair")
    small.replay(images, labels, large.draw(labels))
    order = torch.arange(12) % CLASSES
    pixels = TensorDataset(images_of(order)[..., :4, :4], order)
    smaller = NFAugment(nfaug.fit("builtin:pixels", pixels, rank=3, progress=False))
    with pytest.raises(ValueError, match="of 192 dimensions of latents; this one has 48"):
        smaller.replay(images, labels, large.draw(labels))


@pytest.mark.parametrize("start", ["forkserver", "spawn"])
def test_a_flow_of_many_tensors_in_workers(start: str) -> None:
    """Break 109: "too many fds", since each of 250 tensors was passed as a file descriptor."""
    images, labels = batch_of(16, size=(32, 32))
    generator = SharedGenerator()  # whose draws are the same in every worker
    generator.manual_seed(0)
    nfa = NFAugment("builtin:rgb32", p=1.0, gate=None, generator=generator)
    nfa.check_classes(nfa.classes)
    loader = DataLoader(
        TensorDataset(images, labels),
        batch_size=8,
        collate_fn=NFACollate(nfa),
        num_workers=2,
        multiprocessing_context=start,
    )
    for number, (found, _) in enumerate(loader):
        generator.manual_seed(0)
        rows = slice(8 * number, 8 * number + 8)
        expected = nfa(images[rows], labels[rows])[0]
        assert (found.int() - expected.int()).abs().max() <= 1, "workers have one thread"
        assert not torch.equal(found, images[rows])
    assert nfa.stats()["seen"] == 32


IMAGES, LABELS = batch_of(6)
MASK = torch.zeros(6, 8, 8)
NESTED = torch.nested.nested_tensor([torch.zeros(5, 4), torch.zeros(7, 4)], layout=torch.jagged)


def in_an_array(items: list[Any]) -> np.ndarray:
    """The items in an array of objects, as pandas and pickled collations have them."""
    array = np.empty(len(items), object)
    array[:] = items
    return array


REFUSED: list[Any] = [  # what lies beside images and labels, under any key
    MASK,
    [*MASK],
    MASK.flatten(1),
    MASK.flatten(),
    torch.cat([MASK.flatten(1)] * 3, 1),
    MASK.bool().numpy(),
    [mask.flatten().tolist() for mask in MASK],
    in_an_array(list(MASK.numpy())),
    [b"\x89PNG\r\n"] * 6,
    [Image.new("L", (8, 8))] * 6,
    [{"seg": MASK[0].flatten()}] * 6,
    tv_tensors.Mask(MASK),
    tv_tensors.Mask(MASK[:, None]),
    tv_tensors.BoundingBoxes(torch.ones(6, 4), format="XYXY", canvas_size=(8, 8)),
    [torch.zeros(68, 2)] * 6,
    [{"marks": torch.zeros(6, 2)}] * 6,
    [[[0.0, 1.0], [2.0, 3.0]]] * 6,
    [torch.zeros(4)] * 9,
    torch.zeros(9, 4),
    np.zeros(6, [("x", "f4"), ("y", "f4")]),
    NESTED,
    torch.zeros(6, 5000),
    object(),
]
POSITIONS: list[Any] = [  # what may pass, but for its key
    [[0.0, 1.0, 2.0, 3.0]] * 6,
    [LABELS] * 4,
    torch.zeros(6, 4),
    [0.0, 1.0, 2.0, 3.0],
]
PASSED: list[Any] = [
    LABELS,
    LABELS.numpy(),
    torch.rand(6, 500),
    [torch.rand(77)] * 6,
    ["a", "b", "c", "d", "e", "f"],
    np.array(["a", "b", "c", "d", "e", "f"]),
    in_an_array(["a", None, 3, "d", "e", "f"]),
    [b"a"] * 6,
    [["a cat", "cat"]] * 6,
    [Path("1.png")] * 6,
    None,
    7,
    torch.tensor([0.5]),
    "train",
]


@pytest.mark.parametrize("key", ["boxes", "more"])
@pytest.mark.parametrize("beside", REFUSED, ids=range(len(REFUSED)))
def test_what_is_on_no_list_does_not_pass(beside: Any, key: str) -> None:
    """Break 114: lists of masks and landmarks, boxes in lists and flat masks stayed."""
    nfa = NFAugment(checkpoint(), p=1.0)
    with pytest.raises(ValueError, match=rf"unchanged=.*got \.{key}"):
        nfa({"image": IMAGES, "label": LABELS, key: beside})
    with pytest.raises(ValueError, match=r"unchanged=.*got \[2\]"):
        nfa((IMAGES, LABELS, beside))


@pytest.mark.parametrize("beside", POSITIONS, ids=range(len(POSITIONS)))
def test_positions_under_a_name_of_positions_do_not_pass(beside: Any) -> None:
    """Break 114: boxes in lists stayed beside images that were mixed."""
    nfa = NFAugment(checkpoint(), p=1.0)
    for key in ("boxes", "Keypoints", "landmarks_2d"):
        for sample in ({key: beside}, {"target": {key: {"xy": beside}}}):
            with pytest.raises(ValueError, match=f"unchanged=.*{key}"):
                nfa({"image": IMAGES, "label": LABELS, **sample})
    nfa({"image": IMAGES, "label": LABELS, "more": beside})


@pytest.mark.parametrize("beside", [*REFUSED, *POSITIONS, IMAGES / 255])
def test_what_the_user_names_passes(beside: Any) -> None:
    """Break 114: there was no way to say that a mask or a box may stay as it is."""
    nfa = NFAugment(checkpoint(), p=1.0, unchanged=["boxes", 2])
    sample: Any = {"image": IMAGES, "label": LABELS, "of": {"boxes": beside}}
    nested = nfa(sample)["of"]["boxes"]
    third = nfa((IMAGES, LABELS, beside))[2]
    assert all(found is beside or isinstance(beside, list) for found in (nested, third))
    with pytest.raises(ValueError, match=r"got \.other"):
        nfa({"image": IMAGES, "label": LABELS, "boxes": beside, "other": [MASK]})


@pytest.mark.parametrize("names", ["boxes", {"boxes": 1}, [None], 2])
def test_names_of_what_passes_are_keys_or_positions(names: Any) -> None:
    """Break 114: unchanged="boxes" would be five names of one letter each."""
    with pytest.raises(ValueError, match="unchanged must be a list of keys"):
        NFAugment(checkpoint(), unchanged=names)


@pytest.mark.parametrize("beside", PASSED, ids=range(len(PASSED)))
def test_numbers_texts_and_vectors_pass(beside: Any) -> None:
    """Break 114: what is on the list stays the object that it is."""
    nfa = NFAugment(checkpoint(), p=1.0)
    assert nfa((IMAGES, LABELS, beside))[2] is beside or isinstance(beside, list)
    assert str(nfa({"image": IMAGES, "label": LABELS, "more": beside})["more"]) == str(beside)


def test_masks_are_no_images() -> None:
    """Break 114: a mask (B, 1, H, W) was mixed as the images."""
    nfa = NFAugment(checkpoint(), p=1.0)
    with pytest.raises(ValueError, match="masks"):
        nfa(tv_tensors.Mask(IMAGES), LABELS)


def quantized(labels: Tensor) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch is going to remove them
        return torch.quantize_per_tensor(labels.float(), 1.0, 0, torch.quint8)


NO_LABELS: list[Any] = [  # what arrives as labels, and what the error quotes
    (torch.tensor([0, 1, 2, 3, 0, 1]), r"\[0, 3\).* got 3 at position 3"),
    ([0, 1, -1, 0, 1, 2], r"\[0, 3\).* got -1 at position 2"),
    (np.full(6, 10**9), "got 1000000000 at position 0"),
    (torch.tensor([255] * 6, dtype=torch.uint8), "got 255"),
    (torch.full((6, 3), 1.0), "rows of labels must be one-hot.* 1, 1, 1"),
    (["cat", "dog", "unicorn"] * 2, "'unicorn' is none of the checkpoint's 3"),
    (quantized(LABELS), "integers.*quint8"),
    (quantized(torch.eye(3)[LABELS]), "integers.*quint8"),
    (NESTED, "dense tensor.*nested"),
]


@pytest.mark.parametrize(("labels", "quoted"), NO_LABELS, ids=range(len(NO_LABELS)))
def test_labels_that_do_not_exist(labels: Any, quoted: str) -> None:
    """Break 122: `draw` took them, and quantized ones were an error of torch's."""
    nfa = NFAugment(checkpoint(), p=1.0)
    for call in (lambda: nfa.draw(labels), lambda: nfa(IMAGES, labels)):
        with pytest.raises(ValueError, match=quoted):
            call()


def test_labels_on_a_gpu_are_drawn_for_without_being_read() -> None:
    """Break 122: the check of what `draw` takes must not wait for a GPU."""
    nfa = NFAugment(checkpoint(), p=1.0)
    with pretended_gpu(), mock.patch.object(Tensor, "__bool__", side_effect=AssertionError):
        assert nfa.draw((LABELS + 1).to("cuda")).index.device.type == "cuda"


@pytest.mark.parametrize(
    ("mean", "std"), [((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)), (0.5, 0.5)]
)
@pytest.mark.parametrize("size", [(8, 8), (12, 12)])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_images_that_are_not_normalized(
    mean: Any, std: Any, size: tuple[int, int], device: str
) -> None:
    """Break 122: where mean= and std= were set, all images in [0, 1] were gated without a word."""
    images, labels = batch_of(12, size=size)
    nfa = NFAugment(checkpoint(), p=1.0, mean=mean, std=std)
    with pretended_gpu():
        unit, labels = (images / 255).to(device), labels.to(device)
        nfa(unit, labels)  # of one batch it is not known whether its images are only bright
        with pytest.warns(UserWarning, match="leave out mean= and std="):
            nfa(unit, labels)
        nfa(unit, labels)  # which does not warn again
    assert nfa.stats()["gated"] == 36


def test_normalized_images_are_no_reason_to_warn() -> None:
    """Break 122: the warning is about images in [0, 1] that are all gated."""
    images, labels = batch_of(12)
    normalized = (images / 255 - 0.5) / 0.25
    NFAugment(checkpoint(), p=1.0, mean=0.5, std=0.25, gate=0.0)(normalized, labels)
    NFAugment(checkpoint(), p=1.0, mean=0.0, std=1.0)(images / 255, labels)
    NFAugment(checkpoint(), p=1.0, mean=0.5, std=0.5, gate=0.0)(images, labels)


def test_an_nfaugment_needs_no_shared_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Break 119: with a full /dev/shm it ended in a raw RuntimeError, though no process starts."""

    def full(tensor: Tensor) -> Tensor:
        raise RuntimeError("unable to allocate shared memory")

    monkeypatch.setattr(Tensor, "share_memory_", full)
    nfa = NFAugment(checkpoint(), p=1.0, gate=None)
    nfa(IMAGES, LABELS)
    copy.deepcopy(nfa).enabled = False
    assert nfa.enabled
    assert nfa.stats()["seen"] == 6
